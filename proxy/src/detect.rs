//! What an application speaks, guessed from the first bytes that go by. Nothing waits for it: a protocol
//! in which the server speaks first is never held up, and a first packet cut at any byte is only named
//! less precisely, never treated differently.

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

impl Protocol {
    /// Judges the first bytes of the side that connected.
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

#[cfg(test)]
mod tests {
    use super::*;

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
