//! Where a captured connection was going before the pod's own rules sent it here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The original destination; the local address where nothing was redirected.
pub fn destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    let local = canonical(socket.local_addr()?);
    let reference = SockRef::from(socket);
    let found = if local.is_ipv4() { reference.original_dst_v4() } else { reference.original_dst_v6() };
    match found {
        Ok(address) => Ok(address.as_socket().map_or(local, canonical)),
        // The kernel knows no translation for this connection: nobody redirected it.
        Err(_) => Ok(local),
    }
}

/// An IPv4 address that came through a dual-stack socket is an IPv4 address.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `ip` can only be this machine itself.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
