//! Every way a data folder can be refused, and that an accepted one keeps its identity.

use super::*;

const KIND: &str = "storage-node";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn refused(result: Result<DataDir, DataDirError>) -> String {
    let line = result.unwrap_err().to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

#[test]
fn a_missing_folder_is_made() {
    let parent = folder();
    let path = parent.path().join("a/b");
    let dir = DataDir::open(&path, KIND, 1).unwrap();
    assert_eq!(dir.path(), path);
    assert_ne!(dir.store_id(), 0);
    assert_eq!(dir.cluster_id(), None);
    assert_eq!(dir.node_id(), None);
}

#[test]
fn identity_survives_a_restart() {
    let path = folder();
    let (store, cluster, node) = (
        {
            let dir = DataDir::open(&path, KIND, 1).unwrap();
            dir.set_cluster_id(ClusterId(7)).unwrap();
            dir.set_node_id(NodeId(3)).unwrap();
            dir.store_id()
        },
        Some(ClusterId(7)),
        Some(NodeId(3)),
    );
    let dir = DataDir::open(&path, KIND, 1).unwrap();
    assert_eq!((dir.store_id(), dir.cluster_id(), dir.node_id()), (store, cluster, node));
}

#[test]
fn two_owners_of_one_folder_are_refused_until_the_first_leaves() {
    let path = folder();
    let first = DataDir::open(&path, KIND, 1).unwrap();
    let line = refused(DataDir::open(&path, KIND, 1));
    assert!(line.contains("in use") && line.contains("--data-dir"), "{line}");
    drop(first);
    DataDir::open(&path, KIND, 1).unwrap();
}

#[test]
fn a_folder_of_another_kind_is_refused() {
    let path = folder();
    drop(DataDir::open(&path, "placement", 1).unwrap());
    let line = refused(DataDir::open(&path, KIND, 1));
    assert!(line.contains("belongs to a placement, not to a storage-node"), "{line}");
}

#[test]
fn a_newer_format_is_refused_even_if_the_rest_is_unreadable() {
    let path = folder();
    let newer = r#"{"kind":"storage-node","format_version":9,"store":{"new":"shape"}}"#;
    std::fs::write(path.path().join(IDENTITY_FILE), newer).unwrap();
    let line = refused(DataDir::open(&path, KIND, 1));
    assert!(line.contains("format 9") && line.contains("newer RangeDB"), "{line}");
}

#[test]
fn an_older_format_is_accepted_and_told() {
    let path = folder();
    drop(DataDir::open(&path, KIND, 1).unwrap());
    assert_eq!(DataDir::open(&path, KIND, 2).unwrap().format_version(), 1);
}

#[test]
fn a_folder_of_another_cluster_or_node_is_refused() {
    let path = folder();
    let dir = DataDir::open(&path, KIND, 1).unwrap();
    dir.set_cluster_id(ClusterId(7)).unwrap();
    dir.set_cluster_id(ClusterId(7)).unwrap();
    let line = dir.set_cluster_id(ClusterId(8)).unwrap_err().to_string();
    assert!(line.contains("belongs to cluster"), "{line}");
    dir.set_node_id(NodeId(3)).unwrap();
    assert!(matches!(dir.set_node_id(NodeId(4)), Err(DataDirError::OtherNode { .. })));
    assert_eq!((dir.cluster_id(), dir.node_id()), (Some(ClusterId(7)), Some(NodeId(3))));
}

#[test]
fn somebody_elses_files_are_left_alone() {
    let path = folder();
    std::fs::write(path.path().join("thesis.txt"), "mine").unwrap();
    let line = refused(DataDir::open(&path, KIND, 1));
    assert!(line.contains("not RangeDB's"), "{line}");
    assert!(!path.path().join(LOCK_FILE).exists());
}

#[test]
fn a_first_start_that_was_cut_short_can_be_repeated() {
    let path = folder();
    std::fs::write(path.path().join(LOCK_FILE), "").unwrap();
    std::fs::write(path.path().join("RANGEDB.next"), "{\"ki").unwrap();
    DataDir::open(&path, KIND, 1).unwrap();
}

#[test]
fn a_damaged_identity_is_refused() {
    for content in ["", "{\"kind\":", r#"{"kind":"storage-node","format_version":1}"#] {
        let path = folder();
        std::fs::write(path.path().join(IDENTITY_FILE), content).unwrap();
        let line = refused(DataDir::open(&path, KIND, 1));
        assert!(line.contains("damaged"), "{line}");
    }
}

#[test]
fn a_file_in_place_of_the_folder_is_refused() {
    let parent = folder();
    let path = parent.path().join("file");
    std::fs::write(&path, "").unwrap();
    let line = refused(DataDir::open(&path, KIND, 1));
    assert!(line.contains("not a folder"), "{line}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    use std::io::{Error, ErrorKind};
    let path = Path::new("/data");
    for (kind, words) in [
        (ErrorKind::ReadOnlyFilesystem, "not writable"),
        (ErrorKind::PermissionDenied, "not writable"),
        (ErrorKind::StorageFull, "no space left"),
    ] {
        let line = DataDirError::from_io(path, Error::from(kind)).to_string();
        assert!(line.contains(words) && line.contains("/data"), "{line}");
    }
}

#[test]
fn a_read_only_folder_is_refused_before_anything_is_served() {
    use std::os::unix::fs::PermissionsExt;
    let path = folder();
    drop(DataDir::open(&path, KIND, 1).unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
    let result = DataDir::open(&path, KIND, 1);
    let may_write_anyway = std::fs::write(path.path().join("probe"), "").is_ok();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    // The superuser may write everywhere; the mapping of errors is tested above.
    if !may_write_anyway {
        assert!(refused(result).contains("not writable"));
    }
}
