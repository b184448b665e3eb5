//! What a program asks for, read strictly: each field is honoured, or refused by its name.

use std::{net::IpAddr, time::Duration};

use serde::Deserialize;
use trellis_pki::{algorithm::Algorithm, issue::Purposes};

use crate::{
    issue::{Ask, Life, Proof, Way, Weighed, csr_pem},
    refuse::{Reason, Refusal},
};

/// Every field that there is.
#[cfg(test)]
pub const FIELDS: [&str; 7] =
    ["csr", "validityHours", "subject", "sans", "algorithm", "keyUsage", "extendedKeyUsage"];

/// The body of a request.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    csr: String,
    validity_hours: Option<u32>,
    subject: Option<String>,
    #[serde(default)]
    sans: Vec<String>,
    algorithm: Option<String>,
    key_usage: Option<Vec<String>>,
    extended_key_usage: Option<Vec<String>>,
}

/// What it comes to, before it is known who asks.
pub struct Read<'a> {
    csr: Vec<u8>,
    wanted: &'a Wanted,
    purposes: Purposes,
    source: IpAddr,
}

impl Read<'_> {
    pub fn as_ask(&self) -> Ask<'_> {
        Ask {
            way: Way::Https,
            proof: Proof::Request(&self.csr),
            names: &self.wanted.sans,
            life: match self.wanted.validity_hours {
                None => Life::Longest,
                Some(hours) => Life::Exactly(Duration::from_secs(u64::from(hours) * 60 * 60)),
            },
            purposes: self.purposes,
            companion: false,
            source: Some(self.source),
        }
    }
}

impl Wanted {
    pub fn read(body: &[u8]) -> Result<Self, Refusal> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let malformed = |field: &str, error: &dyn std::fmt::Display| {
            Refusal::new(
                Reason::MalformedRequest,
                format!("{field}: {error}; send JSON as the API's description says"),
            )
        };
        let wanted: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            malformed(if path == "." { "body" } else { &path }, error.inner())
        })?;
        json.end().map_err(|error| malformed("body", &error))?;
        Ok(wanted)
    }

    pub fn ask(&self, source: IpAddr) -> Result<Read<'_>, Refusal> {
        self.check_key_usage()?;
        let purposes = self.purposes()?;
        Ok(Read { csr: csr_pem("csr", self.csr.as_bytes())?, wanted: self, purposes, source })
    }

    /// What could not be checked before it was known who asks, with which key.
    pub fn agrees(&self, weighed: &Weighed) -> Result<(), Refusal> {
        let Weighed { identity, key, .. } = weighed;
        if let Some(algorithm) = &self.algorithm {
            let known =
                Algorithm::ALL.into_iter().find(|one| [one.flag(), one.name()].contains(&algorithm.as_str()));
            if known != Some(key.algorithm) {
                return Err(Refusal::new(
                    Reason::KeyType,
                    format!(
                        "algorithm: it is {algorithm:?}, and the key in csr is {}; name that, or leave it out",
                        key.algorithm
                    ),
                ));
            }
        }
        let Some(subject) = &self.subject else { return Ok(()) };
        let (account, namespace) = (identity.service_account(), identity.namespace());
        let written = format!("CN={account},O={namespace}");
        let given: Vec<&str> = subject.split(',').map(str::trim).collect();
        if given.iter().all(|part| written.split(',').any(|known| known == *part)) {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::ForeignName,
            format!(
                "subject: it is {subject:?}, and a certificate of {identity} has {written:?}; ask for that, or leave \
                 it out"
            ),
        ))
    }

    fn check_key_usage(&self) -> Result<(), Refusal> {
        const ONLY: &str = "digitalSignature";
        let Some(asked) = &self.key_usage else { return Ok(()) };
        match asked.iter().find(|usage| *usage != ONLY) {
            None if !asked.is_empty() => Ok(()),
            found => Err(Refusal::new(
                Reason::KeyUsage,
                format!(
                    "keyUsage: it holds {found:?}; certificates are for {ONLY} only, so ask for that, or leave it out"
                ),
            )),
        }
    }

    fn purposes(&self) -> Result<Purposes, Refusal> {
        let Some(asked) = &self.extended_key_usage else { return Ok(Purposes::BOTH) };
        let mut purposes = Purposes { server: false, client: false };
        let mut unknown = None;
        for usage in asked {
            match usage.as_str() {
                "serverAuth" => purposes.server = true,
                "clientAuth" => purposes.client = true,
                _ => unknown = Some(usage),
            }
        }
        if unknown.is_none() && (purposes.server || purposes.client) {
            return Ok(purposes);
        }
        Err(Refusal::new(
            Reason::KeyUsage,
            format!(
                "extendedKeyUsage: it holds {:?}; ask for serverAuth, clientAuth or both, or leave it out",
                unknown.map_or("nothing", String::as_str)
            ),
        ))
    }
}
