//! Who may know whom. Owns: the directions that must never be, for crates (by manifest) and for
//! modules (by the paths their code names). Must not know: why beyond one line each; the long form
//! is in docs/architecture.md.

use super::{Finding, has_word};
use crate::repository::Text;
use crate::source::Source;

/// A crate that must not depend on others.
struct CrateBorder {
    folder: &'static str,
    forbidden: &'static [&'static str],
    why: &'static str,
}

/// Code that must not name some things. Tests are free.
struct ModuleBorder {
    /// A folder, or a module's file without `.rs`.
    places: &'static [&'static str],
    /// The drivers among them, which do the I/O for the rest.
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const CRATES: [CrateBorder; 8] = [
    CrateBorder {
        folder: "common/types",
        forbidden: &["tokio", "tonic", "rocksdb", "raft", "openraft", "rangedb-proto", "prost"],
        why: "the shared words know no runtime, wire or storage",
    },
    CrateBorder {
        folder: "storage-node/engine",
        forbidden: &["raft", "raft-engine", "openraft", "rangedb-proto", "tokio", "tonic", "prost"],
        why: "an engine knows no Raft, no wire and no runtime",
    },
    CrateBorder {
        folder: "storage-node/mvcc",
        forbidden: &["raft", "raft-engine", "rocksdb", "tokio", "tonic", "rangedb-proto", "rand"],
        why: "the versioned store is pure",
    },
    CrateBorder {
        folder: "placement/planner",
        forbidden: &["openraft", "rocksdb", "tokio", "tonic", "rangedb-proto", "rand"],
        why: "the planner is pure",
    },
    CrateBorder {
        folder: "placement",
        forbidden: &["rangedb-storage-node", "rangedb-gateway", "rangedb-engine", "rangedb-mvcc"],
        why: "servers meet only through the wire",
    },
    CrateBorder {
        folder: "storage-node",
        forbidden: &["rangedb-placement", "rangedb-planner", "rangedb-gateway"],
        why: "servers meet only through the wire",
    },
    CrateBorder {
        folder: "gateway",
        forbidden: &["rangedb-placement", "rangedb-storage-node", "rangedb-engine", "rangedb-mvcc"],
        why: "servers meet only through the wire",
    },
    CrateBorder {
        folder: "client",
        forbidden: &["rangedb-service", "rangedb-engine", "rangedb-mvcc", "rocksdb", "raft"],
        why: "the SDK talks to gateways and knows nothing of servers",
    },
];

/// Clocks, chance, disk, network: what a pure module gets as an argument or not at all.
const IMPURE: [&str; 17] = [
    "Instant",
    "SystemTime",
    "SystemClock",
    "MonotonicClock",
    "SystemRandom",
    "rand::rng",
    "rand::random",
    "rand::thread_rng",
    "std::fs",
    "std::net",
    "std::env",
    "File::open",
    "std::thread",
    "tokio",
    "tonic",
    "rocksdb",
    "rangedb_proto",
];

const MODULES: [ModuleBorder; 4] = [
    ModuleBorder {
        places: &["storage-node/engine/src"],
        except: &[],
        forbidden: &["raft", "openraft", "rangedb_proto", "tokio", "tonic"],
        why: "an engine knows no Raft, no wire and no runtime",
    },
    ModuleBorder {
        places: &[
            "storage-node/mvcc/src",
            "placement/planner/src",
            "placement/src/state",
            "placement/src/tso",
        ],
        except: &["placement/src/tso/service"],
        forbidden: &IMPURE,
        why: "pure: no I/O, clock or chance; take them as arguments",
    },
    ModuleBorder {
        places: &["storage-node/src/replica"],
        except: &[],
        forbidden: &["tonic", "axum", "SystemTime"],
        why: "the replica core knows no network and no wall clock",
    },
    ModuleBorder {
        places: &["common/types/src"],
        except: &[],
        forbidden: &["tokio", "tonic", "rocksdb", "raft", "rangedb_proto"],
        why: "the shared words know no runtime, wire or storage",
    },
];

