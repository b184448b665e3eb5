//! The name that a client of TLS asks for, read from its greeting without taking part in it. The greeting
//! may be cut anywhere, by segments and by records: one that offers a post-quantum key needs two segments.

/// What a greeting says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It has not come to its end.
    Incomplete,
    /// It is whole; who names nobody wants whoever is there.
    Whole {
        name: Option<String>,
        /// Whether the client speaks TLS 1.3.
        modern: bool,
    },
    /// It is none.
    Broken,
}

/// The longest that is read. Greetings with a post-quantum key have about 1.8 kB.
const MOST: usize = 64 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const TLS_13: [u8; 2] = [3, 4];

impl Greeting {
    /// Reads what came so far.
    pub fn read(bytes: &[u8]) -> Self {
        let mut message = Vec::new();
        let mut rest = bytes;
        loop {
            match rest {
                [HANDSHAKE, 3, _, high, low, after @ ..] => {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    if length == 0 {
                        return Self::Broken;
                    }
                    let (part, next) = after.split_at(length.min(after.len()));
                    message.extend_from_slice(part);
                    rest = next;
                }
                [HANDSHAKE, 3, ..] | [HANDSHAKE] | [] => {}
                _ => return Self::Broken,
            }
            if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                return Self::Broken;
            }
            if let [_, a, b, c, hello @ ..] = &*message {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                if length > MOST {
                    return Self::Broken;
                }
                if let Some(hello) = hello.get(..length) {
                    return whole(hello).unwrap_or(Self::Broken);
                }
            }
            if rest.len() < 5 {
                return if bytes.len() > 2 * MOST { Self::Broken } else { Self::Incomplete };
            }
        }
    }
}

/// What a whole greeting says; `None` where it is malformed.
fn whole(hello: &[u8]) -> Option<Greeting> {
    let mut hello = Reader(hello);
    // Version and random, then session, suites and compressions.
    hello.take(34)?;
    hello.vector8()?;
    hello.vector16()?;
    hello.vector8()?;
    let (mut name, mut modern) = (None, false);
    if hello.0.is_empty() {
        return Some(Greeting::Whole { name, modern });
    }
    let mut extensions = Reader(hello.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let mut extension = Reader(extensions.vector16()?);
        match kind {
            SERVER_NAME if name.is_none() => {
                let mut names = Reader(extension.vector16()?);
                while !names.0.is_empty() && name.is_none() {
                    let [kind] = names.take(1)? else { return None };
                    let said = names.vector16()?;
                    if *kind == HOST_NAME {
                        let said = std::str::from_utf8(said).ok();
                        name = Some(said.filter(|said| !said.is_empty() && said.is_ascii())?.to_owned());
                    }
                }
            }
            SUPPORTED_VERSIONS => {
                modern = extension.vector8()?.chunks_exact(2).any(|version| version == TLS_13);
            }
            _ => {}
        }
    }
    Some(Greeting::Whole { name, modern })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let [length] = self.take(1)? else { return None };
        self.take((*length).into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

    use super::*;

    /// As a real client greets.
    fn greeting(name: &'static str) -> Vec<u8> {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same in records of `size` bytes.
    fn in_records(greeting: &[u8], size: usize) -> Vec<u8> {
        greeting[5..]
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat())
            .collect()
    }

    #[test]
    fn a_name_is_read_however_the_greeting_is_cut() {
        let whole = greeting("web.shop.example");
        assert!(whole.len() > 1_400, "a post-quantum key is not offered: {}", whole.len());
        for bytes in [whole.clone(), in_records(&whole, 100), in_records(&whole, 1)] {
            for cut in 0..bytes.len() {
                assert_eq!(Greeting::read(&bytes[..cut]), Greeting::Incomplete, "cut at {cut}");
            }
            let read = Greeting::read(&bytes);
            assert_eq!(read, Greeting::Whole { name: Some("web.shop.example".into()), modern: true });
        }
    }

    #[test]
    fn who_names_nobody_is_understood() {
        // An address is no name, so none is sent.
        assert_eq!(Greeting::read(&greeting("192.0.2.1")), Greeting::Whole { name: None, modern: true });
    }

    #[test]
    fn nonsense_is_no_greeting_and_harms_nobody() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 4, 2, 0, 0, 0],
            &[22, 3, 1, 0, 4, 1, 255, 255, 255],
            &[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3],
            &[23, 3, 3, 0, 1, 0],
        ] {
            assert_eq!(Greeting::read(bytes), Greeting::Broken, "{bytes:?}");
        }
        let whole = greeting("web.shop.example");
        for at in 5..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = Greeting::read(&bytes);
        }
    }
}
