//! What a match of a rule asks of a request, beyond its host.
//!
//! A condition that no request can fulfil, such as a header's name with a space in it, never holds. One
//! whose meaning is unknown, such as a regular expression that does not compile, is taken to hold, and
//! whoever it holds for is answered with 500: what it was meant to catch goes nowhere else.

use std::{borrow::Cow, cmp::Reverse, fmt};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{COOKIE, HOST},
};
use trellis_api::proto::discovery as wire;

use super::{
    Invalid,
    pattern::Pattern,
    target::{self, Target},
};

/// What is asked of a path.
#[derive(Clone, Debug)]
pub enum Path {
    Exact(String),
    /// By whole elements, without the slash at its end: `/` is the empty one.
    Prefix(String),
    Regex(Pattern),
    /// Nobody knows.
    Unknown,
}

/// What is asked of the rest.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    method: Option<Method>,
    headers: Vec<Named<HeaderName>>,
    query: Vec<Named<String>>,
}

#[derive(Clone, Debug)]
struct Named<N> {
    name: N,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Exact(String),
    Regex(Pattern),
    Unknown,
}

/// Among matches whose paths say the same, who comes first: the smallest.
pub type Rank = (Reverse<bool>, Reverse<usize>, Reverse<usize>);

/// A match that was read.
#[derive(Debug)]
pub struct Read {
    pub path: Path,
    pub conditions: Conditions,
    /// Why whoever it holds for is answered with 500.
    pub unknown: Option<Invalid>,
}

/// Reads a match. An error says why no request can be what it asks for.
pub fn read(wire: &wire::HttpMatch) -> Result<Read, Invalid> {
    let mut unknown = None;
    let mut known = |part: fmt::Arguments<'_>, result: Result<Value, Invalid>| {
        result.unwrap_or_else(|why| {
            unknown.get_or_insert(why.of(part));
            Value::Unknown
        })
    };
    let mut conditions = Conditions::default();
    if !wire.method.is_empty() {
        let method = wire.method.parse().map_err(|_| {
            Invalid::new(format_args!("method {:?} is none: no request can have it", wire.method))
        })?;
        conditions.method = Some(method);
    }
    for header in &wire.headers {
        let name = HeaderName::try_from(&header.name).map_err(|_| {
            Invalid::new(format_args!("header {:?} is no name: no request can have it", header.name))
        })?;
        // Of several for one name the first counts.
        if conditions.headers.iter().any(|one| one.name == name) {
            continue;
        }
        if !header.regex && HeaderValue::from_str(&header.value).is_err() {
            return Err(Invalid::new(format_args!("header {name}: no request can have the value asked for")));
        }
        let value = known(format_args!("header {name}"), Value::read(header));
        conditions.headers.push(Named { name, value });
    }
    for parameter in &wire.query {
        if conditions.query.iter().any(|one| one.name == parameter.name) {
            continue;
        }
        let value = known(format_args!("query parameter {:?}", parameter.name), Value::read(parameter));
        conditions.query.push(Named { name: parameter.name.clone(), value });
    }
    let path = match Path::read(wire.path.as_ref()) {
        Ok(path) => path,
        Err(Unreadable::Never(why)) => return Err(why.of(format_args!("path"))),
        Err(Unreadable::Unknown(why)) => {
            unknown = Some(why.of(format_args!("path")));
            Path::Unknown
        }
    };
    Ok(Read { path, conditions, unknown })
}

enum Unreadable {
    Never(Invalid),
    Unknown(Invalid),
}

impl Path {
    fn read(wire: Option<&wire::PathMatch>) -> Result<Self, Unreadable> {
        use wire::path_match::Kind;
        let Some(wire) = wire else { return Ok(Self::Prefix(String::new())) };
        let value = &wire.value;
        let normal = || {
            target::normal_path(value)
                .map_err(|why| Unreadable::Never(Invalid::new(format_args!("{value:?} is no path: {why}"))))
        };
        match Kind::try_from(wire.kind) {
            Ok(Kind::Prefix) if value.is_empty() => Ok(Self::Prefix(String::new())),
            Ok(Kind::Prefix) => {
                let mut prefix = normal()?;
                if prefix.ends_with('/') {
                    prefix.pop();
                }
                Ok(Self::Prefix(prefix))
            }
            Ok(Kind::Exact) => Ok(Self::Exact(normal()?)),
            Ok(Kind::Regex) => Pattern::new(value).map(Self::Regex).map_err(Unreadable::Unknown),
            Err(_) => Err(Unreadable::Unknown(Invalid::new(format_args!(
                "this proxy does not know matches of kind {}; a newer one may",
                wire.kind
            )))),
        }
    }
}

