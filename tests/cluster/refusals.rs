//! What must not start, does not: one line that says what to do, a non-zero exit, no panic, and
//! nothing lost.

use anyhow::{Context as _, Result, ensure};
use rangedb_tests::child::{self, refused};
use rangedb_tests::in_process::copy_folder;
use rangedb_tests::logs::PEER_LOST;
use rangedb_tests::{Part, Processes, Shape, ports, wait};
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILES_LIMIT: Duration = Duration::from_secs(30);

const SERVERS: [&str; 3] = ["rangedb-placement", "rangedb-storage-node", "rangedb-gateway"];
const SMALL: Shape = Shape { placement: 1, nodes: 1, gateways: 1, node_settings: String::new() };

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

fn says(line: &str, wanted: &[&str]) -> Result<()> {
    for words in wanted {
        ensure!(line.contains(words), "`{words}` is not in: {line}");
    }
    Ok(())
}

/// A server with free ports and an empty folder, as far as it has one.
fn harmless(program: &str, folder: &Path) -> Result<Vec<String>> {
    let mut arguments = words(&["--listen", &ports::free_address()?]);
    arguments.extend(words(&["--http-listen", &ports::free_address()?]));
    if program != "rangedb-gateway" {
        let data_dir = folder.join(program).display().to_string();
        arguments.extend(words(&["--data-dir", &data_dir]));
    }
    Ok(arguments)
}

