//! Names of hosts: as requests say them, as routes ask for them, and which of several that ask for a name
//! asks for it most precisely.

use std::{borrow::Cow, collections::HashMap, net::Ipv6Addr};

use super::{Invalid, target::Refusal};

/// The longest name that DNS knows.
const LONGEST: usize = 253;

/// Splits what a request calls its host into the name, in lower case and without the dot at its end, and
/// the port.
pub fn split(authority: &str) -> Result<(Cow<'_, str>, Option<u16>), Refusal> {
    if authority.is_empty() {
        return Err(Refusal::NoHost);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(Refusal::BadHost)?;
        address.parse::<Ipv6Addr>().map_err(|_| Refusal::BadHost)?;
        let port = match after.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if after.is_empty() => None,
            None => return Err(Refusal::BadHost),
        };
        let literal = authority.get(..address.len() + 2).unwrap_or(authority);
        return Ok((lower(literal), port));
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, digits)) => (name, Some(port(digits)?)),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if is_name(name) { Ok((lower(name), port)) } else { Err(Refusal::BadHost) }
}

/// Digits only: `+80` and the empty port are numbers to some and not to others.
fn port(digits: &str) -> Result<u16, Refusal> {
    let plain = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if plain && port > 0 => Ok(port),
        _ => Err(Refusal::BadPort),
    }
}

/// Labels of DNS, with the underscore that some names of containers have.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.len() <= LONGEST && name.split('.').all(label)
}

fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    }
}

/// The hosts that a route or listener asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Any,
    Exactly(Box<str>),
    /// Every host below this one, at any depth, and not this one.
    Below(Box<str>),
}

impl Wanted {
    /// Reads a hostname of Gateway API; the empty one is every host.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (name, make): (&str, fn(Box<str>) -> Self) = match lower.strip_prefix("*.") {
            Some(name) => (name, Self::Below),
            None => (&lower, Self::Exactly),
        };
        if !is_name(name) {
            return Err(Invalid::new(format_args!(
                "hostname {text:?} is neither a name nor `*.` before one: no request can be for it"
            )));
        }
        Ok(make(name.into()))
    }
}

/// Something for each of the hosts that were asked for.
#[derive(Clone, Debug)]
pub struct Hosts<T> {
    exactly: HashMap<Box<str>, T>,
    below: HashMap<Box<str>, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exactly: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// All that holds for `host`, which is as [`split`] gives it, the most precise first: the name itself,
    /// then the longest that it is below, then every host.
    pub fn of<'a, 'h>(&'a self, host: &'h str) -> impl Iterator<Item = &'a T> + use<'a, 'h, T> {
        let dots = match self.below.is_empty() {
            true => "",
            false => host,
        };
        let above = dots.match_indices('.').filter_map(move |(dot, _)| self.below.get(dots.get(dot + 1..)?));
        self.exactly.get(host).into_iter().chain(above).chain(&self.any)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exactly.values_mut().chain(self.below.values_mut()).chain(&mut self.any)
    }

    pub fn is_empty(&self) -> bool {
        self.exactly.is_empty() && self.below.is_empty() && self.any.is_none()
    }
}

impl<T: Default> Hosts<T> {
    pub fn entry(&mut self, wanted: Wanted) -> &mut T {
        match wanted {
            Wanted::Any => self.any.get_or_insert_default(),
            Wanted::Exactly(name) => self.exactly.entry(name).or_default(),
            Wanted::Below(name) => self.below.entry(name).or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_form() {
        let cases = [
            ("example.org", "example.org", None),
            ("EXAMPLE.org:8080", "example.org", Some(8080)),
            ("example.org.", "example.org", None),
            ("example.org.:80", "example.org", Some(80)),
            ("under_score-1.x", "under_score-1.x", None),
            ("10.0.0.1:1", "10.0.0.1", Some(1)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8::1]:443", "[2001:db8::1]", Some(443)),
        ];
        for (sent, name, port) in cases {
            assert_eq!(split(sent), Ok((name.into(), port)), "{sent}");
        }
    }

    #[test]
    fn what_two_could_read_differently_is_refused() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = ["a"; 128].join(".");
        let cases = [
            ("", Refusal::NoHost),
            (".", Refusal::BadHost),
            ("a..b", Refusal::BadHost),
            (".a", Refusal::BadHost),
            ("a.org..", Refusal::BadHost),
            ("a b", Refusal::BadHost),
            ("a,b", Refusal::BadHost),
            ("user@a", Refusal::BadHost),
            ("a%2eb", Refusal::BadHost),
            ("*.a", Refusal::BadHost),
            ("ä.org", Refusal::BadHost),
            (&long, Refusal::BadHost),
            (&longer, Refusal::BadHost),
            ("::1", Refusal::BadPort),
            ("[::1", Refusal::BadHost),
            ("[::1]x", Refusal::BadHost),
            ("[fe80::1%25eth0]", Refusal::BadHost),
            ("[v1.x]", Refusal::BadHost),
            ("a:", Refusal::BadPort),
            ("a:0", Refusal::BadPort),
            ("a:+80", Refusal::BadPort),
            ("a:65536", Refusal::BadPort),
            ("a:000080", Refusal::BadPort),
            ("a:80:80", Refusal::BadPort),
            ("a:80@b", Refusal::BadPort),
        ];
        for (sent, refusal) in cases {
            assert_eq!(split(sent), Err(refusal), "{sent}");
        }
    }

    #[test]
    fn the_most_precise_comes_first() {
        let mut hosts = Hosts::<&str>::default();
        for wanted in ["", "*.org", "*.example.org", "a.example.org"] {
            *hosts.entry(Wanted::read(wanted).unwrap()) = wanted;
        }
        let of = |host| hosts.of(host).copied().collect::<Vec<_>>();
        assert_eq!(of("a.example.org"), ["a.example.org", "*.example.org", "*.org", ""]);
        assert_eq!(of("x.a.example.org"), ["*.example.org", "*.org", ""]);
        // Below a name is not the name.
        assert_eq!(of("example.org"), ["*.org", ""]);
        assert_eq!(of("org"), [""]);
        assert_eq!(of("borg"), [""]);
    }

    #[test]
    fn a_hostname_that_nobody_can_send_is_none() {
        for text in ["*", "*.", "a.*.b", "*a.b", "a..b", "a:80", " "] {
            assert!(Wanted::read(text).is_err(), "{text:?}");
        }
        assert_eq!(Wanted::read("*.Example.org").unwrap(), Wanted::Below("example.org".into()));
    }
}
