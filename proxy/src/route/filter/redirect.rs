//! An answer that sends the client elsewhere.

use http::{HeaderValue, StatusCode};
use trellis_api::proto::discovery as wire;

use super::{
    super::{Invalid, target::Target},
    PathChange, hostname,
};

#[derive(Clone, Debug)]
pub struct Redirect {
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
    path: Option<PathChange>,
    port: Option<u16>,
    status: StatusCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Where a request came in: the listener of a gateway, or the port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The client speaks TLS there.
    pub tls: bool,
    pub port: u16,
}

impl Redirect {
    pub fn read(wire: &wire::Redirect) -> Result<Self, Invalid> {
        let scheme = match wire.scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                return Err(Invalid::new(format_args!("scheme {other:?} is neither \"http\" nor \"https\"")));
            }
        };
        let host = match wire.hostname.as_str() {
            "" => None,
            name => Some(hostname(name)?),
        };
        let port = match wire.port {
            0 => None,
            port => Some(
                u16::try_from(port)
                    .map_err(|_| Invalid::new(format_args!("port {port} is not one of 1 to 65535")))?,
            ),
        };
        let status = match wire.status {
            0 => StatusCode::FOUND,
            301 => StatusCode::MOVED_PERMANENTLY,
            302 => StatusCode::FOUND,
            303 => StatusCode::SEE_OTHER,
            307 => StatusCode::TEMPORARY_REDIRECT,
            308 => StatusCode::PERMANENT_REDIRECT,
            other => {
                return Err(Invalid::new(format_args!("status {other} is none of 301, 302, 303, 307, 308")));
            }
        };
        Ok(Self { scheme, host, path: PathChange::read(wire.path.as_ref())?, port, status })
    }

    pub fn path(&self) -> Option<&PathChange> {
        self.path.as_ref()
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The `Location` for a request; its query goes along. `matched` is how much of the path a prefix took.
    /// `None` where what the client sent cannot be said in a header.
    pub fn location(&self, target: &Target, matched: usize, entry: Entry) -> Option<HeaderValue> {
        let own = if entry.tls { Scheme::Https } else { Scheme::Http };
        let scheme = self.scheme.unwrap_or(own);
        // A scheme that is asked for brings its own port; where none is, the client comes back to where it
        // was.
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => scheme.port(),
            (None, None) => entry.port,
        };
        let host = match &self.host {
            Some(host) => host.to_str().ok()?,
            None => target.host(),
        };
        let mut location = format!("{}://{host}", scheme.as_str());
        if port != scheme.port() {
            location.push_str(&format!(":{port}"));
        }
        match &self.path {
            Some(path) if !target.is_server() => location.push_str(&path.apply(target.path(), matched)),
            None if !target.is_server() => location.push_str(target.path()),
            _ => location.push('/'),
        }
        if let Some(query) = target.query() {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::from_str(&location).or_else(|_| HeaderValue::from_bytes(location.as_bytes())).ok()
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}
