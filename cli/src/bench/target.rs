//! The servers under load, and how requests reach them.
//!
//! Owns: connections and protocols. Must not know: clients, timing. Invariant: unary calls are bare
//! gRPC calls of the same library for both peers, one attempt each.

use crate::connect;
use crate::exit::{Exit, Failure};
use bytes::Bytes;
use rangedb_client::{Client, Pipeline};
use rangedb_proto::v1::key_value_client::KeyValueClient;
use rangedb_proto::v1::{GetRequest, PutRequest};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// The messages of etcd's API.
#[allow(clippy::all, reason = "generated code")]
mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// Operations of one stream under way: every client has one at most.
const STREAM_OPERATIONS_MAX: usize = 100_000;

/// Where operations go. Clients share what there is, by their number.
pub enum Target {
    Unary(Vec<KeyValueClient<Channel>>),
    Stream(Vec<Pipeline>),
    Etcd(Vec<etcd::kv_client::KvClient<Channel>>),
}

impl Target {
    /// RangeDB over unary calls.
    ///
    /// # Errors
    /// An endpoint that is no address or does not answer.
    pub async fn unary(endpoints: &[String], channels: usize) -> Result<Self, Failure> {
        let channels = connect_all(endpoints, channels).await?;
        Ok(Self::Unary(channels.into_iter().map(KeyValueClient::new).collect()))
    }

    /// RangeDB over Pipeline streams.
    ///
    /// # Errors
    /// As for `unary`.
    pub async fn stream(
        endpoints: &[String],
        streams: usize,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let options =
            rangedb_client::Options { timeout, pipeline_operations_max: STREAM_OPERATIONS_MAX };
        let mut pipelines = Vec::with_capacity(streams);
        for endpoint in endpoints.iter().cycle().take(streams) {
            let client = Client::connect_with([endpoint.clone()], options).await?;
            pipelines.push(client.pipeline());
        }
        Ok(Self::Stream(pipelines))
    }

    /// etcd over unary calls, the only ones it has.
    ///
    /// # Errors
    /// As for `unary`.
    pub async fn etcd(endpoints: &[String], channels: usize) -> Result<Self, Failure> {
        let channels = connect_all(endpoints, channels).await?;
        Ok(Self::Etcd(channels.into_iter().map(etcd::kv_client::KvClient::new).collect()))
    }

    /// Writes a key.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub async fn put(
        &self,
        client: usize,
        key: Bytes,
        value: Bytes,
        timeout: Duration,
    ) -> Result<(), String> {
        match self {
            Self::Unary(rpcs) => {
                let put = PutRequest { key, value, condition: None, context: None };
                let mut rpc = rpcs[client % rpcs.len()].clone();
                rpc.put(timed(put, timeout)).await.map(drop).map_err(words)
            }
            Self::Stream(pipelines) => {
                let put = pipelines[client % pipelines.len()].put(key, value).await;
                put.map(drop).map_err(|error| error.to_string())
            }
            Self::Etcd(rpcs) => {
                let mut rpc = rpcs[client % rpcs.len()].clone();
                let put = etcd::PutRequest { key, value };
                rpc.put(timed(put, timeout)).await.map(drop).map_err(words)
            }
        }
    }

    /// Reads a key, linearizably; that it is there.
    ///
    /// # Errors
    /// What went wrong, in words; also that the key is not there.
    pub async fn get(&self, client: usize, key: Bytes, timeout: Duration) -> Result<(), String> {
        let found = match self {
            Self::Unary(rpcs) => {
                let mut rpc = rpcs[client % rpcs.len()].clone();
                let get = GetRequest { key, context: None };
                rpc.get(timed(get, timeout)).await.map_err(words)?.into_inner().found
            }
            Self::Stream(pipelines) => {
                let get = pipelines[client % pipelines.len()].get(key).await;
                get.map_err(|error| error.to_string())?.is_some()
            }
            Self::Etcd(rpcs) => {
                let mut rpc = rpcs[client % rpcs.len()].clone();
                let get = etcd::RangeRequest { key, serializable: false };
                let answer = rpc.range(timed(get, timeout)).await.map_err(words)?;
                !answer.into_inner().kvs.is_empty()
            }
        };
        if found { Ok(()) } else { Err("a key that was written is not there".to_owned()) }
    }
}

fn timed<T>(message: T, timeout: Duration) -> Request<T> {
    connect::request(message, timeout)
}

fn words(status: Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// So many connections, in turn to the endpoints.
async fn connect_all(endpoints: &[String], count: usize) -> Result<Vec<Channel>, Failure> {
    let mut channels = Vec::with_capacity(count);
    for address in endpoints.iter().cycle().take(count) {
        let channel = connect::endpoint(address)?.connect().await.map_err(|error| {
            Failure::new(Exit::Unavailable, format!("no answer from {address}: {error}"))
        })?;
        channels.push(channel);
    }
    Ok(channels)
}
