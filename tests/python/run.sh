#!/usr/bin/env bash
# Runs client.py against a database of its own. Needs python3 with venv, and a package index for the
# first run; ends with 77 (skipped) where the environment cannot be made, so that a machine without
# an index can tell that apart from a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
profile=${1:-debug}
venv=$target/python-test
skipped=77

skip() {
    echo "python-test: skipped: $*" >&2
    exit "$skipped"
}

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import grpc, grpc_tools' 2>/dev/null; then
    command -v python3 >/dev/null 2>&1 || skip "no python3 here"
    rm -rf "$venv"
    python3 -m venv "$venv" >/dev/null 2>&1 || skip "python3 has no venv (Debian: python3-venv)"
    timeout 300 "$venv/bin/pip" install --quiet --disable-pip-version-check \
        --requirement tests/python/requirements.txt >&2 || skip "grpcio could not be installed"
fi

folder=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap finish EXIT

"$target/$profile/rangedb-cli" dev --data-dir "$folder/data" --listen 127.0.0.1:0 \
    --http-listen 127.0.0.1:0 >"$folder/out" 2>"$folder/log" &
server=$!
address=
for _ in $(seq 300); do
    address=$(sed -n 's/^ready grpc=\([^ ]*\).*/\1/p' "$folder/out")
    [ -z "$address" ] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.2
done
if [ -z "$address" ]; then
    cat "$folder/log" >&2
    echo "python-test: the database did not get ready" >&2
    exit 1
fi
"$venv/bin/python" tests/python/client.py . "$address"
