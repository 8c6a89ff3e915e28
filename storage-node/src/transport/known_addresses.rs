//! The last known addresses of the other nodes, on disk: a node that starts while placement is away
//! finds its peers by them.
//!
//! Owns: the file and writing it so that a crash cannot damage it. Must not know: who changes the
//! addresses. Invariant: nothing depends on the file; what cannot be read is as if it were absent,
//! and placement's next word replaces it.

use super::AddressBook;
use rangedb_types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const FILE: &str = "ADDRESSES";
/// The next file while it is being written; a leftover of a crash means nothing.
const FILE_NEXT: &str = "ADDRESSES.next";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Known {
    format: u32,
    nodes: BTreeMap<u64, String>,
}

/// The addresses in the data folder; none if there are none that can be read.
pub fn load(folder: &Path) -> HashMap<NodeId, String> {
    match read(folder) {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the known addresses of other nodes cannot be read; placement will tell them");
            HashMap::new()
        }
    }
}

/// Writes every change of the book from now on to the data folder, until it is stopped.
pub fn keep(
    book: &AddressBook,
    folder: PathBuf,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    follow(book.subscribe(), folder, stop)
}

async fn follow(
    mut changes: watch::Receiver<HashMap<NodeId, String>>,
    folder: PathBuf,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        let nodes = changes.borrow_and_update().clone();
        let folder = folder.clone();
        let written = tokio::task::spawn_blocking(move || write(&folder, &nodes)).await;
        if let Err(error) = written.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            tracing::warn!(%error, "the addresses of other nodes cannot be kept on disk");
        }
    }
}

fn read(folder: &Path) -> io::Result<HashMap<NodeId, String>> {
    let bytes = match std::fs::read(folder.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(error),
    };
    let known: Known = serde_json::from_slice(&bytes)?;
    if known.format != FORMAT {
        return Err(io::Error::other(format!("format {} is not known", known.format)));
    }
    Ok(known.nodes.into_iter().map(|(id, address)| (NodeId(id), address)).collect())
}

/// Next file, sync, rename, sync of the folder.
fn write(folder: &Path, nodes: &HashMap<NodeId, String>) -> io::Result<()> {
    let nodes = nodes.iter().map(|(id, address)| (id.get(), address.clone())).collect();
    let mut text = serde_json::to_vec_pretty(&Known { format: FORMAT, nodes })?;
    text.push(b'\n');
    let next = folder.join(FILE_NEXT);
    let mut file = File::create(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    std::fs::rename(&next, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_as_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(load(folder.path()).is_empty());
        let nodes = HashMap::from([(NodeId(2), "h:1".to_owned()), (NodeId(3), "h:2".to_owned())]);
        write(folder.path(), &nodes).expect("writes");
        assert_eq!(load(folder.path()), nodes);
        std::fs::write(folder.path().join(FILE), "{\"format\": 2, \"nodes\": {}}").expect("writes");
        assert!(load(folder.path()).is_empty());
        std::fs::write(folder.path().join(FILE), "{").expect("writes");
        assert!(load(folder.path()).is_empty());
    }
}
