//! What a workload may reach outside of the mesh, as users write it: `allow`, `deny`, or a list of what is
//! allowed while all else is denied, `10.0.0.0/8,192.0.2.1:443,*.example.org:443`.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    #[default]
    Allow,
    /// These and nothing else.
    Only(Vec<Outside>),
}

/// Something outside, on one port or on all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Network {
        address: IpAddr,
        bits: u8,
    },
    /// A name, in lower case.
    Name(String),
    /// What a name ends with, the dot before it included.
    Below(String),
}

/// Whether something outside may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// By the name that the client asks for, if it is an allowed one.
    ByName,
    Denied,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    #[error("there is nothing between two commas")]
    Empty,
    #[error("`{0}` is neither a network, an address nor a name")]
    NoHost(String),
    #[error("`{0}` has more bits than its address")]
    Bits(String),
    #[error("`{0}` is not a port between 1 and 65535")]
    Port(String),
}

impl Egress {
    /// Whether an address may be reached, whatever is said there.
    pub fn of_address(&self, address: IpAddr, port: u16) -> Verdict {
        let Self::Only(all) = self else { return Verdict::Allowed };
        let mut verdict = Verdict::Denied;
        for one in all.iter().filter(|one| one.port.is_none_or(|wanted| wanted == port)) {
            match &one.host {
                Host::Network { address: network, bits } => {
                    if is_in(address.to_canonical(), *network, *bits) {
                        return Verdict::Allowed;
                    }
                }
                Host::Name(_) | Host::Below(_) => verdict = Verdict::ByName,
            }
        }
        verdict
    }

    /// Whether a name may be reached.
    pub fn of_name(&self, name: &str, port: u16) -> bool {
        let Self::Only(all) = self else { return true };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        all.iter().filter(|one| one.port.is_none_or(|wanted| wanted == port)).any(|one| match &one.host {
            Host::Name(allowed) => *allowed == name,
            Host::Below(end) => name.len() > end.len() && name.ends_with(end.as_str()),
            Host::Network { .. } => false,
        })
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| match width - u32::from(bits) {
        free if free >= u128::BITS => true,
        free => a >> free == b >> free,
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

// === as text ===

impl FromStr for Egress {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        match text.trim() {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Only(Vec::new())),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>().map(Self::Only),
        }
    }
}

impl FromStr for Outside {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(EgressError::Empty);
        }
        let whole = || EgressError::NoHost(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(whole)?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(whole()),
                }
            }
            // More than one colon is an address of IPv6, which has its port outside of brackets.
            None if text.matches(':').count() > 1 => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port
            .map(|port| {
                let parsed = port.parse().ok().filter(|port| *port != 0);
                parsed.ok_or_else(|| EgressError::Port(port.to_owned()))
            })
            .transpose()?;
        Ok(Self { host: read_host(host)?, port })
    }
}

fn read_host(text: &str) -> Result<Host, EgressError> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    if let Ok(address) = address.parse::<IpAddr>() {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most),
            None => Some(most),
        };
        let bits = bits.ok_or_else(|| EgressError::Bits(text.to_owned()))?;
        return Ok(Host::Network { address, bits });
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // A name of digits alone is an address that somebody mistyped.
    let digits = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if digits || name.len() > 253 || !name.split('.').all(label) {
        return Err(EgressError::NoHost(text.to_owned()));
    }
    let name = name.to_ascii_lowercase();
    Ok(if text.starts_with("*.") { Host::Below(format!(".{name}")) } else { Host::Name(name) })
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow => f.write_str("allow"),
            Self::Only(all) if all.is_empty() => f.write_str("deny"),
            Self::Only(all) => {
                let all: Vec<String> = all.iter().map(Outside::to_string).collect();
                f.write_str(&all.join(","))
            }
        }
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.host {
            Host::Network { address, bits } if *bits == if address.is_ipv4() { 32 } else { 128 } => {
                address.to_string()
            }
            Host::Network { address, bits } => format!("{address}/{bits}"),
            Host::Name(name) => name.clone(),
            Host::Below(end) => format!("*{end}"),
        };
        match self.port {
            None => f.write_str(&host),
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Egress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Egress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_reached_and_nothing_else() {
        let egress: Egress =
            "10.0.0.0/8,192.0.2.1:443,[2001:db8::/32]:53,*.example.org:443,api.example.com".parse().unwrap();
        use Verdict::{Allowed, ByName, Denied};
        for (address, port, verdict) in [
            ("10.1.2.3", 80, Allowed),
            ("::ffff:10.1.2.3", 80, Allowed),
            ("192.0.2.1", 443, Allowed),
            ("192.0.2.1", 80, ByName),
            ("2001:db8::1", 53, Allowed),
            ("2001:db9::1", 53, ByName),
            ("198.51.100.1", 443, ByName),
        ] {
            assert_eq!(egress.of_address(address.parse().unwrap(), port), verdict, "{address} {port}");
        }
        for (name, port, allowed) in [
            ("a.example.org", 443, true),
            ("A.b.Example.org.", 443, true),
            ("a.example.org", 80, false),
            ("example.org", 443, false),
            ("evilexample.org", 443, false),
            ("api.example.com", 8443, true),
            ("x.api.example.com", 443, false),
        ] {
            assert_eq!(egress.of_name(name, port), allowed, "{name} {port}");
        }
        let deny: Egress = "deny".parse().unwrap();
        assert_eq!(deny.of_address("10.0.0.1".parse().unwrap(), 80), Denied);
        let allow: Egress = "allow".parse().unwrap();
        assert_eq!(allow.of_address("10.0.0.1".parse().unwrap(), 80), Allowed);
        let everything: Egress = "0.0.0.0/0,::/0".parse().unwrap();
        assert_eq!(everything.of_address("203.0.113.9".parse().unwrap(), 1), Allowed);
        assert_eq!(everything.of_address("fd00::1".parse().unwrap(), 1), Allowed);
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for text in ["allow", "deny", "10.0.0.0/8,192.0.2.1:443,[2001:db8::/32]:53,*.example.org:443,a.b"] {
            assert_eq!(text.parse::<Egress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, error) in [
            ("", "there is nothing between two commas"),
            ("10.0.0.0/8,,", "there is nothing between two commas"),
            ("10.0.0.0/33", "`10.0.0.0/33` has more bits than its address"),
            ("10.0.0", "`10.0.0` is neither"),
            ("example.org:0", "`0` is not a port"),
            ("example.org:http", "`http` is not a port"),
            ("exa mple.org", "`exa mple.org` is neither"),
            ("*", "`*` is neither"),
            ("[fd00::1", "`[fd00::1` is neither"),
        ] {
            let said = text.parse::<Egress>().unwrap_err().to_string();
            assert!(said.starts_with(error), "{text}: {said}");
        }
    }
}
