//! A queue of jobs for any number of workers: each job is taken by one of them, and put back if that one dies.
//!
//! ```sh
//! make run                                                   # in another terminal
//! cargo run --example jobs -- 127.0.0.1:8081 add "sweep the floor"
//! cargo run --example jobs -- 127.0.0.1:8081 work
//! ```
//!
//! A worker takes the first job with a pessimistic transaction, does it, and removes it with the commit: while it
//! works others wait, and go on with the next job. If it dies its lock ends, and another one takes the job.

use rangedb_client::{Client, Error, RangeQuery, TransactionOptions, Version};
use std::time::Duration;

/// Jobs are done in the order in which they came: a version is later than all before it.
async fn add(client: &Client, job: &str) -> Result<Version, Error> {
    let ticket = client.put("jobs-last", job.to_owned()).await?;
    client.put(format!("jobs/{:020}", ticket.0), job.to_owned()).await
}

/// Does the first job that nobody else does; false if there is none.
async fn work(client: &Client) -> Result<bool, Error> {
    let jobs = RangeQuery::prefix("jobs/").limit(1);
    let txn = client.begin_pessimistic(TransactionOptions::default()).await?;
    let Some(job) = txn.range(jobs).await?.pop() else {
        txn.rollback().await?;
        return Ok(false);
    };
    // Waits for a worker that has it, and then finds it gone: then there is a next one.
    let done = match txn.get_for_update(job.key.clone()).await {
        Ok(Some(work)) => {
            println!("doing: {}", String::from_utf8_lossy(&work));
            tokio::time::sleep(Duration::from_millis(200)).await;
            txn.delete(job.key).await?;
            txn.commit().await.map(|_| true)
        }
        Ok(None) => txn.rollback().await.map(|()| true),
        Err(error) => {
            txn.rollback().await?;
            Err(error)
        }
    };
    match done {
        // Another one was faster.
        Err(Error::Conflict { .. }) => Ok(true),
        done => done,
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [endpoint, "add", job] => {
            let client = Client::connect([endpoint]).await?;
            println!("added at version {}", add(&client, job).await?);
        }
        [endpoint, "work"] => {
            let client = Client::connect([endpoint]).await?;
            while work(&client).await? {}
            println!("nothing left to do");
        }
        _ => eprintln!("usage: jobs HOST:PORT add JOB | jobs HOST:PORT work"),
    }
    Ok(())
}