pub fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let module = source.path.trim_end_matches(".rs");
    let applies = |place: &&str| {
        module == *place || module.strip_prefix(*place).is_some_and(|rest| rest.starts_with('/'))
    };
    let bound = |border: &&ModuleBorder| {
        border.places.iter().any(applies) && !border.except.iter().any(applies)
    };
    for border in MODULES.iter().filter(bound) {
        for (line, code) in source.code_lines() {
            let named = border.forbidden.iter().find(|name| has_word(code, name));
            if let Some(name) = named.filter(|_| !source.is_test(line)) {
                let what = format!("{name} must not be known here: {}", border.why);
                findings.push(Finding::new(&source.path, line, what));
            }
        }
    }
    findings
}

pub fn check_manifest(manifest: &Text) -> Vec<Finding> {
    let Some(folder) = manifest.path.strip_suffix("/Cargo.toml") else { return Vec::new() };
    let mut findings = Vec::new();
    let mut inside = false;
    for (index, line) in manifest.content.lines().enumerate() {
        if line.starts_with('[') {
            // Tests may use what the crate must not know.
            inside = matches!(line.trim(), "[dependencies]" | "[build-dependencies]");
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        for border in CRATES.iter().filter(|border| inside && border.folder == folder) {
            if border.forbidden.contains(&name) {
                let what = format!("{name} must not be known here: {}", border.why);
                findings.push(Finding::new(&manifest.path, index + 1, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_source(path: &str, text: &str) -> usize {
        check_source(&Source::new(path, text)).len()
    }

    #[test]
    fn impure_code_in_a_pure_module_is_found() {
        for code in [
            "use std::time::Instant;",
            "let now = SystemTime::now();",
            "let mut rng = rand::rng();",
            "use std::fs::File;",
            "use tokio::sync::Mutex;",
            "use tonic::Status;",
        ] {
            for path in [
                "placement/src/state/mod.rs",
                "placement/src/state.rs",
                "placement/src/tso/window.rs",
                "placement/planner/src/lib.rs",
                "storage-node/mvcc/src/read.rs",
            ] {
                assert_eq!(in_source(path, code), 1, "{path}: {code}");
            }
            assert_eq!(in_source("placement/src/tso/service.rs", code), 0, "{code}");
            assert_eq!(in_source("placement/src/server.rs", code), 0, "{code}");
            assert_eq!(in_source("placement/src/statement.rs", code), 0, "{code}");
        }
    }

    #[test]
    fn raft_and_wire_in_the_engine_and_the_network_in_a_replica_are_found() {
        assert_eq!(in_source("storage-node/engine/src/lib.rs", "use raft::Config;"), 1);
        assert_eq!(in_source("storage-node/engine/src/lib.rs", "use rangedb_proto::x;"), 1);
        assert_eq!(in_source("storage-node/engine/src/lib.rs", "// after raft\nlet draft = 1;"), 0);
        assert_eq!(in_source("storage-node/src/replica/core.rs", "use tonic::Status;"), 1);
        assert_eq!(in_source("storage-node/src/service/mod.rs", "use tonic::Status;"), 0);
    }

    #[test]
    fn tests_of_a_pure_module_are_free() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert_eq!(in_source("placement/src/state/mod.rs", text), 0);
    }

    fn in_manifest(path: &str, dependency: &str) -> usize {
        let content = format!("[dependencies]\n{dependency}.workspace = true\n");
        check_manifest(&Text { path: path.to_owned(), content }).len()
    }

    #[test]
    fn a_dependency_across_a_border_is_found() {
        assert_eq!(in_manifest("gateway/Cargo.toml", "rangedb-storage-node"), 1);
        assert_eq!(in_manifest("storage-node/engine/Cargo.toml", "tokio"), 1);
        assert_eq!(in_manifest("storage-node/Cargo.toml", "tokio"), 0);
        assert_eq!(in_manifest("storage-node/Cargo.toml", "rangedb-placement-client"), 0);
        assert_eq!(in_manifest("cli/Cargo.toml", "rangedb-gateway"), 0);
        let content = "[dev-dependencies]\ntokio.workspace = true\n".to_owned();
        let text = Text { path: "storage-node/mvcc/Cargo.toml".to_owned(), content };
        assert!(check_manifest(&text).is_empty());
    }
}
