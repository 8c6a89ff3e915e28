//! The program's commands for many keys, old versions and transactions, and the SDK's examples, as a person runs them.

use anyhow::{Context as _, Result, ensure};
use rangedb_tests::InProcess;
use rangedb_tests::child::{Ended, run_with_state};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

/// A person at a terminal.
struct Terminal<'a> {
    endpoints: String,
    home: &'a Path,
}

impl Terminal<'_> {
    async fn run(&self, words: &[&str]) -> Result<Ended> {
        let options = ["--endpoints", &self.endpoints];
        let arguments: Vec<String> =
            options.iter().chain(words).map(|word| (*word).to_owned()).collect();
        run_with_state("rangedb-cli", &arguments, self.home, LIMIT).await
    }

    /// What it prints, if it ends well.
    async fn prints(&self, words: &[&str]) -> Result<String> {
        let ended = self.run(words).await?;
        ensure!(ended.code == Some(0), "{words:?}: {ended:?}");
        Ok(ended.stdout.trim_end().to_owned())
    }

    async fn fails(&self, words: &[&str], code: i32, why: &str) -> Result<()> {
        let ended = self.run(words).await?;
        ensure!(ended.code == Some(code) && ended.stderr.contains(why), "{words:?}: {ended:?}");
        ensure!(ended.stdout.is_empty(), "{words:?}: {ended:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_old_versions_at_the_terminal() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let home = tempfile::tempdir()?;
    let terminal = Terminal { endpoints: cluster.endpoints().join(","), home: home.path() };
    let first = terminal.prints(&["batch", "put", "a", "1", "z", "1"]).await?;
    let file = home.path().join("writes");
    let lines = r#"{"op":"put","key":"a","value":"2"}
{"op":"delete","key":"z"}
{"op":"put","key_base64":"/w==","value_base64":"/g=="}
"#;
    std::fs::write(&file, lines)?;
    let path = file.to_str().context("a path of ours")?;
    let second = terminal.prints(&["batch", "apply", path]).await?;
    ensure!(first.parse::<u64>()? < second.parse::<u64>()?, "{first}, then {second}");
    for key in [&b"a"[..], b"\xff"] {
        let found = client.get(key.to_vec()).await?.context("written")?;
        ensure!(found.version.0.to_string() == second, "{found:?}, not of {second}");
    }
    ensure!(terminal.prints(&["get", "a"]).await? == "2");
    ensure!(terminal.prints(&["get", "a", "--at", &first]).await? == "1");
    ensure!(terminal.prints(&["get", "z", "--at", &first]).await? == "1");
    terminal.fails(&["get", "z"], 1, "does not exist").await?;
    ensure!(terminal.prints(&["get", "a", "--follower"]).await? == "2");
    // As it was at some time of the last minute.
    let old = terminal.run(&["get", "a", "--max-age", "1m"]).await?;
    ensure!(
        matches!((old.code, &old.stdout[..]), (Some(1), "") | (Some(0), "1\n" | "2\n")),
        "{old:?}"
    );
    // Nothing of what is wrong anywhere is done.
    std::fs::write(&file, format!("{lines}{{\"op\":\"put\",\"key\":\"b\"}}\n"))?;
    terminal.fails(&["batch", "apply", path], 2, "line 4").await?;
    terminal.fails(&["batch", "put", "b", "1", "c"], 2, "").await?;
    terminal.fails(&["batch", "put", "b", "1", "b", "2"], 2, "b").await?;
    ensure!(client.get("b").await?.is_none(), "it was written");
    terminal.prints(&["batch", "delete", "a", "z"]).await?;
    ensure!(client.get("a").await?.is_none(), "it is still there");
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_at_the_terminal() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let home = tempfile::tempdir()?;
    let terminal = Terminal { endpoints: cluster.endpoints().join(","), home: home.path() };
    client.put("a", "1").await?;
    let first = terminal.prints(&["txn", "begin", "--isolation", "serializable"]).await?;
    let second = terminal.prints(&["txn", "begin"]).await?;
    ensure!(terminal.prints(&["txn", "get", "a", "--id", &first]).await? == "1");
    terminal.prints(&["txn", "put", "z", "first", "--id", &first]).await?;
    terminal.prints(&["txn", "put", "z", "second", "--id", &second]).await?;
    ensure!(terminal.prints(&["txn", "range", "", ""]).await? == "a\t1\nz\tsecond");
    // What the first has read is not so any more.
    client.put("a", "2").await?;
    terminal.fails(&["txn", "commit", "--id", &first], 1, "").await?;
    terminal.prints(&["txn", "rollback", "--id", &second]).await?;
    terminal.fails(&["txn", "commit", "--id", &second], 2, "txn begin").await?;
    ensure!(client.get("z").await?.is_none(), "neither was committed");
    let held = terminal.prints(&["txn", "begin", "--pessimistic"]).await?;
    terminal.prints(&["txn", "delete", "a", "--id", &held]).await?;
    terminal.prints(&["txn", "rollback"]).await?;
    // It holds nothing any more.
    terminal.prints(&["--timeout", "3s", "put", "a", "3"]).await?;
    cluster.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_they_say() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let home = tempfile::tempdir()?;
    let endpoint = cluster.endpoints().first().context("there is a gateway")?.clone();
    let run = async |example: &str, words: &[&str]| -> Result<Ended> {
        let words = std::iter::once(&endpoint[..]).chain(words.iter().copied());
        let arguments: Vec<String> = words.map(str::to_owned).collect();
        run_with_state(&format!("examples/{example}"), &arguments, home.path(), LIMIT).await
    };
    for amount in ["10", "20"] {
        let moved = run("bank", &["alice", "bob", amount]).await?;
        ensure!(moved.code == Some(0), "{moved:?}");
    }
    let refused = run("bank", &["alice", "bob", "1000"]).await?;
    ensure!(refused.stdout.contains("alice has only 70"), "{refused:?}");
    for (who, balance) in [("alice", "70"), ("bob", "130")] {
        let found = client.get(format!("balance/{who}")).await?.context("moved")?;
        ensure!(found.value == balance, "{who}: {found:?}");
    }
    for job in ["sweep", "mop"] {
        let added = run("jobs", &["add", job]).await?;
        ensure!(added.code == Some(0), "{added:?}");
    }
    let (one, other) = tokio::join!(run("jobs", &["work"]), run("jobs", &["work"]));
    let said = format!("{}{}", one?.stdout, other?.stdout);
    for job in ["sweep", "mop"] {
        ensure!(said.matches(&format!("doing: {job}")).count() == 1, "{said}");
    }
    cluster.finish(&[]).await
}
