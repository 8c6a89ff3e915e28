# RangeDB: everything a person or a machine does with this repository.
# `make help` lists the targets. CARGO_TARGET_DIR is respected; sccache is used where there is one.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
DATA_DIR ?= ./data
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)

# A compiler cache, only where it is installed and nothing else was chosen. Recursive on purpose:
# it is looked for when a recipe starts, thus after `setup` may have installed it.
ifeq ($(origin RUSTC_WRAPPER),undefined)
WITH_CACHE = $(if $(shell command -v sccache 2>/dev/null),env RUSTC_WRAPPER=sccache)
endif
RUN_CARGO = $(WITH_CACHE) $(CARGO)

.PHONY: help setup setup-test run demo test sim python-test verify fix bench cluster clean deny

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what a build needs and this machine lacks (Debian, Ubuntu)
	@deploy/setup.sh build

setup-test:
	@deploy/setup.sh test

run: setup ## Build and serve the whole database in one process, data in ./data
	$(RUN_CARGO) build --release --locked --package rangedb-cli
	@exec $(TARGET_DIR)/release/rangedb-cli dev --data-dir $(DATA_DIR)

cluster: setup ## Start 3 placement, 3 storage-node and 2 gateway processes on loopback
	@exec $(WITH_CACHE) deploy/cluster.sh

demo: setup ## Import a real data set into a cluster while a node is killed, and check every byte
	@exec $(WITH_CACHE) deploy/demo.sh

bench: setup ## Measure speed, beside a peer where one is installed
	@exec $(WITH_CACHE) deploy/bench.sh

# `verify` and `test` share the dev profile, the flags and the whole workspace's features, so that
# every dependency, RocksDB above all, is compiled once. That is why tidy is not run by --package.
verify: setup ## Check format, lints and the house rules
	$(RUN_CARGO) fmt --all --check
	$(RUN_CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(RUN_CARGO) test --workspace --locked --test tidy

test: setup-test ## Run every test
	@# Plain binaries too: tests start them as processes. All targets, for the same set of features.
	$(RUN_CARGO) build --workspace --all-targets --locked
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo "$(CARGO) nextest run --workspace --locked"; \
		$(RUN_CARGO) nextest run --workspace --locked; \
	else \
		echo "cargo-nextest is not here: $(CARGO) test --workspace --locked"; \
		$(RUN_CARGO) test --workspace --locked --lib --bins --tests; \
	fi
	@# Examples in comments are rare and cost a link each, so they run only where there are any.
	@if git grep -qE '^ *//[/!] ```(rust)?$$' -- '*.rs'; then \
		echo "$(CARGO) test --workspace --locked --doc"; \
		$(RUN_CARGO) test --workspace --locked --doc; \
	fi

# Not a part of `test`, which must not need a package index. Where the Python side cannot be installed
# it is skipped with a word (code 77).
sim: setup ## Simulate replicas and the planner on a thousand seeds, and a hundred thousand ranges
	RANGEDB_SIM_SEEDS=$${RANGEDB_SIM_SEEDS:-1000} RANGEDB_SIM_RANGES=100000 $(RUN_CARGO) test --locked --release \
		-p rangedb-planner --test simulation -- --nocapture
	RANGEDB_SIM_SEEDS=$${RANGEDB_SIM_SEEDS:-1000} $(RUN_CARGO) test --locked --release \
		-p rangedb-storage-node --lib replica::sim

python-test: setup ## Put, get and range from Python, with grpcio and the .proto files alone
	$(RUN_CARGO) build --workspace --all-targets --locked
	@CARGO_TARGET_DIR=$(TARGET_DIR) tests/python/run.sh debug || [ $$? -eq 77 ]

fix: setup ## Format, and apply what the linter can mend by itself
	$(RUN_CARGO) fmt --all
	$(RUN_CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(RUN_CARGO) fmt --all

deny: ## Check licences, bans and sources of all dependencies
	@$(CARGO) deny --version >/dev/null 2>&1 || $(RUN_CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check licenses bans sources

clean: ## Remove build output; data is left alone
	$(CARGO) clean
