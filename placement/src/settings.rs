//! What a placement member is told at start.

use crate::consensus::Tuning;
use rangedb_service::Period;
use rangedb_service::logging::LogSettings;
use rangedb_service::settings::comma_list;
use rangedb_types::PlacementId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of `rangedb-placement`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// This member's id; every member has its own.
    pub id: u64,
    pub data_dir: PathBuf,
    /// gRPC, for the other members, nodes and gateways.
    pub listen: String,
    /// Metrics and health.
    pub http_listen: String,
    /// All members of the quorum as `ID=HOST:PORT`, this one included. Empty: a single member.
    #[serde(deserialize_with = "comma_list")]
    pub peers: Vec<String>,
    /// Where others reach this member, if it is not what it listens on.
    pub advertise: Option<String>,
    pub heartbeat_interval: Period,
    pub election_timeout_min: Period,
    pub election_timeout_max: Period,
    /// Threads that serve the network; 0 means half of the machine's processors.
    pub async_threads: usize,
    pub log: LogSettings,
}

impl Default for Settings {
    fn default() -> Self {
        let tuning = Tuning::default();
        Self {
            id: 1,
            data_dir: PathBuf::from("data/placement"),
            listen: "127.0.0.1:8281".to_owned(),
            http_listen: "127.0.0.1:8280".to_owned(),
            peers: Vec::new(),
            advertise: None,
            heartbeat_interval: Period(tuning.heartbeat),
            election_timeout_min: Period(tuning.election_timeout_min),
            election_timeout_max: Period(tuning.election_timeout_max),
            async_threads: 0,
            log: LogSettings::default(),
        }
    }
}

/// Settings that make no sense together. Every variant is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("--id must be at least 1")]
    NoId,
    #[error("`{0}` in --peers is not ID=HOST:PORT; write for example 1=127.0.0.1:8281,2=…,3=…")]
    Peer(String),
    #[error("--peers names member {0} twice; every member has its own id")]
    PeerTwice(PlacementId),
    #[error("others cannot dial {0}; say where they reach this member with --advertise HOST:PORT")]
    NotDiallable(String),
    #[error("--advertise: {0}")]
    Advertise(#[from] rangedb_service::grpc::InvalidAddress),
}

impl Settings {
    pub(crate) fn member_id(&self) -> Result<PlacementId, InvalidSettings> {
        if self.id == 0 { Err(InvalidSettings::NoId) } else { Ok(PlacementId(self.id)) }
    }

    pub(crate) fn tuning(&self) -> Tuning {
        Tuning {
            heartbeat: Duration::from(self.heartbeat_interval),
            election_timeout_min: Duration::from(self.election_timeout_min),
            election_timeout_max: Duration::from(self.election_timeout_max),
            ..Tuning::default()
        }
    }

    /// The members as `--peers` names them.
    pub(crate) fn peer_map(&self) -> Result<BTreeMap<PlacementId, String>, InvalidSettings> {
        let mut peers = BTreeMap::new();
        for peer in &self.peers {
            let parts = peer.split_once('=');
            let id = parts.and_then(|(id, _)| id.trim().parse::<u64>().ok()).filter(|id| *id > 0);
            let (Some(id), Some((_, address))) = (id, parts) else {
                return Err(InvalidSettings::Peer(peer.clone()));
            };
            if rangedb_service::grpc::endpoint(address.trim()).is_err() {
                return Err(InvalidSettings::Peer(peer.clone()));
            }
            if peers.insert(PlacementId(id), address.trim().to_owned()).is_some() {
                return Err(InvalidSettings::PeerTwice(PlacementId(id)));
            }
        }
        Ok(peers)
    }

    /// Where others reach this member, which listens at `listening`.
    pub(crate) fn advertised(
        &self,
        own_in_peers: Option<&String>,
        listening: SocketAddr,
    ) -> Result<String, InvalidSettings> {
        if let Some(address) = &self.advertise {
            rangedb_service::grpc::endpoint(address)?;
            return Ok(address.clone());
        }
        match own_in_peers {
            Some(address) => Ok(address.clone()),
            None if listening.ip().is_unspecified() => {
                Err(InvalidSettings::NotDiallable(listening.to_string()))
            }
            None => Ok(listening.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_peers(peers: &[&str]) -> Settings {
        Settings {
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            ..Settings::default()
        }
    }

    #[test]
    fn peers_are_ids_and_addresses() {
        let peers = with_peers(&["1=127.0.0.1:8281", "2=other:8281"]).peer_map().unwrap();
        assert_eq!(peers[&PlacementId(2)], "other:8281");
        for bad in ["127.0.0.1:8281", "0=a:1", "x=a:1", "1=", "1=a", "1=a:b"] {
            let error = with_peers(&[bad]).peer_map().unwrap_err();
            assert!(error.to_string().contains(bad), "{error}");
        }
        let twice = with_peers(&["1=a:1", "1=b:1"]).peer_map();
        assert_eq!(twice, Err(InvalidSettings::PeerTwice(PlacementId(1))));
    }

    #[test]
    fn what_others_dial() {
        let settings = Settings::default();
        let listening = "127.0.0.1:999".parse().unwrap();
        assert_eq!(settings.advertised(None, listening).unwrap(), "127.0.0.1:999");
        assert_eq!(settings.advertised(Some(&"p:1".to_owned()), listening).unwrap(), "p:1");
        let everywhere = "0.0.0.0:999".parse().unwrap();
        let error = settings.advertised(None, everywhere).unwrap_err();
        assert!(error.to_string().contains("--advertise"));
        let told = Settings { advertise: Some("public:1".to_owned()), ..settings };
        assert_eq!(told.advertised(None, everywhere).unwrap(), "public:1");
    }
}
