//! The gateways, and which one is used now.

use crate::Error;
use parking_lot::Mutex;
use rangedb_grpc as grpc;
use tonic::transport::Channel;

/// One gateway. Connects when first used, and again by itself.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub address: String,
    pub channel: Channel,
    index: usize,
}

/// All gateways the client knows.
#[derive(Debug)]
pub struct Endpoints {
    gateways: Vec<Gateway>,
    current: Mutex<usize>,
}

impl Endpoints {
    /// # Errors
    /// `InvalidEndpoint` for the first text that is no address, or if there is none at all.
    pub fn new(addresses: Vec<String>) -> Result<Self, Error> {
        let gateways = addresses
            .into_iter()
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .enumerate()
            .map(|(index, address)| {
                let endpoint = grpc::endpoint(&address)
                    .map_err(|grpc::InvalidAddress(text)| Error::InvalidEndpoint(text))?;
                let channel = endpoint.connect_lazy();
                Ok(Gateway { address, channel, index })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        if gateways.is_empty() {
            return Err(Error::InvalidEndpoint(String::new()));
        }
        Ok(Self { gateways, current: Mutex::new(0) })
    }

    pub const fn len(&self) -> usize {
        self.gateways.len()
    }

    pub fn current(&self) -> Gateway {
        self.gateways[*self.current.lock()].clone()
    }

    /// Moves on, unless somebody already did.
    pub fn failed(&self, gateway: &Gateway) {
        let mut current = self.current.lock();
        if *current == gateway.index {
            *current = (*current + 1) % self.gateways.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_moves_on_once() {
        let endpoints = Endpoints::new(vec!["a:1".into(), "b:2".into()]).unwrap();
        let first = endpoints.current();
        endpoints.failed(&first);
        endpoints.failed(&first);
        assert_eq!(endpoints.current().address, "b:2");
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for text in ["", "host", "host:0", "a b:1"] {
            assert!(Endpoints::new(vec![text.into()]).is_err(), "{text}");
        }
    }
}
