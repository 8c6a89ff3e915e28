//! Connections to gateways for calls that the SDK does not make. Owns: choosing an endpoint. Must
//! not know: what is called.

use crate::arguments::Options;
use crate::exit::{Exit, Failure};
use rangedb_service::grpc::{self, Endpoint};
use rangedb_types::limits::MESSAGE_BYTES_MAX;
use std::time::Duration;
use tonic::Request;
use tonic::transport::Channel;

/// The largest answer we take.
pub const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Where a server is.
///
/// # Errors
/// `Usage` if this cannot be an address.
pub fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    grpc::endpoint(address).map_err(|error| Failure::usage(format!("endpoint {error}")))
}

/// The first gateway that answers.
///
/// # Errors
/// `Unavailable` if none does; nothing was sent then.
pub async fn any(options: &Options) -> Result<Channel, Failure> {
    let gateways = options.gateways();
    // A wrong address is a mistake to mend even where another one works.
    let endpoints =
        gateways.iter().map(|address| endpoint(address)).collect::<Result<Vec<_>, _>>()?;
    let mut why = String::new();
    let deadline = tokio::time::Instant::now() + options.timeout();
    for (address, endpoint) in gateways.iter().zip(endpoints) {
        match tokio::time::timeout_at(deadline, endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) => why = format!("{address}: {}", chain(&error)),
            Err(_) => why = format!("{address}: no connection in time"),
        }
    }
    let message = format!("no gateway answers ({why}); is it running, and is --endpoints right?");
    Err(Failure::new(Exit::Unavailable, message))
}

/// A call with a deadline, which the server hears of.
pub fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputFormat;

    fn options(endpoints: &[&str]) -> Options {
        Options {
            endpoints: endpoints.iter().map(|&address| address.to_owned()).collect(),
            output: OutputFormat::Table,
            timeout: Some(Duration::from_secs(5)),
        }
    }

    #[tokio::test]
    async fn a_bad_address_is_usage_and_a_dead_one_is_unavailable() {
        let bad = any(&options(&["nowhere"])).await.unwrap_err();
        assert_eq!(bad.exit, Exit::Usage);
        // A port that was free a moment ago and that nobody listens on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dead = any(&options(&[&free.to_string()])).await.unwrap_err();
        assert_eq!(dead.exit, Exit::Unavailable);
        assert!(dead.message.contains(&free.to_string()), "{dead}");
    }
}
