//! The PROXY protocol, versions 1 and 2: who the client is, as a balancer in front of the gateway says. Only
//! networks that an operator names are believed, and what is malformed ends the connection: bytes that a
//! balancer counts to its header must not be read as the client's.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{net::TcpStream, time};

use crate::relay::End;

/// The header is there by then.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where it need not be there, a client that says nothing has none.
const ABSENT: Duration = Duration::from_secs(1);

const V1: &[u8] = b"PROXY ";
/// With its end of line, as its authors say.
const V1_MOST: usize = 107;
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_HEAD: usize = 16;
/// What may follow the head of version 2: addresses take 36 bytes, the rest are extensions.
const V2_MOST: usize = 4 * 1024;

/// Whether clients' addresses come by PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Off,
    /// From trusted sources, where it is there.
    Accept,
    /// Nobody comes without.
    Require,
}

/// A network, as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Whom to believe about clients' addresses.
#[derive(Clone, Debug)]
pub struct Proxied {
    pub mode: Mode,
    pub sources: Vec<Network>,
}

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    Incomplete,
    /// They are the client's own.
    Absent,
    /// So many bytes, and then the client's; the address unless the balancer speaks for itself.
    Whole {
        length: usize,
        client: Option<SocketAddr>,
    },
    Malformed,
}

impl Proxied {
    /// Reads the header off the connection, if there is to be one. What was read beyond it is in `first`.
    /// Gives the client's address, or why the connection ends.
    pub async fn client(
        &self,
        socket: &mut TcpStream,
        first: &mut BytesMut,
        peer: SocketAddr,
    ) -> Result<SocketAddr, &'static str> {
        let trusted = self.sources.iter().any(|network| network.holds(peer.ip()));
        match (self.mode, trusted) {
            (Mode::Off, _) | (Mode::Accept, false) => return Ok(peer),
            (Mode::Require, false) => return Err("proxy_protocol_untrusted_source"),
            (Mode::Accept | Mode::Require, true) => {}
        }
        let patience = if self.mode == Mode::Require { PATIENCE } else { ABSENT };
        loop {
            match Header::read(first) {
                Header::Whole { length, client } => {
                    first.advance(length);
                    return Ok(client.unwrap_or(peer));
                }
                Header::Absent if self.mode == Mode::Accept => return Ok(peer),
                Header::Absent => return Err("proxy_protocol_missing"),
                Header::Malformed => return Err("proxy_protocol_malformed"),
                Header::Incomplete => {}
            }
            let more = time::timeout(patience, std::future::poll_fn(|cx| socket.poll_recv(cx))).await;
            match more {
                Ok(Ok(Some(data))) => first.extend_from_slice(&data),
                Err(_) if self.mode == Mode::Accept && first.is_empty() => return Ok(peer),
                Err(_) => return Err("proxy_protocol_slow"),
                Ok(_) => return Err("proxy_protocol_malformed"),
            }
        }
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Self {
        let begun = |whole: &[u8]| bytes.len() < whole.len() && whole.starts_with(bytes);
        if bytes.starts_with(V2) {
            Self::v2(bytes)
        } else if bytes.starts_with(V1) {
            Self::v1(bytes)
        } else if begun(V2) || begun(V1) {
            Self::Incomplete
        } else {
            Self::Absent
        }
    }

    fn v1(bytes: &[u8]) -> Self {
        let seen = bytes.get(..V1_MOST).unwrap_or(bytes);
        let Some(end) = seen.windows(2).position(|two| two == b"\r\n") else {
            return if bytes.len() >= V1_MOST { Self::Malformed } else { Self::Incomplete };
        };
        let length = end + 2;
        let Some(line) = bytes.get(V1.len()..end).and_then(|line| std::str::from_utf8(line).ok()) else {
            return Self::Malformed;
        };
        if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
            return Self::Whole { length, client: None };
        }
        let words: Vec<&str> = line.split(' ').collect();
        let [family, source, destination, port, to] = *words else { return Self::Malformed };
        let ip = |text: &str| -> Option<IpAddr> {
            match family {
                "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                _ => None,
            }
        };
        match (ip(source), ip(destination), number(port), number(to)) {
            (Some(source), Some(_), Some(port), Some(_)) => {
                Self::Whole { length, client: Some(canonical(source, port)) }
            }
            _ => Self::Malformed,
        }
    }

    fn v2(bytes: &[u8]) -> Self {
        let Some([version, family, high, low]) = bytes.get(V2.len()..V2_HEAD) else {
            return Self::Incomplete;
        };
        let rest = usize::from(u16::from_be_bytes([*high, *low]));
        if version >> 4 != 2 || version & 15 > 1 || rest > V2_MOST {
            return Self::Malformed;
        }
        let length = V2_HEAD + rest;
        let Some(body) = bytes.get(V2_HEAD..length) else { return Self::Incomplete };
        // The balancer itself, which looks whether we are there.
        if version & 15 == 0 {
            return Self::Whole { length, client: None };
        }
        let (client, extensions) = match (family, body) {
            (0x11, [a, b, c, d, _, _, _, _, high, low, _, _, rest @ ..]) => {
                let port = u16::from_be_bytes([*high, *low]);
                (Some(canonical(Ipv4Addr::new(*a, *b, *c, *d).into(), port)), rest)
            }
            (0x21, body) if body.len() >= 36 => {
                let (addresses, rest) = body.split_at(36);
                let source: Option<[u8; 16]> = addresses.get(..16).and_then(|ip| ip.try_into().ok());
                let port: Option<[u8; 2]> = addresses.get(32..34).and_then(|port| port.try_into().ok());
                match (source, port) {
                    (Some(source), Some(port)) => {
                        (Some(canonical(Ipv6Addr::from(source).into(), u16::from_be_bytes(port))), rest)
                    }
                    _ => return Self::Malformed,
                }
            }
            // Of no family: the balancer does not know, and what follows is not to be read.
            (0x00, _) => return Self::Whole { length, client: None },
            _ => return Self::Malformed,
        };
        match are_whole(extensions) {
            true => Self::Whole { length, client },
            false => Self::Malformed,
        }
    }
}