impl Value {
    fn read(wire: &wire::NamedMatch) -> Result<Self, Invalid> {
        match wire.regex {
            true => Pattern::new(&wire.value).map(Self::Regex),
            false => Ok(Self::Exact(wire.value.clone())),
        }
    }
}

impl Conditions {
    pub fn rank(&self) -> Rank {
        (Reverse(self.method.is_some()), Reverse(self.headers.len()), Reverse(self.query.len()))
    }

    pub fn hold(&self, target: &Target, method: &Method, headers: &HeaderMap) -> bool {
        self.method.as_ref().is_none_or(|asked| asked == method)
            && self.headers.iter().all(|asked| header_holds(asked, target, headers))
            && self.query.iter().all(|asked| query_holds(asked, target.query().unwrap_or_default()))
    }
}

/// A header that is repeated holds by any of its values, and by all of them joined as HTTP has it: with a
/// comma, and cookies, which HTTP/2 may send one by one, with a semicolon.
fn header_holds(asked: &Named<HeaderName>, target: &Target, headers: &HeaderMap) -> bool {
    // In HTTP/2 it is no header.
    if asked.name == HOST {
        return asked.value.holds(target.authority());
    }
    let values = headers.get_all(&asked.name);
    let mut each = values.iter();
    let several = match (each.next(), each.next()) {
        (None, _) => return false,
        (Some(_), None) => false,
        (Some(_), Some(_)) => true,
    };
    // HTTP/2 carries spaces around a value, and whoever reads it as HTTP/1 does not see them.
    let one = |value: &HeaderValue| match &asked.value {
        Value::Exact(wanted) => value.as_bytes().trim_ascii() == wanted.as_bytes(),
        other => std::str::from_utf8(value.as_bytes().trim_ascii()).is_ok_and(|value| other.holds(value)),
    };
    if values.iter().any(one) {
        return true;
    }
    if !several {
        return false;
    }
    let separator = if asked.name == COOKIE { "; " } else { ", " };
    let texts: Option<Vec<&str>> =
        values.iter().map(|value| std::str::from_utf8(value.as_bytes().trim_ascii()).ok()).collect();
    let Some(texts) = texts else { return false };
    let joined = texts.join(separator);
    match &asked.value {
        // The space after a comma says nothing.
        Value::Exact(wanted) if separator == ", " => {
            let elements = |text: &str| text.split(',').map(|one| one.trim().to_owned()).collect::<Vec<_>>();
            elements(wanted) == elements(&joined)
        }
        value => value.holds(&joined),
    }
}

/// A parameter that is repeated is its first value. Name and value are compared decoded, where a `+` is a
/// `+`: only forms mean a space by it.
fn query_holds(asked: &Named<String>, query: &str) -> bool {
    let parameters = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = parameters.filter(|(name, _)| decoded(name) == asked.name.as_bytes());
    let Some((_, value)) = named.next() else { return false };
    let value = decoded(value);
    match &asked.value {
        Value::Exact(wanted) => value == wanted.as_bytes(),
        other => std::str::from_utf8(&value).is_ok_and(|value| other.holds(value)),
    }
}

/// What is no escape stays as it is: a query is nobody's but the application's.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(decoded)
}

impl Value {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == value,
            Self::Regex(pattern) => pattern.holds(value),
            Self::Unknown => true,
        }
    }
}

/// As a person would write it.
pub fn describe(wire: &wire::HttpMatch) -> String {
    use wire::path_match::Kind;
    let mut parts = Vec::new();
    if !wire.method.is_empty() {
        parts.push(wire.method.clone());
    }
    parts.push(match &wire.path {
        None => "/*".to_owned(),
        Some(path) => match Kind::try_from(path.kind) {
            Ok(Kind::Prefix) => format!("{}/*", path.value.strip_suffix('/').unwrap_or(&path.value)),
            Ok(Kind::Exact) => path.value.clone(),
            Ok(Kind::Regex) => format!("~{}", path.value),
            Err(_) => format!("?{}", path.value),
        },
    });
    let named = |kind: &str, one: &wire::NamedMatch| {
        format!("{kind} {}{}{}", one.name, if one.regex { "~" } else { "=" }, one.value)
    };
    parts.extend(wire.headers.iter().map(|header| named("header", header)));
    parts.extend(wire.query.iter().map(|parameter| named("query", parameter)));
    parts.join(", ")
}
