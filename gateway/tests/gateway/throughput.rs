//! What the gateway itself costs: a fake node that answers at once, and the client, all on the same
//! cores. A short run is a test that nothing fails under load; for figures, run it longer in the
//! release profile: `RANGEDB_MEASURE_MS=3000 cargo test --release -p rangedb-gateway --test gateway
//! throughput -- --nocapture`

use crate::fake::{Fake, client};
use futures::future::join_all;
use rangedb_client::{Client, Pipeline};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SMOKE_MS: u64 = 60;
const VALUE_BYTES: usize = 256;
const KEYS: usize = 10_000;

/// A closed loop of `clients` tasks; operations a second.
async fn rate<F, A>(clients: usize, operation: F) -> f64
where
    F: Fn(usize) -> A + Clone + Send + 'static,
    A: Future<Output = ()> + Send,
{
    let millis = std::env::var("RANGEDB_MEASURE_MS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_millis(millis.unwrap_or(SMOKE_MS));
    let began = Instant::now();
    let tasks = (0..clients).map(|worker| {
        let operation = operation.clone();
        tokio::spawn(async move {
            let mut count = 0_usize;
            while began.elapsed() < length {
                operation(worker * 7919 + count).await;
                count += 1;
            }
            count
        })
    });
    let counts = join_all(tasks).await;
    let total: usize = counts.into_iter().map(|count| count.unwrap()).sum();
    total as f64 / began.elapsed().as_secs_f64()
}

fn key(number: usize) -> String {
    format!("key/{:06}", number % KEYS)
}

async fn stream(pipeline: &Pipeline, clients: usize) -> (f64, f64) {
    let writer = pipeline.clone();
    let puts = rate(clients, move |number| {
        let pipeline = writer.clone();
        async move {
            pipeline.put(key(number), vec![0; VALUE_BYTES]).await.unwrap();
        }
    });
    let puts = puts.await;
    let reader = pipeline.clone();
    let gets = rate(clients, move |number| {
        let pipeline = reader.clone();
        async move {
            pipeline.get(key(number)).await.unwrap();
        }
    });
    (puts, gets.await)
}

async fn unary(client: &Client, clients: usize) -> (f64, f64) {
    let writer = client.clone();
    let puts = rate(clients, move |number| {
        let client = writer.clone();
        async move {
            client.put(key(number), vec![0; VALUE_BYTES]).await.unwrap();
        }
    });
    let puts = puts.await;
    let reader = client.clone();
    let gets = rate(clients, move |number| {
        let client = reader.clone();
        async move {
            client.get(key(number)).await.unwrap();
        }
    });
    (puts, gets.await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throughput_with_a_fake_node() {
    let fake = Fake::start(1).await;
    let server = fake.gateway(fake.settings()).await;
    fake.store.keeps_requests.store(false, Ordering::Relaxed);
    let client = client(&server).await;
    let pipeline = client.pipeline();
    for clients in [1, 64, 256, 1024] {
        let (puts, gets) = stream(&pipeline, clients).await;
        println!("stream {clients:>5} clients: {puts:>8.0} puts/s {gets:>8.0} gets/s");
    }
    for clients in [1, 64, 256] {
        let (puts, gets) = unary(&client, clients).await;
        println!("unary  {clients:>5} clients: {puts:>8.0} puts/s {gets:>8.0} gets/s");
    }
    server.shutdown().await.unwrap();
}