fn with(mut arguments: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    match arguments.iter().position(|known| known == flag) {
        Some(at) => value.clone_into(&mut arguments[at + 1]),
        None => arguments.extend(words(&[flag, value])),
    }
    arguments
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = folder.path().join("settings.toml");
    std::fs::write(&settings, "lisen = \"127.0.0.1:1\"\n")?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let missing = folder.path().join("missing.toml").display().to_string();
    for program in SERVERS {
        let good = harmless(program, folder.path())?;
        let unknown = with(good.clone(), "--config", &settings.display().to_string());
        says(&refused(program, &unknown).await?, &["lisen", "listen"])?;
        let missing = with(good.clone(), "--config", &missing);
        says(&refused(program, &missing).await?, &["missing.toml", "--config"])?;
        let nonsense = with(good.clone(), "--listen", "nowhere");
        says(&refused(program, &nonsense).await?, &["nowhere", "HOST:PORT", "--listen"])?;
        let port = with(good.clone(), "--http-listen", "127.0.0.1:99999");
        says(&refused(program, &port).await?, &["99999", "--http-listen"])?;
        let filter = with(good.clone(), "--log-filter", "rangedb=loud");
        says(&refused(program, &filter).await?, &["loud"])?;
        let held = with(good.clone(), "--listen", &taken);
        says(&refused(program, &held).await?, &["already in use", "--listen", &taken])?;
        if program == "rangedb-placement" {
            let peers = with(good, "--peers", "1=nowhere");
            says(&refused(program, &peers).await?, &["nowhere", "--peers"])?;
        } else {
            let placement = with(good, "--placement", "nowhere");
            says(&refused(program, &placement).await?, &["nowhere", "placement"])?;
        }
    }
    let node = harmless("rangedb-storage-node", folder.path())?;
    let engine = with(node.clone(), "--engine", "abacus");
    says(&refused("rangedb-storage-node", &engine).await?, &["abacus", "rocksdb"])?;
    let locality = with(node, "--locality", "planet=mars");
    says(&refused("rangedb-storage-node", &locality).await?, &["planet=mars", "zone"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_process_of_one_kind() -> Result<()> {
    let mut cluster = Processes::start(SMALL).await?;
    let client = cluster.client().await?;
    let version = client.put("k", "v").await?;
    for part in [&cluster.placement[0], &cluster.nodes[0]] {
        let second = elsewhere(part)?;
        let line = refused(program_of(part), &second).await?;
        says(&line, &["in use by another process", "--data-dir"])?;
    }
    cluster.nodes[0].stop().await?;
    let folder = cluster.nodes[0].data_dir.display().to_string();
    let arguments = with(harmless("rangedb-placement", cluster.folder())?, "--data-dir", &folder);
    let line = refused("rangedb-placement", &arguments).await?;
    says(&line, &["belongs to a storage-node", "--data-dir"])?;
    cluster.nodes[0].start()?;
    cluster.ready().await?;
    ensure!(client.get("k").await?.is_some_and(|found| found.version == version));
    cluster.finish(PEER_LOST).await
}

/// The same part on other ports.
fn elsewhere(part: &Part) -> Result<Vec<String>> {
    let arguments = with(part.arguments.clone(), "--listen", &ports::free_address()?);
    Ok(with(arguments, "--http-listen", &ports::free_address()?))
}

fn program_of(part: &Part) -> &'static str {
    if part.name().starts_with("placement") { SERVERS[0] } else { SERVERS[1] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_cluster_is_refused() -> Result<()> {
    let mut ours = Processes::start(SMALL).await?;
    let theirs = Processes::start(SMALL).await?;
    let client = ours.client().await?;
    let version = client.put("k", "v").await?;
    ours.nodes[0].stop().await?;
    let lost = elsewhere(&ours.nodes[0])?;
    let lost = with(lost, "--placement", &theirs.placement_addresses());
    let line = refused("rangedb-storage-node", &lost).await?;
    says(&line, &["cluster"])?;
    ours.nodes[0].start()?;
    ours.ready().await?;
    let found = client.get("k").await?.context("nothing was lost")?;
    ensure!(found.version == version);
    let allowed = [PEER_LOST, &["cluster"]].concat();
    theirs.finish(&allowed).await?;
    ours.finish(&allowed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_member_with_mistaken_peers_is_refused_and_the_others_go_on() -> Result<()> {
    let shape = Shape { placement: 3, ..SMALL };
    let mut cluster = Processes::start(shape).await?;
    let client = cluster.client().await?;
    let [one, two, three] = [0, 1, 2].map(|index| cluster.placement[index].grpc.clone());
    cluster.placement[2].stop().await?;
    let good = cluster.placement[2].arguments.clone();
    let swapped = with(good.clone(), "--peers", &format!("1={two},2={one},3={three}"));
    says(&refused(SERVERS[0], &swapped).await?, &["answers there", "correct --peers"])?;
    let left_out = with(good.clone(), "--peers", &format!("1={one},2={two}"));
    says(&refused(SERVERS[0], &left_out).await?, &["member 3", "add 3=HOST:PORT"])?;
    let other_id = with(good, "--id", "2");
    says(&refused(SERVERS[0], &other_id).await?, &["node 3, not to node 2", "folder"])?;
    let version = client.put("k", "v").await?;
    cluster.placement[2].start()?;
    cluster.ready().await?;
    ensure!(client.get("k").await?.is_some_and(|found| found.version == version));
    cluster.finish(PEER_LOST).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_refused() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555))?;
    for program in ["rangedb-placement", "rangedb-storage-node"] {
        let arguments = harmless(program, folder.path())?;
        let line = child::refused_as_nobody(program, &arguments).await?;
        says(&line, &["not writable", "--data-dir"])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_named_and_nothing_is_served_from_them() -> Result<()> {
    // A small write buffer, so that data goes to files.
    let node_settings = "write_buffer = \"1MiB\"\nwrite_buffer_total = \"4MiB\"\n".to_owned();
    let mut cluster = Processes::start(Shape { node_settings, ..SMALL }).await?;
    let client = cluster.client().await?;
    let pipeline = client.pipeline();
    let writes = (0..2000).map(|number| pipeline.put(format!("key/{number}"), vec![3; 4096]));
    futures::future::try_join_all(writes).await?;
    // The engine writes files behind the writes, and a stop does not wait for it.
    let folder = cluster.nodes[0].data_dir.clone();
    wait::until("data went to files", FILES_LIMIT, async || {
        ensure!(!files_of(&folder, ".sst")?.is_empty(), "no file yet");
        Ok(())
    })
    .await?;
    for part in cluster.parts() {
        part.stop().await?;
    }
    let node = &cluster.nodes[0];
    let placement = &cluster.placement[0];
    for (part, kind) in [
        (node, "raftlog"),
        (node, ".sst"),
        (node, "MANIFEST"),
        (placement, ".log"),
        (placement, "MANIFEST"),
    ] {
        let files = files_of(&part.data_dir, kind)?;
        ensure!(!files.is_empty(), "{} has no {kind} file", part.name());
        let saved = tempfile::tempdir()?;
        copy_folder(&part.data_dir, saved.path())?;
        for file in &files {
            damage(file)?;
        }
        let line = refused(program_of(part), &part.arguments).await;
        std::fs::remove_dir_all(&part.data_dir)?;
        copy_folder(saved.path(), &part.data_dir)?;
        let line = line.with_context(|| format!("{} with a damaged {kind}", part.name()))?;
        eprintln!("{kind}: {line}");
        ensure!(line.len() < 600, "too long for a line: {line}");
        ensure!(line.contains(&part.data_dir.display().to_string()), "which folder? {line}");
        ensure!(line.contains("backup") || line.contains("empty"), "what is to be done? {line}");
    }
    for part in cluster.parts() {
        part.start()?;
    }
    cluster.ready().await?;
    ensure!(client.get("key/1999").await?.is_some(), "nothing was lost by the refusals");
    cluster.finish(PEER_LOST).await
}

fn files_of(folder: &Path, kind: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_of(&path, kind)?);
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(kind)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Inverts every byte.
fn damage(file: &Path) -> Result<()> {
    let bytes: Vec<u8> = std::fs::read(file)?.into_iter().map(|byte| !byte).collect();
    Ok(std::fs::write(file, bytes)?)
}
