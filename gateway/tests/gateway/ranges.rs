//! Reads over several ranges.

use crate::fake::{Fake, client};
use futures::TryStreamExt as _;
use rangedb_client::{Client, RangeQuery};
use rangedb_proto::internal::v1::data_request::Operation;
use rangedb_service::Bytes;

async fn filled(fake: &Fake, server: &rangedb_gateway::Server) -> Client {
    let client = client(server).await;
    for number in 0..60 {
        client.put(format!("key/{number:02}"), format!("value {number}")).await.unwrap();
    }
    fake.store.split(&["key/20", "key/40"]);
    client
}

async fn keys(client: &Client, query: RangeQuery) -> Vec<String> {
    let entries: Vec<_> = client.range(query).await.unwrap().try_collect().await.unwrap();
    entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

fn expected(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    numbers.map(|number| format!("key/{number:02}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_ranges_forward_and_reverse_with_limits() {
    let fake = Fake::start(3).await;
    let mut settings = fake.settings();
    settings.page_bytes = Bytes(100);
    let server = fake.gateway(settings).await;
    let client = filled(&fake, &server).await;
    let all = RangeQuery::all;
    assert_eq!(keys(&client, all()).await, expected(0..60));
    assert_eq!(keys(&client, all().reverse()).await, expected((0..60).rev()));
    assert_eq!(keys(&client, all().limit(25)).await, expected(0..25));
    assert_eq!(keys(&client, all().reverse().limit(25)).await, expected((35..60).rev()));
    let middle = || RangeQuery::between("key/15", "key/45");
    assert_eq!(keys(&client, middle()).await, expected(15..45));
    assert_eq!(keys(&client, middle().reverse()).await, expected((15..45).rev()));
    let inside = || RangeQuery::between("key/20", "key/40");
    assert_eq!(keys(&client, inside()).await, expected(20..40));
    assert_eq!(keys(&client, inside().reverse().limit(3)).await, expected((37..40).rev()));
    assert_eq!(keys(&client, RangeQuery::prefix("key/1")).await, expected(10..20));
    assert_eq!(keys(&client, RangeQuery::prefix("nothing")).await, expected(0..0));
    let entries: Vec<_> =
        client.range(all().keys_only().limit(2)).await.unwrap().try_collect().await.unwrap();
    assert!(entries.iter().all(|entry| entry.value.is_empty() && entry.version.0 > 0));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_range_needs_no_timestamp_and_several_share_one() {
    let fake = Fake::start(3).await;
    let mut settings = fake.settings();
    settings.page_bytes = Bytes(200);
    let server = fake.gateway(settings).await;
    let client = filled(&fake, &server).await;
    let versions = |requests: Vec<(u64, rangedb_proto::internal::v1::DataRequest)>| {
        let scans = requests.into_iter().filter_map(|(_, request)| match request.operation {
            Some(Operation::Scan(scan)) => {
                Some((request.epoch.unwrap().version, scan.read_version))
            }
            _ => None,
        });
        scans.filter(|(epoch, _)| *epoch == 2).map(|(_, version)| version).collect::<Vec<_>>()
    };
    keys(&client, RangeQuery::all()).await; // learns the split
    fake.store.take_requests();
    keys(&client, RangeQuery::between("key/20", "key/40")).await;
    let inside = versions(fake.store.take_requests());
    assert_eq!(inside[0], 0);
    assert!(
        inside.len() > 1 && inside[1..].iter().all(|version| *version == inside[1] && *version > 0)
    );
    let entries = client.range(RangeQuery::all()).await.unwrap();
    let version = entries.version();
    assert_eq!(entries.try_collect::<Vec<_>>().await.unwrap().len(), 60);
    let over = versions(fake.store.take_requests());
    assert!(over.len() > 3 && over.iter().all(|read| *read == version.0), "{over:?}");
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_knows_nothing_finds_the_last_range_in_reverse() {
    let fake = Fake::start(2).await;
    let server = fake.gateway(fake.settings()).await;
    let client = filled(&fake, &server).await;
    let cold = fake.gateway(fake.settings()).await;
    let query = RangeQuery::all().reverse().limit(1);
    assert_eq!(keys(&crate::fake::client(&cold).await, query.clone()).await, ["key/59"]);
    assert_eq!(keys(&client, query).await, ["key/59"]);
    server.shutdown().await.unwrap();
    cold.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_get_reads_across_ranges_in_order() {
    let fake = Fake::start(3).await;
    let server = fake.gateway(fake.settings()).await;
    let client = filled(&fake, &server).await;
    let wanted: Vec<_> = (0..70).rev().map(|number| format!("key/{number:02}")).collect();
    let values = client.batch_get(wanted).await.unwrap();
    for (value, number) in values.into_iter().zip((0..70).rev()) {
        let expected = (number < 60).then(|| format!("value {number}"));
        assert_eq!(value.map(|value| String::from_utf8(value.value.to_vec()).unwrap()), expected);
    }
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_range_goes_from_range_to_range() {
    let fake = Fake::start(3).await;
    let server = fake.gateway(fake.settings()).await;
    let client = filled(&fake, &server).await;
    keys(&client, RangeQuery::all()).await;
    client.delete_range("key/21", "key/40").await.unwrap();
    assert_eq!(keys(&client, RangeQuery::between("key/20", "key/40")).await, ["key/20"]);
    client.delete_range("key/05", "key/21").await.unwrap();
    assert_eq!(keys(&client, RangeQuery::prefix("key/0")).await.len(), 5);
    assert_eq!(keys(&client, RangeQuery::between("key/00", "key/40")).await.len(), 5);
    client.delete_range("", "").await.unwrap();
    assert!(keys(&client, RangeQuery::all()).await.is_empty());
    server.shutdown().await.unwrap();
}
