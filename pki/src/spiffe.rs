//! SPIFFE IDs of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Only the canonical spelling is accepted, so that two IDs are the same identity exactly when their
//! text is the same.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

/// The identity of every pod that runs under one service account. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends in `text`.
    domain_end: usize,
    /// Where the namespace ends in `text`.
    namespace_end: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    #[error("{0:?} is not a SPIFFE ID: it must start with spiffe://, in lower case")]
    Scheme(String),
    #[error(
        "{0:?} is not a workload's SPIFFE ID: it must be \
         spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
    )]
    Path(String),
    #[error("trust domain {0:?}: use 1 to 255 lower case letters, digits, dots, dashes and underscores")]
    TrustDomain(String),
    #[error(
        "namespace {0:?}: use 1 to 63 lower case letters, digits and dashes, and begin and end with a \
         letter or digit"
    )]
    Namespace(String),
    #[error(
        "service account {0:?}: use at most 253 lower case letters, digits, dashes and dots, and begin \
         and end each part with a letter or digit"
    )]
    ServiceAccount(String),
}

impl SpiffeId {
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        check_trust_domain(trust_domain)?;
        if !is_label(namespace) {
            return Err(SpiffeError::Namespace(abbreviated(namespace)));
        }
        if !is_subdomain(service_account) {
            return Err(SpiffeError::ServiceAccount(abbreviated(service_account)));
        }
        let domain_end = SCHEME.len() + trust_domain.len();
        Ok(Self {
            text: format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{ACCOUNT}{service_account}").into(),
            domain_end,
            namespace_end: domain_end + NAMESPACE.len() + namespace.len(),
        })
    }

    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.domain_end).unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.text.get(self.domain_end + NAMESPACE.len()..self.namespace_end).unwrap_or_default()
    }

    pub fn service_account(&self) -> &str {
        self.text.get(self.namespace_end + ACCOUNT.len()..).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Whether `trust_domain` may stand in a SPIFFE ID.
pub fn check_trust_domain(trust_domain: &str) -> Result<(), SpiffeError> {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if (1..=255).contains(&trust_domain.len()) && trust_domain.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SpiffeError::TrustDomain(abbreviated(trust_domain)))
    }
}

/// A DNS label as Kubernetes demands it of a namespace.
pub(crate) fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// A DNS subdomain as Kubernetes demands it of a service account; its labels may be long.
fn is_subdomain(text: &str) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    (1..=253).contains(&text.len())
        && text.split('.').map(str::as_bytes).all(|part| {
            part.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
                && part.first().is_some_and(alphanumeric)
                && part.last().is_some_and(alphanumeric)
        })
}

/// Errors quote what was wrong, not pages of it.
fn abbreviated(text: &str) -> String {
    const SHOWN: usize = 300;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| SpiffeError::Scheme(abbreviated(text)))?;
        let path = || SpiffeError::Path(abbreviated(text));
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or_else(path);
        let (domain, ns, namespace, sa, account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(path());
        }
        Self::new(domain, namespace, account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_three_parts() {
        let id: SpiffeId = "spiffe://mesh.example/ns/shop/sa/pay.v2".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("mesh.example", "shop", "pay.v2")
        );
        assert_eq!(Ok(id), SpiffeId::new("mesh.example", "shop", "pay.v2"));
    }

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        for (wrong, said) in [
            ("", "spiffe://"),
            ("https://td/ns/a/sa/b", "spiffe://"),
            ("SPIFFE://td/ns/a/sa/b", "lower case"),
            (" spiffe://td/ns/a/sa/b", "spiffe://"),
            ("spiffe://td", "spiffe://<trust domain>/ns/"),
            ("spiffe://td/", "spiffe://<trust domain>/ns/"),
            ("spiffe://td/ns/a", "spiffe://<trust domain>/ns/"),
            ("spiffe://td/ns/a/sa/b/", "spiffe://<trust domain>/ns/"),
            ("spiffe://td/ns/a/sa/b/c", "spiffe://<trust domain>/ns/"),
            ("spiffe://td/NS/a/sa/b", "spiffe://<trust domain>/ns/"),
            ("spiffe://td//ns/a/sa/b", "spiffe://<trust domain>/ns/"),
            ("spiffe:///ns/a/sa/b", "trust domain \"\""),
            ("spiffe://Td/ns/a/sa/b", "trust domain \"Td\""),
            ("spiffe://td:443/ns/a/sa/b", "trust domain \"td:443\""),
            ("spiffe://user@td/ns/a/sa/b", "trust domain \"user@td\""),
            ("spiffe://td/ns//sa/b", "namespace \"\""),
            ("spiffe://td/ns/a.b/sa/b", "namespace \"a.b\""),
            ("spiffe://td/ns/-a/sa/b", "namespace \"-a\""),
            ("spiffe://td/ns/a/sa/", "service account \"\""),
            ("spiffe://td/ns/a/sa/b%2e", "service account \"b%2e\""),
            ("spiffe://td/ns/a/sa/b?x", "service account \"b?x\""),
            ("spiffe://td/ns/a/sa/b#x", "service account \"b#x\""),
            ("spiffe://td/ns/a/sa/..", "service account \"..\""),
            ("spiffe://td/ns/a/sa/b\n", "service account \"b\\n\""),
        ] {
            let error = wrong.parse::<SpiffeId>().unwrap_err().to_string();
            assert!(error.contains(said), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn lengths_are_bounded_and_errors_stay_short() {
        assert!(SpiffeId::new(&"d".repeat(255), &"n".repeat(63), &"s".repeat(253)).is_ok());
        assert!(SpiffeId::new(&"d".repeat(256), "n", "s").is_err());
        assert!(SpiffeId::new("d", &"n".repeat(64), "s").is_err());
        assert!(SpiffeId::new("d", "n", &"s".repeat(254)).is_err());
        let error = "é".repeat(100_000).parse::<SpiffeId>().unwrap_err().to_string();
        assert!(error.len() < 1_000, "{} bytes", error.len());
    }
}
