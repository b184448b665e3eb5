//! What a request is for, in one form. Routes are chosen by this form, rules about access are judged by it,
//! and it is what is sent on, so that nobody can say one thing to us and another to who answers.
//!
//! | In a path | What becomes of it | Why |
//! |---|---|---|
//! | `/./`, `/../`, at the end too | resolved, as RFC 3986 says | the application would |
//! | `%61` and other escapes of letters, digits, `-._~` | the character | both mean the same |
//! | `%c3` and other escapes | kept, in upper case | they are data |
//! | a character that a path may not hold, such as `\|` or `é` | its escape | both mean the same |
//! | `\`, raw | refused | some read it as `/` |
//! | control characters, `%00` to `%1F`, `%7F` | refused | they end strings, lines and headers |
//! | `%zz`, `%` at the end | refused | nobody can say what it means |
//! | `//` | by [`Slashes`] | it is data to some, and `/` to others |
//! | `%2F`, `%5C` | by [`Slashes`] | likewise |
//! | `..%2F`, `..;x`, whatever is a `.` or `..` only to those who read more into it | refused | of use to attackers alone |
//! | `;x` | kept | an element `a;x` is not `a`; who forbids `a` must think of it |
//! | `%252e` | kept | it is a `%`, and is decoded once by whoever decodes once |
//!
//! A `#` never comes this far: whoever parses the request drops it and what follows, for all of us alike.
//! A query is sent on as it came.
//!
//! A host is a name of DNS or an address, compared in lower case and without the dot at its end, and is
//! sent on as it came, as Gateway API wants: in names case says nothing, and nothing else can differ. There
//! has to be exactly one: none, several `Host` lines, and a `Host` that is not the `:authority` are refused.

use std::fmt;

use bytes::Bytes;
use http::{
    HeaderValue, Method,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery},
};

use super::host;

/// What `//` and the escapes of `/` and `\` in a path are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slashes {
    /// Data, which is left as it is. Between workloads, where applications use it (a virtual host of
    /// RabbitMQ is `%2F`, a URL in a path has `//`) and no rule about access depends on a path.
    Data,
    /// Separators: `//` becomes `/`, and an escape is refused. For gateways, and wherever a rule about
    /// access names a path.
    Separators,
}

/// Why a request is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    NoHost,
    SeveralHosts,
    HostsDiffer,
    BadHost,
    BadPort,
    BadScheme,
    NoPath,
    BadEscape,
    ControlCharacter,
    Backslash,
    EscapedSlash,
    HiddenDots,
    TooLong,
}

/// The target of one request. Cheap to clone; for a request that is in normal form already, which almost
/// all are, making it copies no text.
#[derive(Clone, Debug)]
pub struct Target {
    authority: Sent,
    /// The name as it is compared, where that is not the beginning of what was sent.
    host: Option<Box<str>>,
    host_length: usize,
    path: PathAndQuery,
}

/// Where the host was said.
#[derive(Clone, Debug)]
enum Sent {
    Authority(Authority),
    Header(HeaderValue),
}

impl Target {
    pub fn of(parts: &Parts, slashes: Slashes) -> Result<Self, Refusal> {
        if parts.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
            return Err(Refusal::BadScheme);
        }
        let mut headers = parts.headers.get_all(HOST).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return Err(Refusal::SeveralHosts);
        }
        let authority = match (parts.uri.authority(), header) {
            (None, None) => return Err(Refusal::NoHost),
            (None, Some(header)) => Sent::Header(header.clone()),
            (Some(authority), None) => Sent::Authority(authority.clone()),
            (Some(authority), Some(header)) => {
                let header = header.to_str().map_err(|_| Refusal::BadHost)?;
                if host::split(header)? != host::split(authority.as_str())? {
                    return Err(Refusal::HostsDiffer);
                }
                Sent::Authority(authority.clone())
            }
        };
        let path = parts.uri.path_and_query().ok_or(Refusal::NoPath)?;
        let path = normal(path, &parts.method, slashes)?;
        Self::new(authority, path)
    }

    fn new(authority: Sent, path: PathAndQuery) -> Result<Self, Refusal> {
        let text = authority.text().ok_or(Refusal::BadHost)?;
        let (host, _) = host::split(text)?;
        let host_length = host.len();
        let host = text.get(..host_length).is_none_or(|sent| sent != host).then(|| (&*host).into());
        Ok(Self { host, host_length, authority, path })
    }

    /// The name or address, as routes compare it.
    pub fn host(&self) -> &str {
        match &self.host {
            Some(host) => host,
            None => self.authority().get(..self.host_length).unwrap_or_default(),
        }
    }

    /// Host and port as they were sent.
    pub fn authority(&self) -> &str {
        self.authority.text().unwrap_or_default()
    }

    /// [`Self::authority`] as a `Host` header.
    pub fn host_header(&self) -> HeaderValue {
        match &self.authority {
            Sent::Header(header) => header.clone(),
            // An authority holds fewer characters than a header may.
            Sent::Authority(authority) => {
                HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static(""))
            }
        }
    }

    pub fn path(&self) -> &str {
        self.path.path()
    }

    /// As it was sent.
    pub fn query(&self) -> Option<&str> {
        self.path.query()
    }

    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.path
    }

    /// `OPTIONS *`, which is about the server and no path of it.
    pub fn is_server(&self) -> bool {
        self.path() == "*"
    }

    /// The same with another host and no port. `None` where `host` is none.
    pub(super) fn with_host(&self, host: &HeaderValue) -> Option<Self> {
        Self::new(Sent::Header(host.clone()), self.path.clone()).ok()
    }

    /// The same with another path, which is in normal form. `None` where it is too long.
    pub(super) fn with_path(&self, path: String) -> Option<Self> {
        let path = join(path, self.query()).ok()?;
        Some(Self { path, ..self.clone() })
    }
}