/// Whether extensions fill their place exactly.
fn are_whole(mut extensions: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = extensions {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(rest) => extensions = rest,
            None => return false,
        }
    }
    extensions.is_empty()
}

fn canonical(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

/// Digits only: `+80` is a number to some and not to others.
fn number(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

// === what operators write ===

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "accept" => Ok(Self::Accept),
            "require" => Ok(Self::Require),
            other => Err(format!("{other:?} is none of off, accept, require")),
        }
    }
}

impl Network {
    fn holds(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let ((own, width), (other, of)) = (bits(self.address), bits(ip.to_canonical()));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or_default();
        width == of && own & mask == other & mask
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network: write ADDRESS/PREFIX, as 10.0.0.0/8 or fd00::/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => number(prefix).and_then(|prefix| u8::try_from(prefix).ok()).ok_or_else(wrong)?,
            None => most,
        };
        if prefix > most {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&V2[..], &[0x20 | command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x01, 0xbb];

    fn whole(bytes: &[u8], client: Option<&str>) {
        let client = client.map(|client| client.parse().unwrap());
        let expected = Header::Whole { length: bytes.len(), client };
        assert_eq!(Header::read(bytes), expected, "{bytes:?}");
        for cut in 0..bytes.len() {
            assert_eq!(Header::read(&bytes[..cut]), Header::Incomplete, "cut at {cut}: {bytes:?}");
        }
        // What follows is the client's.
        assert_eq!(Header::read(&[bytes, b"GET / HTTP/1.1\r\n"].concat()), expected);
    }

    #[test]
    fn both_versions_name_the_client_however_they_are_cut() {
        whole(b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n", Some("192.0.2.7:12345"));
        whole(b"PROXY TCP6 2001:db8::7 fd00::1 12345 443\r\n", Some("[2001:db8::7]:12345"));
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None);
        whole(&v2(1, 0x11, &ADDRESSES), Some("192.0.2.7:12345"));
        let extended = [&ADDRESSES[..], &[4, 0, 3, 0, 0, 0, 1, 0, 2, b'h', b'2']].concat();
        whole(&v2(1, 0x11, &extended), Some("192.0.2.7:12345"));
        let ip: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let six = [&ip.octets()[..], &[0; 16], &[0x30, 0x39, 0x01, 0xbb]].concat();
        whole(&v2(1, 0x21, &six), Some("[2001:db8::7]:12345"));
        whole(&v2(0, 0x00, &[]), None);
        whole(&v2(0, 0x11, &ADDRESSES), None);
    }

    #[test]
    fn what_is_malformed_is_never_taken_for_the_clients_own() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 120]].concat();
        let truncated = [&ADDRESSES[..], &[4, 0, 9, 0]].concat();
        let loose = [&ADDRESSES[..], &[4, 0]].concat();
        let huge = [&V2[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 12345\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443 \r\n",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 12345 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
            b"PROXY TCP5 192.0.2.7 10.0.0.1 1 443\r\n",
            b"PROXY \r\n",
            &long,
            &v2(2, 0x11, &ADDRESSES),
            &v2(1, 0x31, &[0; 216]),
            &v2(1, 0x11, &ADDRESSES[..11]),
            &v2(1, 0x21, &ADDRESSES),
            &v2(1, 0x11, &truncated),
            &v2(1, 0x11, &loose),
            &[&V2[..], &[0x11, 0x11, 0, 0]].concat(),
            &huge,
        ] {
            assert_eq!(Header::read(bytes), Header::Malformed, "{bytes:?}");
        }
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[22, 3, 1], b"PRI * HTTP/2.0", b"\r\n\r\nx"] {
            assert_eq!(Header::read(bytes), Header::Absent, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_harms(bytes in proptest::collection::vec(any::<u8>(), 0..200), two in any::<bool>()) {
            let bytes = if two { [&V2[..], &bytes].concat() } else { [V1, &bytes].concat() };
            if let Header::Whole { length, .. } = Header::read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }

    #[test]
    fn a_network_holds_its_own_addresses() {
        let holds = |network: &str, ip: &str| network.parse::<Network>().unwrap().holds(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.1.2.3") && holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("0.0.0.0/0", "192.0.2.1") && holds("::/0", "fd00::1") && holds("fd00::/8", "fd12::1"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.8"));
        for wrong in ["10.0.0.0/33", "x/8", "10.0.0.0/", "fd00::/129", "10.0.0.0/+8", ""] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }
}
