//! Conditions on several keys, with a then and an else.

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use rangedb_client::proto::conditional_operation::Operation;
use rangedb_client::proto::key_condition::{Absent, Must};
use rangedb_client::proto::transaction_write::Want;
use rangedb_client::proto::{
    ConditionalOperation, ConditionalRequest, KeyCondition, TransactionWrite,
};
use rangedb_client::{Client, Conditional, Operations};
use rangedb_tests::{InProcess, rounds};

const CLIENTS: usize = 12;
const STEPS: usize = 5;

fn put(key: &str, value: &str) -> ConditionalOperation {
    let want = Some(Want::Put(value.to_owned().into()));
    let write = TransactionWrite { key: key.to_owned().into(), want };
    ConditionalOperation { operation: Some(Operation::Write(write)) }
}

fn get(key: &str) -> ConditionalOperation {
    ConditionalOperation { operation: Some(Operation::Get(key.to_owned().into())) }
}

fn when(key: &str, must: Must) -> KeyCondition {
    KeyCondition { key: key.to_owned().into(), must: Some(must) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_lists_is_done_in_one_call() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    let old = client.put("a", "1").await?;
    let request = ConditionalRequest {
        conditions: vec![when("a", Must::VersionIs(old.0)), when("z", Must::Absent(Absent {}))],
        then: vec![put("a", "2"), put("z", "2"), get("a")],
        otherwise: vec![get("z"), put("refused", "yes")],
    };
    let mut rpc = client.key_value();
    let done = rpc.conditional(request.clone()).await?.into_inner();
    ensure!(done.held && done.version > old.0, "{done:?}");
    ensure!(&done.values[0].value[..] == b"1", "a get sees what was there before: {done:?}");
    for key in ["a", "z"] {
        let found = client.get(key).await?.context("it was written")?;
        ensure!(found.version.0 == done.version && &found.value[..] == b"2", "{key}: {found:?}");
    }
    let again = rpc.conditional(request).await?.into_inner();
    ensure!(!again.held && &again.values[0].value[..] == b"2", "{again:?}");
    ensure!(again.current[0].version == done.version && again.current[1].found, "{again:?}");
    let refused = client.get("refused").await?.context("the else was done")?;
    ensure!(refused.version.0 == again.version, "{refused:?}");
    cluster.finish(&[]).await
}

/// Everybody moves one on from one key to the other, if both are as they were seen.
async fn steps(client: Client, over_grpc: bool) -> Result<()> {
    let mut done = 0;
    while done < STEPS {
        let seen = client.batch_get(["a", "z"]).await?;
        let values: Vec<String> = seen
            .iter()
            .map(|it| it.as_ref().map_or("0".into(), |v| String::from_utf8_lossy(&v.value).into()))
            .collect();
        let (a, z): (i64, i64) = (values[0].parse()?, values[1].parse()?);
        let (next_a, next_z) = ((a - 1).to_string(), (z + 1).to_string());
        let held = if over_grpc {
            let is = |at: usize| Must::ValueIs(values[at].clone().into());
            let request = ConditionalRequest {
                conditions: vec![when("a", is(0)), when("z", is(1))],
                then: vec![put("a", &next_a), put("z", &next_z)],
                otherwise: Vec::new(),
            };
            client.key_value().conditional(request).await?.into_inner().held
        } else {
            let moved = Conditional::new()
                .value_is("a", values[0].clone())
                .value_is("z", values[1].clone())
                .then(Operations::new().put("a", next_a).put("z", next_z));
            client.conditional(moved).await?.held
        };
        done += usize::from(held);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_over_two_ranges_lose_no_step() -> Result<()> {
    let (cluster, client) = InProcess::cut_at(2, &["m"]).await?;
    client.put("a", "0").await?;
    client.put("z", "0").await?;
    let clients = rounds(CLIENTS);
    let all = (0..clients).map(|number| steps(client.clone(), number % 2 == 0));
    for ended in join_all(all).await {
        ended?;
    }
    let total = i64::try_from(clients * STEPS)?;
    let ends = client.batch_get(["a", "z"]).await?;
    let ends: Vec<_> = ends.iter().flatten().map(|it| it.value.clone()).collect();
    let expected = [(-total).to_string(), total.to_string()];
    ensure!(ends == expected, "{ends:?} of {expected:?}");
    cluster.finish(&[]).await
}
