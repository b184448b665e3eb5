//! What a certificate proved in a handshake, kept so that it can be judged again when trust changes: a
//! connection outlives the moment in which its peer was verified.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::bundle::Bundle;
use crate::foreign::Foreign;
use crate::leaf::Leaf;
use crate::spiffe::{SpiffeError, SpiffeId};

/// Denials beyond this many are no emergency but a policy, which has its own place.
pub const MAX_DENIALS: usize = 1_024;

/// One verified certificate, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub identity: SpiffeId,
    /// Lower case hex without leading zero bytes.
    pub serial: String,
    /// SHA-256 of the SubjectPublicKeyInfo, lower case hex.
    pub key: String,
    /// Fingerprint of the anchor that signed it.
    pub anchor: Arc<str>,
    pub not_after: SystemTime,
}

/// How a credential stands with today's trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// The anchor that signed it is trusted no more.
    AnchorRemoved,
    /// Somebody denied it by name.
    Denied,
}

/// What an operator denies in an emergency: `identity=spiffe://…`, `serial=HEX` or `key=HEX`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denied {
    Identity(SpiffeId),
    Serial(String),
    Key(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeniedError {
    #[error(
        "{0:?} names nothing that can be denied: write identity=spiffe://…, serial=<hex> or key=<SHA-256 of the \
         public key, hex>"
    )]
    Form(String),
    #[error("identity: {0}")]
    Identity(#[from] SpiffeError),
    #[error("serial {0:?}: write 1 to 40 hexadecimal digits, as trellis stat and the audit log show them")]
    Serial(String),
    #[error("key {0:?}: write the 64 hexadecimal digits of the SHA-256 of its SubjectPublicKeyInfo")]
    Key(String),
    #[error("{0} denials are more than the {MAX_DENIALS} that every proxy keeps: deny identities instead")]
    TooMany(usize),
}

/// Everything that is denied. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denials(Arc<HashSet<Denied>>);

impl Credential {
    pub(crate) fn new(leaf: &Leaf, anchor: &Arc<str>) -> Self {
        Self {
            identity: leaf.identity.clone(),
            serial: leaf.serial.clone(),
            key: leaf.key.clone(),
            anchor: Arc::clone(anchor),
            not_after: leaf.not_after,
        }
    }

    /// Judged by the bundle of its own trust domain, as it was when the connection came to be.
    pub fn standing(&self, bundle: &Bundle, foreign: &Foreign, denials: &Denials) -> Standing {
        if denials.find(self).is_some() {
            return Standing::Denied;
        }
        let trust_domain = self.identity.trust_domain();
        let judge =
            if trust_domain == bundle.trust_domain() { Some(bundle) } else { foreign.get(trust_domain) };
        match judge.is_some_and(|judge| judge.holds(&self.anchor)) {
            true => Standing::Good,
            false => Standing::AnchorRemoved,
        }
    }
}

impl Denials {
    pub fn new(denied: impl IntoIterator<Item = Denied>) -> Result<Self, DeniedError> {
        let denied: HashSet<_> = denied.into_iter().collect();
        match denied.len() {
            0..=MAX_DENIALS => Ok(Self(Arc::new(denied))),
            several => Err(DeniedError::TooMany(several)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, denied: &Denied) -> bool {
        self.0.contains(denied)
    }

    /// What denies this credential, if anything does.
    pub fn find(&self, credential: &Credential) -> Option<Denied> {
        if self.0.is_empty() {
            return None;
        }
        [
            Denied::Identity(credential.identity.clone()),
            Denied::Serial(credential.serial.clone()),
            Denied::Key(credential.key.clone()),
        ]
        .into_iter()
        .find(|denied| self.0.contains(denied))
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => write!(f, "identity={identity}"),
            Self::Serial(serial) => write!(f, "serial={serial}"),
            Self::Key(key) => write!(f, "key={key}"),
        }
    }
}

impl FromStr for Denied {
    type Err = DeniedError;

    fn from_str(text: &str) -> Result<Self, DeniedError> {
        let (what, value) = text.split_once('=').ok_or_else(|| DeniedError::Form(text.to_owned()))?;
        match what {
            "identity" => Ok(Self::Identity(value.parse()?)),
            "serial" => serial(value).map(Self::Serial),
            "key" if value.len() == 64 && is_hex(value) => Ok(Self::Key(value.to_ascii_lowercase())),
            "key" => Err(DeniedError::Key(value.to_owned())),
            _ => Err(DeniedError::Form(text.to_owned())),
        }
    }
}

/// One serial, one spelling: that of [`Leaf::serial`].
fn serial(text: &str) -> Result<String, DeniedError> {
    let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    if digits.is_empty() || digits.len() > 40 || !is_hex(&digits) {
        return Err(DeniedError::Serial(text.to_owned()));
    }
    let even = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
    let mut significant = even.as_str();
    while let Some(rest) = significant.strip_prefix("00") {
        significant = rest;
    }
    match significant {
        "" => Err(DeniedError::Serial(text.to_owned())),
        significant => Ok(significant.to_owned()),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_read_as_users_type_it_and_errors_say_how() {
        let key = "ab".repeat(32);
        for (typed, read) in [
            (
                "identity=spiffe://cluster.local/ns/shop/sa/web",
                "identity=spiffe://cluster.local/ns/shop/sa/web",
            ),
            ("serial=00:0A:ff", "serial=0aff"),
            ("serial=aff", "serial=0aff"),
            (format!("key={}", key.to_uppercase()).as_str(), format!("key={key}").as_str()),
        ] {
            assert_eq!(typed.parse::<Denied>().unwrap().to_string(), read);
        }
        for (typed, word) in [
            ("web", "identity=spiffe://"),
            ("pod=shop/web", "identity=spiffe://"),
            ("identity=web", "SPIFFE ID"),
            ("serial=", "hexadecimal"),
            ("serial=0000", "hexadecimal"),
            ("serial=xyz", "hexadecimal"),
            ("key=abcd", "64 hexadecimal"),
        ] {
            let error = typed.parse::<Denied>().unwrap_err().to_string();
            assert!(error.contains(word), "{typed}: {error}");
        }
    }

    #[test]
    fn denials_are_bounded() {
        let many = (0..=MAX_DENIALS).map(|n| Denied::Serial(format!("{n:040x}")));
        assert_eq!(Denials::new(many), Err(DeniedError::TooMany(MAX_DENIALS + 1)));
    }
}