impl Sent {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Authority(authority) => Some(authority.as_str()),
            Self::Header(header) => header.to_str().ok(),
        }
    }
}

// === paths ===

/// The path of a rule in the form in which requests have theirs.
pub(super) fn normal_path(path: &str) -> Result<String, Refusal> {
    if path.starts_with('/') { resolve(path, Slashes::Data) } else { Err(Refusal::NoPath) }
}

fn normal(sent: &PathAndQuery, method: &Method, slashes: Slashes) -> Result<PathAndQuery, Refusal> {
    let path = sent.path();
    if path == "*" && sent.query().is_none() && method == Method::OPTIONS {
        return Ok(sent.clone());
    }
    if !path.starts_with('/') {
        return Err(Refusal::NoPath);
    }
    // `http://host?query` has an empty path, which stands for `/`.
    let complete = sent.as_str().starts_with('/');
    if complete && is_plain(path.as_bytes(), slashes) {
        return Ok(sent.clone());
    }
    let resolved = resolve(path, slashes)?;
    if complete && resolved == path { Ok(sent.clone()) } else { join(resolved, sent.query()) }
}

fn join(mut path: String, query: Option<&str>) -> Result<PathAndQuery, Refusal> {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(path)).map_err(|_| Refusal::TooLong)
}

/// Whether a path is so plain that its normal form is itself.
fn is_plain(path: &[u8], slashes: Slashes) -> bool {
    let mut before = 0;
    for byte in path {
        match byte {
            b'.' if before == b'/' => return false,
            b'/' if before == b'/' && slashes == Slashes::Separators => return false,
            b'/' => (),
            other if is_path_character(*other) => (),
            _ => return false,
        }
        before = *byte;
    }
    true
}

fn resolve(path: &str, slashes: Slashes) -> Result<String, Refusal> {
    let decoded = decode(path, slashes)?;
    let mut resolved = String::with_capacity(decoded.len());
    let mut elements = decoded.split('/').skip(1).peekable();
    while let Some(element) = elements.next() {
        let last = elements.peek().is_none();
        match element {
            "." | ".." => {
                if element == ".." {
                    resolved.truncate(resolved.rfind('/').unwrap_or_default());
                }
                if last {
                    resolved.push('/');
                }
            }
            "" if slashes == Slashes::Separators && !last => (),
            _ if hides_dots(element) => return Err(Refusal::HiddenDots),
            _ => {
                resolved.push('/');
                resolved.push_str(element);
            }
        }
    }
    Ok(resolved)
}

/// Whether somebody who takes escapes for slashes, or drops what follows a `;`, sees `.` or `..` here.
fn hides_dots(element: &str) -> bool {
    let mut rest = element;
    loop {
        let next = rest.match_indices('%').map(|(at, _)| at).find(|at| {
            let escape = rest.get(at + 1..at + 3);
            escape == Some("2F") || escape == Some("5C")
        });
        let piece = rest.get(..next.unwrap_or(rest.len())).unwrap_or_default();
        if matches!(piece.split(';').next(), Some("." | "..")) {
            return true;
        }
        match next {
            Some(at) => rest = rest.get(at + 3..).unwrap_or_default(),
            None => return false,
        }
    }
}

/// Escapes what must be escaped, and nothing else.
fn decode(path: &str, slashes: Slashes) -> Result<String, Refusal> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Refusal::BadEscape) };
                let meant = (high * 16 + low) as u8;
                match meant {
                    0..0x20 | 0x7f => return Err(Refusal::ControlCharacter),
                    b'/' | b'\\' if slashes == Slashes::Separators => return Err(Refusal::EscapedSlash),
                    _ if is_unreserved(meant) => decoded.push(meant.into()),
                    _ => escape(&mut decoded, meant),
                }
            }
            0..0x20 | 0x7f => return Err(Refusal::ControlCharacter),
            b'\\' => return Err(Refusal::Backslash),
            byte if byte == b'/' || is_path_character(byte) => decoded.push(byte.into()),
            byte => escape(&mut decoded, byte),
        }
    }
    Ok(decoded)
}

fn escape(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default().to_ascii_uppercase();
    text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// What means the same escaped or not.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What an element of a path may hold as it is.
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte)
}

// === impl Refusal ===

impl Refusal {
    /// For the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoHost => "no_host",
            Self::SeveralHosts => "several_hosts",
            Self::HostsDiffer => "hosts_differ",
            Self::BadHost => "bad_host",
            Self::BadPort => "bad_port",
            Self::BadScheme => "bad_scheme",
            Self::NoPath => "no_path",
            Self::BadEscape => "bad_escape",
            Self::ControlCharacter => "control_character",
            Self::Backslash => "backslash",
            Self::EscapedSlash => "escaped_slash",
            Self::HiddenDots => "hidden_dots",
            Self::TooLong => "too_long",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NoHost => "the request names no host",
            Self::SeveralHosts => "the request has several Host headers",
            Self::HostsDiffer => "the Host header is not the host of the target",
            Self::BadHost => "the host is neither a name nor an address",
            Self::BadPort => "the port of the host is not one of 1 to 65535",
            Self::BadScheme => "the scheme is neither http nor https",
            Self::NoPath => "the target is no path that begins with /",
            Self::BadEscape => "the path has a % without two hexadecimal digits",
            Self::ControlCharacter => "the path has a control character",
            Self::Backslash => "the path has a backslash",
            Self::EscapedSlash => "the path has an escaped / or \\",
            Self::HiddenDots => "the path hides . or .. from some of those who read it",
            Self::TooLong => "the path is too long",
        })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
#[path = "target/tests.rs"]
pub(super) mod tests;
