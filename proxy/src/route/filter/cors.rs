//! Whose pages may read the answers. The proxy owns what is said about that: what a backend says of it is
//! dropped.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use trellis_api::proto::discovery as wire;

use super::{super::Invalid, header_name};

/// Seconds for which a preflight holds where the route says nothing.
const MAX_AGE: u32 = 5;
/// Bytes of a list of headers that is said back.
const LONGEST: usize = 4096;
const ANY: HeaderValue = HeaderValue::from_static("*");

#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Origin>,
    credentials: bool,
    methods: Listed,
    headers: Listed,
    expose: Option<HeaderValue>,
    max_age: u32,
}

#[derive(Clone, Debug)]
enum Listed {
    Nothing,
    These(HeaderValue),
    All,
}

/// Origins that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Any,
    Of { tls: bool, host: Host, port: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    Exactly(String),
    /// What it ends with, the dot before it included.
    Below(String),
}

/// The answer to a preflight.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// 204, or 403 for an origin that is not allowed.
    pub status: StatusCode,
    pub headers: HeaderMap,
}

impl Cors {
    pub fn read(wire: &wire::Cors) -> Result<Self, Invalid> {
        let name = |name: &str| header_name(name).map(|name| name.as_str().to_owned());
        let method = |method: &str| match method.parse::<Method>() {
            Ok(_) => Ok(method.to_owned()),
            Err(_) => Err(Invalid::new(format_args!("{method:?} is no method"))),
        };
        let credentials = wire.allow_credentials;
        let expose = match Listed::read(&wire.expose_headers, name)? {
            Listed::Nothing => None,
            Listed::These(names) => Some(names),
            // With credentials a browser takes `*` for a name.
            Listed::All => (!credentials).then_some(ANY),
        };
        Ok(Self {
            origins: wire.allow_origins.iter().map(|text| Origin::read(text)).collect::<Result<_, _>>()?,
            credentials,
            methods: Listed::read(&wire.allow_methods, method)?,
            headers: Listed::read(&wire.allow_headers, name)?,
            expose,
            max_age: if wire.max_age == 0 { MAX_AGE } else { wire.max_age },
        })
    }

    /// The answer, where the request only asks whether another may be sent. It goes to no backend.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Preflight> {
        let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if method != Method::OPTIONS || !request.contains_key(ORIGIN) {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_static("origin, access-control-request-headers"));
        let Some(origin) = self.allowed(request) else {
            return Some(Preflight { status: StatusCode::FORBIDDEN, headers });
        };
        self.grant(origin, &mut headers);
        match &self.methods {
            Listed::Nothing => None,
            Listed::These(methods) => Some(methods.clone()),
            Listed::All if self.credentials => asked.to_str().ok().and_then(|asked| {
                asked.parse::<Method>().ok().map(|_| HeaderValue::from_str(asked).unwrap_or(ANY))
            }),
            Listed::All => Some(ANY),
        }
        .map(|methods| headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods));
        match &self.headers {
            Listed::Nothing => None,
            Listed::These(names) => Some(names.clone()),
            // Not `*`, by which a browser does not mean `authorization`.
            Listed::All => names(request.get(ACCESS_CONTROL_REQUEST_HEADERS)),
        }
        .map(|names| headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names));
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        Some(Preflight { status: StatusCode::NO_CONTENT, headers })
    }

    /// The origin to name in the answer to a request that is sent on: `None` where it has none, or one that
    /// is not allowed. Such a request is sent on all the same, as Gateway API wants; its page is told
    /// nothing.
    pub fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        let mut sent = request.get_all(ORIGIN).iter();
        let (Some(origin), None) = (sent.next(), sent.next()) else { return None };
        let text = origin.to_str().ok()?;
        let parsed = Origin::read(text).ok();
        let holds = |allowed: &Origin| parsed.as_ref().is_some_and(|origin| allowed.holds(origin));
        if self.everybody() {
            return Some(if self.credentials { origin.clone() } else { ANY });
        }
        self.origins.iter().any(holds).then(|| origin.clone())
    }

    /// Changes the answer to a request that was sent on, for which [`Self::allowed`] gave `origin`.
    pub fn apply(&self, origin: Option<HeaderValue>, response: &mut HeaderMap) {
        const SAID: [HeaderName; 6] = [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ];
        for name in SAID {
            response.remove(name);
        }
        // Whoever stores the answer must not show it to another origin, nor one without to any.
        if !self.everybody() || self.credentials {
            response.append(VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = origin {
            self.grant(origin, response);
        }
    }

    fn everybody(&self) -> bool {
        self.origins.contains(&Origin::Any)
    }

    fn grant(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// A client's list of headers, where it is one.
fn names(asked: Option<&HeaderValue>) -> Option<HeaderValue> {
    let asked = asked?;
    let text = asked.to_str().ok()?;
    let are_names = text.len() <= LONGEST && text.split(',').all(|name| header_name(name.trim()).is_ok());
    are_names.then(|| asked.clone())
}

impl Listed {
    fn read(wire: &[String], one: impl Fn(&str) -> Result<String, Invalid>) -> Result<Self, Invalid> {
        if wire.iter().any(|text| text == "*") {
            return Ok(Self::All);
        }
        let texts: Vec<String> = wire.iter().map(|text| one(text)).collect::<Result<_, _>>()?;
        match HeaderValue::try_from(texts.join(", ")) {
            Ok(list) if !texts.is_empty() => Ok(Self::These(list)),
            _ => Ok(Self::Nothing),
        }
    }
}

impl Origin {
    /// Reads what a route allows; what a browser sends is read alike, and never means `*`.
    fn read(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let invalid = || {
            Invalid::new(format_args!(
                "origin {text:?} is neither \"*\" nor a scheme and a host, such as \"https://*.example.org\""
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(invalid()),
        };
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                let port = port.parse().ok().filter(|port| digits && *port > 0).ok_or_else(invalid)?;
                (name, port)
            }
            _ => (rest, if tls { 443 } else { 80 }),
        };
        let host = match (name, name.strip_prefix("*.")) {
            ("*", _) => Host::Any,
            (_, Some(below)) if is_host(below) => Host::Below(format!(".{}", below.to_ascii_lowercase())),
            _ if is_host(name) => Host::Exactly(name.to_ascii_lowercase()),
            _ => return Err(invalid()),
        };
        Ok(Self::Of { tls, host, port })
    }

    fn holds(&self, sent: &Self) -> bool {
        let Self::Of { tls, host, port } = self else { return true };
        let Self::Of { tls: sent_tls, host: Host::Exactly(name), port: sent_port } = sent else {
            return false;
        };
        tls == sent_tls
            && port == sent_port
            && match host {
                Host::Any => true,
                Host::Exactly(wanted) => wanted == name,
                Host::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
            }
    }
}

fn is_host(name: &str) -> bool {
    matches!(super::host::split(name), Ok((_, None))) && !name.ends_with('.')
}
