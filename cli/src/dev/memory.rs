//! What `dev` remembers in its data folder.
//!
//! Owns: the folder's lock and the ports of the parts that only talk to each other. Must not know:
//! what the parts keep in their own folders. Invariant: a port in use is never handed out twice,
//! and the ports written down are those of the last start.

use crate::exit::Failure;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Ports are taken from below those that the kernel gives to outgoing connections, so that they are
/// most likely free again after a restart.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
const PORT_ATTEMPTS_MAX: u32 = 1000;
const LOCK_FILE: &str = "dev.lock";
const MEMORY_FILE: &str = "dev.json";

/// Where one part listens, on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    pub grpc: u16,
    pub http: u16,
}

/// Where the parts listen that nobody outside talks to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    pub placement: Ports,
    pub nodes: Vec<Ports>,
}

/// A data folder that belongs to this process.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the folder if need be, and takes it.
    ///
    /// # Errors
    /// It cannot be written, or another process has it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let refused = |error: std::io::Error| {
            Failure::other(format!(
                "data folder {shown} cannot be used: {error}; give another with --data-dir"
            ))
        };
        std::fs::create_dir_all(path).map_err(refused)?;
        let lock = File::create(path.join(LOCK_FILE)).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::other(format!(
                "data folder {shown} is in use by another process; stop that one or give another \
                 with --data-dir"
            ))),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        }
    }

    /// The ports for this start: the remembered ones, where they are free; written down again.
    ///
    /// # Errors
    /// Fewer nodes than the folder has data of, a damaged memory, or no free port.
    pub fn addresses(&mut self, nodes: Option<u32>) -> Result<Addresses, Failure> {
        let before = self.load()?;
        let kept = before.as_ref().map_or(0, |before| before.nodes.len());
        let wanted = nodes.map_or(kept.max(1), |nodes| nodes as usize);
        if wanted < kept {
            return Err(Failure::usage(format!(
                "data folder {} has {kept} storage nodes; give --nodes {kept} or leave it out",
                self.path.display()
            )));
        }
        let mut taken = HashSet::new();
        let placement = choose(before.as_ref().map(|before| before.placement), &mut taken)?;
        let remembered = before.iter().flat_map(|before| before.nodes.iter().copied().map(Some));
        let nodes = remembered
            .chain(std::iter::repeat(None))
            .take(wanted)
            .map(|ports| choose(ports, &mut taken))
            .collect::<Result<_, _>>()?;
        let addresses = Addresses { placement, nodes };
        self.save(&addresses)?;
        Ok(addresses)
    }

    fn load(&self) -> Result<Option<Addresses>, Failure> {
        let path = self.path.join(MEMORY_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(&path, &error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| damaged(&path, &error))
    }

    fn save(&self, addresses: &Addresses) -> Result<(), Failure> {
        let path = self.path.join(MEMORY_FILE);
        let new = self.path.join(format!("{MEMORY_FILE}.new"));
        let write = || {
            let file = File::create(&new)?;
            serde_json::to_writer_pretty(&file, addresses)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(|error: std::io::Error| {
            Failure::other(format!("cannot write {}: {error}", path.display()))
        })
    }
}

fn damaged(path: &Path, error: &dyn std::error::Error) -> Failure {
    let path = path.display();
    Failure::other(format!("{path} cannot be read: {error}; mend it or give another --data-dir"))
}

fn choose(remembered: Option<Ports>, taken: &mut HashSet<u16>) -> Result<Ports, Failure> {
    let remembered = remembered.map_or([None; 2], |ports| [Some(ports.grpc), Some(ports.http)]);
    let [grpc, http] = remembered.map(|port| choose_port(port, taken));
    Ok(Ports { grpc: grpc?, http: http? })
}

fn choose_port(remembered: Option<u16>, taken: &mut HashSet<u16>) -> Result<u16, Failure> {
    let random = (0..PORT_ATTEMPTS_MAX).map(|_| rand::rng().random_range(PORTS));
    let port = remembered
        .into_iter()
        .chain(random)
        .find(|port| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .ok_or_else(|| Failure::other("no free port on 127.0.0.1 between 20000 and 30000"))?;
    taken.insert(port);
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn ports_are_remembered_and_nodes_are_added() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = Folder::open(&path).unwrap().addresses(None).unwrap();
        assert_eq!(first.nodes.len(), 1);
        let mut folder = Folder::open(&path).unwrap();
        assert_eq!(folder.addresses(None).unwrap(), first);
        let more = folder.addresses(Some(3)).unwrap();
        assert_eq!((more.placement, more.nodes[0]), (first.placement, first.nodes[0]));
        assert_eq!(folder.addresses(None).unwrap().nodes.len(), 3);
        assert_eq!(folder.addresses(Some(2)).unwrap_err().exit, Exit::Usage);
        let ports = more.nodes.iter().chain([&more.placement]);
        let distinct: HashSet<_> = ports.flat_map(|ports| [ports.grpc, ports.http]).collect();
        assert_eq!(distinct.len(), 8);
    }

    #[test]
    fn a_port_that_is_taken_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let mut folder = Folder::open(parent.path()).unwrap();
        let first = folder.addresses(None).unwrap();
        let _other = TcpListener::bind(("127.0.0.1", first.nodes[0].grpc)).unwrap();
        let second = folder.addresses(None).unwrap();
        assert_ne!(second.nodes[0].grpc, first.nodes[0].grpc);
        assert_eq!(second.placement, first.placement);
    }

    #[test]
    fn a_folder_has_one_owner() {
        let parent = tempfile::tempdir().unwrap();
        let _owner = Folder::open(parent.path()).unwrap();
        let Err(refused) = Folder::open(parent.path()) else { panic!("it is taken") };
        assert!(refused.message.contains("--data-dir"), "{refused}");
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Folder::open(&file).is_err());
    }
}
