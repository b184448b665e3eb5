//! The sockets of the data path, bound before the proxy has an identity so that a taken port is an error
//! at start and nothing else.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}: {source}")]
pub struct BindError {
    purpose: &'static str,
    address: SocketAddr,
    source: io::Error,
}

/// `count` sockets on one address, among which the kernel spreads connections.
pub fn bind(purpose: &'static str, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let sockets = (0..count.max(1)).map(|_| match socket(address, count > 1) {
        // Without IPv6, the address that means every address is the IPv4 one.
        Err(error) if lacks_ipv6(&error) && address.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            socket(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()), count > 1)
        }
        result => result,
    });
    sockets.collect::<io::Result<_>>().map_err(|source| BindError { purpose, address, source })
}

/// The same, where a machine without IPv6 simply has nothing to listen on.
pub fn bind_if_possible(
    purpose: &'static str,
    address: SocketAddr,
    count: usize,
) -> Result<Vec<TcpListener>, BindError> {
    match bind(purpose, address, count) {
        Err(error) if address.is_ipv6() && lacks_ipv6(&error.source) => Ok(Vec::new()),
        result => result,
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// EAFNOSUPPORT or EADDRNOTAVAIL: no such family, or no such address here.
fn lacks_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let taken = bind("tests", "127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = taken[0].local_addr().unwrap();
        let error = bind("the tunnel", address, 1).unwrap_err().to_string();
        assert!(error.contains("the tunnel") && error.contains(&address.to_string()), "{error}");
    }
}
