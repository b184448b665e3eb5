//! Dials our services: gRPC over the mesh's own TLS, each time with the identity and the trust of that
//! moment, and only to the identity that is expected there.

use std::{
    fmt, io,
    net::{Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use trellis_pki::{refusal::Refusal, spiffe::SpiffeId, tls::MeshTls};

use crate::handshakes::{Direction, Handshakes};

/// For name resolution and TCP, and for TLS with them where nothing else is said.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be silent before it is asked, and how long it may take to answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// `HOST:PORT`, where an IPv6 address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("address {0:?} is not HOST:PORT, such as trellis-ca.trellis-system.svc:15012 or [::1]:15012")]
pub struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let wrong = || InvalidAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let valid = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
            None => {
                !host.is_empty()
                    && host.len() <= 253
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
            }
        };
        if valid { Ok(Self { host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    #[error("cannot resolve {address}: {source}")]
    Resolve { address: Address, source: io::Error },
    #[error("{0} resolves to no address")]
    NoAddress(Address),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: Address, source: io::Error },
    #[error("TLS with {address} failed ({refusal}): {reason}")]
    Handshake { address: Address, refusal: Refusal, reason: String },
    #[error("cannot begin TLS with {address}: {reason}")]
    NotReady { address: Address, reason: String },
    #[error("no connection to {address} within {} s", patience.as_secs())]
    TimedOut { address: Address, patience: Duration },
}

/// Dials one identity. Clones share the TLS state.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<MeshTls>,
    expected: SpiffeId,
    present: bool,
    patience: Duration,
    handshakes: Option<Handshakes>,
}

impl Dialer {
    /// `present`: show the own certificate. Without one there is none to show.
    pub fn new(tls: Arc<MeshTls>, expected: SpiffeId, present: bool) -> Self {
        Self { tls, expected, present, patience: CONNECT_TIMEOUT, handshakes: None }
    }

    /// Waits so long for TLS, where many may be before one.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Counts what is dialled.
    #[must_use]
    pub fn counting(self, handshakes: Handshakes) -> Self {
        Self { handshakes: Some(handshakes), ..self }
    }

    /// A channel that dials when it is first used, and again whenever it lost its connection.
    pub fn channel(&self, address: &Address) -> Channel {
        let dialer = self.clone();
        let target = address.clone();
        let connector = tower::service_fn(move |_: Uri| -> BoxFuture<'static, _> {
            let (dialer, target) = (dialer.clone(), target.clone());
            Box::pin(async move { dialer.dial(&target).await.map(TokioIo::new) })
        });
        endpoint(address)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    /// One connection, through with its handshake.
    pub async fn dial(&self, address: &Address) -> Result<TlsStream<TcpStream>, DialError> {
        match timeout(self.patience, self.connect(address)).await {
            Ok(result) => result,
            Err(_) => {
                self.count_refusal(Refusal::TimedOut.as_str());
                Err(DialError::TimedOut { address: address.clone(), patience: self.patience })
            }
        }
    }

    async fn connect(&self, address: &Address) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = connect_tcp(address).await?;
        let connecting = self
            .tls
            .connect(vec![self.expected.clone()], self.present)
            .map_err(|error| DialError::NotReady { address: address.clone(), reason: error.to_string() })?;
        let began = Instant::now();
        let name = connecting.server_name;
        match TlsConnector::from(connecting.config).connect(name, tcp).await {
            Ok(stream) => {
                if let Some(handshakes) = &self.handshakes
                    && let Some(posture) = connecting.recorder.posture(stream.get_ref().1)
                {
                    handshakes.completed(Direction::Outbound, &posture, began.elapsed());
                }
                Ok(stream)
            }
            Err(source) => {
                let refusal = Refusal::of_io(&source, &connecting.recorder);
                self.count_refusal(refusal.as_str());
                // What our verifier found says more than what TLS made of it.
                let reason =
                    connecting.recorder.rejection().map_or_else(|| source.to_string(), ToString::to_string);
                Err(DialError::Handshake { address: address.clone(), refusal, reason })
            }
        }
    }

    fn count_refusal(&self, reason: &str) {
        if let Some(handshakes) = &self.handshakes {
            handshakes.refused(Direction::Outbound, reason);
        }
    }
}

/// [`Dialer::channel`] for who only needs that. Nothing is counted.
pub fn channel(
    address: &str,
    tls: Arc<MeshTls>,
    expected: SpiffeId,
    present: bool,
) -> Result<Channel, InvalidAddress> {
    Ok(Dialer::new(tls, expected, present).channel(&address.parse()?))
}

fn endpoint(address: &Address) -> Endpoint {
    // An address that was parsed is a valid authority; the fallback only spares us a panic.
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap_or_else(|_| Endpoint::from_static("http://trellis"))
}

/// Tries each address that the name has, with a fair share of the time for each. TLS is the caller's.
pub async fn connect_tcp(address: &Address) -> Result<TcpStream, DialError> {
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = lookup_host((host, address.port))
        .await
        .map_err(|source| DialError::Resolve { address: address.clone(), source })?
        .collect();
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut last = None;
    for (tried, socket) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let now = Instant::now();
        let share = now + deadline.saturating_duration_since(now) / left;
        match timeout_at(share, TcpStream::connect(socket)).await {
            Ok(Ok(stream)) => {
                // A latency setting: without it the connection still works.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = Some(error),
            Err(_) => {
                last = Some(io::Error::new(io::ErrorKind::TimedOut, format!("{socket} does not answer")))
            }
        }
    }
    Err(match last {
        Some(source) => DialError::Connect { address: address.clone(), source },
        None => DialError::NoAddress(address.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["trellis-ca.trellis-system.svc:15012", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(good.parse::<Address>().map(|address| address.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":1",
            "::1:15012",
            "[::1]",
            "[x]:1",
            "a b:1",
            "a/b:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} was taken");
        }
    }
}
