//! What an application speaks, judged by the first bytes that go by. Where something depends on it, the
//! judgement is only made once no further byte could change it, so that a first packet may be cut at any
//! byte. Where nothing does, nobody waits for it.

/// What the first bytes looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TLS of the application's own.
    Tls,
    Http1,
    Http2,
    /// Client bytes of no kind that we know.
    Other,
    /// The server spoke before the client did.
    ServerFirst,
    /// The port is declared opaque: nobody looked.
    Opaque,
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: [&[u8]; 9] =
    [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];

/// What a first line of HTTP/1 may take before it is taken for something else.
const LINE: usize = 16 * 1024;
/// The longest method that is looked for.
const METHOD: usize = 32;

impl Protocol {
    /// What the side that connected certainly speaks; nothing as long as the next byte may tell.
    pub fn certain(first: &[u8]) -> Option<Self> {
        if begins_http2(first)? {
            return Some(Self::Http2);
        }
        if first == [22] {
            return None;
        }
        if first.starts_with(&[22, 3]) {
            return Some(Self::Tls);
        }
        let line = match first.iter().position(|byte| *byte == b'\n') {
            Some(end) => &first[..end],
            None => first,
        };
        let method = line.iter().position(|byte| !is_token(*byte));
        match method {
            None if line.len() == first.len() && line.len() <= METHOD => return None,
            Some(1..=METHOD) if line[method.unwrap_or_default()] == b' ' => {}
            _ => return Some(Self::Other),
        }
        if line.len() == first.len() {
            return (line.len() > LINE).then_some(Self::Other);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // A client of a forward proxy speaks HTTP for one line only.
        if line.starts_with(b"CONNECT ") {
            return Some(Self::Other);
        }
        let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
        Some(if is_http { Self::Http1 } else { Self::Other })
    }

    /// Guesses by the first bytes of the side that connected.
    pub fn of_client(first: &[u8]) -> Self {
        let begins = |whole: &[u8]| {
            let length = whole.len().min(first.len());
            length > 0 && first[..length] == whole[..length]
        };
        // A TLS handshake record of any version 3.x.
        if first.starts_with(&[22, 3]) || first == [22] {
            Self::Tls
        } else if begins(HTTP2_PREFACE) && first.len() > 1 {
            Self::Http2
        } else if METHODS.iter().any(|method| begins(method)) {
            Self::Http1
        } else {
            Self::Other
        }
    }

    /// Whether requests can be told apart.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Other => "other",
            Self::ServerFirst => "server_first",
            Self::Opaque => "opaque",
        }
    }
}

/// Whether HTTP/2 begins so, without TLS; nothing as long as the next byte may tell.
pub fn begins_http2(first: &[u8]) -> Option<bool> {
    match first.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(first) {
        true => None,
        false => Some(first.starts_with(HTTP2_PREFACE)),
    }
}

/// What a method may be made of.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_the_same_however_the_first_packet_is_cut() {
        let cases: [(&[u8], Protocol); 16] = [
            (b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", Protocol::Http1),
            (b"PROPFIND /a b HTTP/1.1\r\n", Protocol::Http1),
            (b"PRI * HTTP/1.1\r\n", Protocol::Http1),
            (b"GET /old HTTP/1.0\n", Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Protocol::Http2),
            (&[22, 3, 1, 0, 200, 1, 0, 0, 196], Protocol::Tls),
            (&[22, 9, 1], Protocol::Other),
            // Redis, in its protocol and in lines
            (b"*1\r\n$4\r\nPING\r\n", Protocol::Other),
            (b"GET key\r\n", Protocol::Other),
            // AMQP, NATS, SSH, LDAP, PostgreSQL, MongoDB
            (b"AMQP\x00\x00\x09\x01", Protocol::Other),
            (b"CONNECT {\"verbose\":false}\r\n", Protocol::Other),
            (b"CONNECT web:443 HTTP/1.1\r\n", Protocol::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Protocol::Other),
            (b"\x30\x0c\x02\x01\x01", Protocol::Other),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Protocol::Other),
            (b"?\x00\x00\x00\x01", Protocol::Other),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Protocol::certain(bytes), Some(expected), "{bytes:?}");
            let judged = (1..bytes.len()).find_map(|cut| Protocol::certain(&bytes[..cut]));
            assert!(judged.is_none_or(|judged| judged == expected), "{bytes:?} was taken for {judged:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_no_request() {
        let line = [b"GET /".as_slice(), &vec![b'a'; LINE]].concat();
        assert_eq!(Protocol::certain(&line), Some(Protocol::Other));
        assert_eq!(Protocol::certain(&[b'A'; METHOD + 1]), Some(Protocol::Other));
        assert_eq!(Protocol::certain(b"GET /"), None);
    }

    #[test]
    fn a_client_hello_is_known_however_it_is_cut() {
        let hello = [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        for cut in 1..=hello.len() {
            assert_eq!(Protocol::of_client(&hello[..cut]), Protocol::Tls, "cut at {cut}");
        }
    }

    #[test]
    fn first_bytes_name_the_protocol() {
        let cases: [(&[u8], Protocol); 6] = [
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
            (b"PA", Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Protocol::Http2),
            (b"PRI", Protocol::Http2),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Protocol::Other),
            (b"", Protocol::Other),
        ];
        for (first, expected) in cases {
            assert_eq!(Protocol::of_client(first), expected, "{first:?}");
        }
    }
}
