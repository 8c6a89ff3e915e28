//! Listening. Owns: binding an address with errors people can act on. Must not know: protocols.

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use tokio::net::TcpListener;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "address {address} is already in use; stop the process that has it or choose another address with {flag}"
    )]
    InUse { address: String, flag: String },
    #[error(
        "address {address} does not belong to this machine; choose one of its own, or 0.0.0.0, with {flag}"
    )]
    NotLocal { address: String, flag: String },
    #[error(
        "no permission to listen on {address}; choose a port of 1024 or above with {flag}, or run with the right to bind it"
    )]
    NoPermission { address: String, flag: String },
    #[error(
        "`{address}` is not an address; write HOST:PORT, for example 127.0.0.1:8081, with {flag}"
    )]
    NotAnAddress { address: String, flag: String },
    #[error("cannot listen on {address}: {source}; choose another address with {flag}")]
    Other { address: String, flag: String, source: std::io::Error },
}

/// Listens on `HOST:PORT`; port 0 takes any free one. Must be called on a tokio runtime.
///
/// # Errors
/// One line that names the address and the flags to change.
pub fn bind(address: &str) -> Result<TcpListener, BindError> {
    bind_for(address, "--listen or --http-listen")
}

/// As `bind`, where the caller knows which flag the address came from.
///
/// # Errors
/// One line that names the address and the flag to change.
pub fn bind_for(address: &str, flag: &str) -> Result<TcpListener, BindError> {
    let other =
        |source| BindError::Other { address: address.to_owned(), flag: flag.to_owned(), source };
    // Names are resolved here and now: this happens once, at start, before anything is served.
    let candidates = resolve(address, flag)?;
    // The standard library allows an address in TIME_WAIT to be bound again, so a restart works.
    let listener = std::net::TcpListener::bind(candidates.as_slice())
        .map_err(|error| explain(address, flag, error))?;
    listener.set_nonblocking(true).map_err(other)?;
    TcpListener::from_std(listener).map_err(other)
}

fn resolve(address: &str, flag: &str) -> Result<Vec<SocketAddr>, BindError> {
    let refused = || BindError::NotAnAddress { address: address.to_owned(), flag: flag.to_owned() };
    let candidates: Vec<_> = address.to_socket_addrs().map_err(|_| refused())?.collect();
    if candidates.is_empty() { Err(refused()) } else { Ok(candidates) }
}

fn explain(address: &str, flag: &str, error: std::io::Error) -> BindError {
    let (address, flag) = (address.to_owned(), flag.to_owned());
    match error.kind() {
        ErrorKind::AddrInUse => BindError::InUse { address, flag },
        ErrorKind::AddrNotAvailable => BindError::NotLocal { address, flag },
        ErrorKind::PermissionDenied => BindError::NoPermission { address, flag },
        _ => BindError::Other { address, flag, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_zero_takes_a_free_port() {
        let listener = bind("127.0.0.1:0").unwrap();
        assert_ne!(listener.local_addr().unwrap().port(), 0);
    }

    #[tokio::test]
    async fn a_port_in_use_names_address_and_flag() {
        let first = bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let line = bind_for(&address, "--http-listen").unwrap_err().to_string();
        assert!(line.contains(&address), "{line}");
        assert!(line.contains("already in use"), "{line}");
        assert!(line.contains("--http-listen"), "{line}");
        assert!(!line.contains('\n'));
    }

    #[tokio::test]
    async fn nonsense_is_no_address() {
        for address in ["", "8081", "127.0.0.1", "127.0.0.1:notaport", "127.0.0.1:99999"] {
            let error = bind(address).unwrap_err();
            assert!(matches!(error, BindError::NotAnAddress { .. }), "{address}: {error}");
        }
    }

    #[tokio::test]
    async fn a_foreign_address_is_refused() {
        // TEST-NET-1 (RFC 5737): belongs to nobody.
        let error = bind("192.0.2.1:0").unwrap_err();
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }
}
