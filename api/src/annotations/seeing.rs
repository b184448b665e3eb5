//! What a workload shows of single requests: its access log, and traces.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which requests and connections get a line each on the proxy's standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    #[default]
    Disabled,
    /// Those that failed.
    Errors,
    Enabled,
}

impl AccessLog {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Errors => "errors",
            Self::Enabled => "enabled",
        }
    }
}

impl FromStr for AccessLog {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Disabled, Self::Errors, Self::Enabled].into_iter();
        known.into_iter().find(|one| one.as_str() == text).ok_or("there is no such access log")
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Of which requests spans are made, where there is a collector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TraceSampling {
    /// Of none: what requests say about traces passes untouched.
    Disabled,
    /// Of those that are sampled already, and of this share of those that belong to no trace yet.
    Share(f64),
}

impl Default for TraceSampling {
    fn default() -> Self {
        Self::Share(0.0)
    }
}

impl FromStr for TraceSampling {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "disabled" {
            return Ok(Self::Disabled);
        }
        // `nan`, `inf` and `1e-3` are numbers too, and nobody means them.
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        match text.parse() {
            Ok(share @ 0.0..=1.0) if plain => Ok(Self::Share(share)),
            _ => Err("this is neither a share between 0 and 1 nor `disabled`"),
        }
    }
}

impl fmt::Display for TraceSampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl TryFrom<String> for TraceSampling {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TraceSampling> for String {
    fn from(sampling: TraceSampling) -> Self {
        sampling.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_nothing_and_all() {
        for (text, read) in [
            ("disabled", Some(TraceSampling::Disabled)),
            ("0", Some(TraceSampling::Share(0.0))),
            ("0.01", Some(TraceSampling::Share(0.01))),
            ("1", Some(TraceSampling::Share(1.0))),
            ("1.5", None),
            ("-0.1", None),
            ("1%", None),
            ("nan", None),
            ("inf", None),
            ("1e-3", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), read, "{text}");
            if let Some(read) = read {
                assert_eq!(read.to_string(), text);
            }
        }
    }
}
