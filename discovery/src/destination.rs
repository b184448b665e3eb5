//! What a proxy asks about: an address and a port, in the one spelling that everything here compares.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;
use trellis_api::proto::discovery as proto;

/// Port 0 asks who owns the address, whatever the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    pub address: IpAddr,
    pub port: u16,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidDestination {
    #[error("destination.address: {0:?} is not an IP address; send one IPv4 or IPv6 address without a zone")]
    Address(String),
    #[error("destination.port: {0} is not a port; send 1 to 65535, or 0 to ask who owns the address")]
    Port(u32),
}

impl Destination {
    /// An IPv4 address in IPv6 clothes is the IPv4 address.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self { address: address.to_canonical(), port }
    }
}

impl TryFrom<&proto::Destination> for Destination {
    type Error = InvalidDestination;

    fn try_from(asked: &proto::Destination) -> Result<Self, Self::Error> {
        let address = asked.address.parse().map_err(|_| {
            // The peer is authenticated, not trusted with the size of our messages.
            InvalidDestination::Address(asked.address.chars().take(64).collect())
        })?;
        let port = u16::try_from(asked.port).map_err(|_| InvalidDestination::Port(asked.port))?;
        Ok(Self::new(address, port))
    }
}

impl From<Destination> for proto::Destination {
    fn from(destination: Destination) -> Self {
        Self { address: destination.address.to_string(), port: destination.port.into() }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str, port: u32) -> Result<String, InvalidDestination> {
        Destination::try_from(&proto::Destination { address: address.into(), port }).map(|d| d.to_string())
    }

    #[test]
    fn spellings_of_one_address_are_one_destination() {
        assert_eq!(asked("10.0.0.1", 80).unwrap(), "10.0.0.1:80");
        assert_eq!(asked("::ffff:10.0.0.1", 80).unwrap(), "10.0.0.1:80");
        assert_eq!(asked("FD00:0:0::1", 0).unwrap(), "[fd00::1]:0");
    }

    #[test]
    fn what_is_no_destination_is_named() {
        for (address, port, error) in [
            ("", 80, "destination.address: \"\" is not an IP address"),
            ("web.shop", 80, "destination.address: \"web.shop\" is not an IP address"),
            ("fe80::1%eth0", 80, "destination.address: \"fe80::1%eth0\" is not an IP address"),
            ("10.0.0.1", 65536, "destination.port: 65536 is not a port"),
        ] {
            let said = asked(address, port).unwrap_err().to_string();
            assert!(said.starts_with(error), "{said}");
        }
    }
}
