//! A set of TCP ports as users write it, `80,9000-9010`, and as the redirect rules read it.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Sorted ranges that neither overlap nor touch, so that equal sets are written alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Vec<(u16, u16)>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    #[error("`{0}` is not a port between 1 and 65535")]
    NotAPort(String),
    #[error("the range `{first}-{last}` ends before it begins")]
    Backwards { first: u16, last: u16 },
    #[error("there is nothing between two commas")]
    Empty,
}

impl Ports {
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u16>> + '_ {
        self.0.iter().map(|(first, last)| *first..=*last)
    }

    /// The elements of an nftables set, without its braces.
    pub fn to_nft(&self) -> String {
        self.join(", ")
    }

    fn join(&self, separator: &str) -> String {
        let parts: Vec<String> = self.ranges().map(|range| part(&range)).collect();
        parts.join(separator)
    }
}

fn part(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

impl FromIterator<RangeInclusive<u16>> for Ports {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u16>>>(ranges: I) -> Self {
        let mut all: Vec<(u16, u16)> = ranges.into_iter().map(RangeInclusive::into_inner).collect();
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        ports.into_iter().map(|port| port..=port).collect()
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    /// An empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, PortsError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|part| range(part.trim())).collect()
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, PortsError> {
    if text.is_empty() {
        return Err(PortsError::Empty);
    }
    let Some((first, last)) = text.split_once('-') else {
        let port = port(text)?;
        return Ok(port..=port);
    };
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    if last < first {
        return Err(PortsError::Backwards { first, last });
    }
    Ok(first..=last)
}

fn port(text: &str) -> Result<u16, PortsError> {
    // `u16::from_str` takes a leading plus sign, which nobody means.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(PortsError::NotAPort(text.to_owned())),
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.join(","))
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_written_alike() {
        for (text, canonical) in [
            ("", ""),
            ("  ", ""),
            ("80", "80"),
            ("443, 80", "80,443"),
            ("80,80", "80"),
            ("9000-9010,9005-9020", "9000-9020"),
            ("1-2,3,4-5", "1-5"),
            ("65535,1", "1,65535"),
            ("1-65535,22", "1-65535"),
            ("8080 - 8081", "8080-8081"),
        ] {
            let ports: Ports = text.parse().unwrap();
            assert_eq!(ports.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Ports>().unwrap(), ports);
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (text, message) in [
            ("http", "`http` is not a port between 1 and 65535"),
            ("0", "`0` is not a port between 1 and 65535"),
            ("65536", "`65536` is not a port between 1 and 65535"),
            ("+80", "`+80` is not a port between 1 and 65535"),
            ("80,-1", "`` is not a port between 1 and 65535"),
            ("80,,81", "there is nothing between two commas"),
            ("80,", "there is nothing between two commas"),
            ("90-80", "the range `90-80` ends before it begins"),
        ] {
            assert_eq!(text.parse::<Ports>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn contains_the_ends_of_a_range() {
        let ports: Ports = "80,9000-9010".parse().unwrap();
        assert_eq!(
            [79, 80, 81, 8999, 9000, 9010, 9011].map(|port| ports.contains(port)),
            [false, true, false, false, true, true, false]
        );
        assert_eq!(ports.to_nft(), "80, 9000-9010");
    }
}
