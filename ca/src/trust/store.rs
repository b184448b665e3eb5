//! Where trust is kept: read whole, written whole, and only over what was read before. However many
//! replicas write at once, one wins, and the others learn of it.

mod folder;
mod secret;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use thiserror::Error;
use tokio::task::spawn_blocking;
use trellis_api::trust::{Issuing, KeyAlgorithm};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::Anchor,
    clock::{rfc3339, words},
    issue::{IssueError, Issuer},
    key::{KeyError, PrivateKey},
};

use super::{
    keys::{Key, Keys},
    vault::{Items, Vault, certificate},
};

pub use self::{folder::Folder, secret::Secret};

/// When the end of an anchor becomes a matter for the log.
const SOON: Duration = Duration::from_secs(60 * 24 * 60 * 60);

/// `secret` or `file:DIR`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSpec {
    Secret,
    Folder(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("root {0:?} is unknown; use secret or file:DIR")]
pub struct UnknownStore(String);

impl FromStr for StoreSpec {
    type Err = UnknownStore;

    fn from_str(text: &str) -> Result<Self, UnknownStore> {
        match text.split_once(':') {
            None if text == "secret" => Ok(Self::Secret),
            Some(("file", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ => Err(UnknownStore(text.to_owned())),
        }
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret => f.write_str("secret"),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Where trust is kept.
#[derive(Clone)]
pub enum Store {
    Secret(Box<Secret>),
    Folder(Folder),
}

/// How anchors are made.
#[derive(Clone)]
pub struct Making {
    pub trust_domain: String,
    pub validity: Duration,
    pub keys: Keys,
}

/// Names one writing of the store; whoever writes says which one it follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(String);

/// What was read, and from which writing.
#[derive(Clone)]
pub struct Read {
    pub vault: Vault,
    pub version: Version,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot read the root from {place}: {reason}")]
    Unreadable { place: String, reason: String },
    #[error("cannot store the root in {place}: {reason}")]
    Unwritable { place: String, reason: String },
    #[error(
        "the root in {place} is damaged: {reason}; restore it from a backup, or delete it to begin with a new root that nobody trusts yet"
    )]
    Damaged { place: String, reason: String },
    #[error(
        "the root in {place} is for trust domain {found:?}, and trust-domain is {wanted:?}; set trust-domain to \
         what the root says, or keep roots of different trust domains apart"
    )]
    TrustDomain { place: String, found: String, wanted: String },
    #[error("the root in {place} is valid from {from} until {until}, and it is {now} here: {remedy}")]
    NotValid { place: String, from: String, until: String, now: String, remedy: String },
    #[error("cannot make a key for the root: {0}")]
    Key(#[from] KeyError),
    #[error("cannot make the root: {0}")]
    Issue(#[from] IssueError),
    #[error("cannot make the root's key: {0}")]
    Token(String),
    #[error("the root in {0} appears and disappears; something else deletes it")]
    Unstable(String),
}

/// Why nothing could be read.
pub(super) enum Trouble {
    Unreadable(String),
    Damaged(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Unreadable(reason)
    }
}

/// Whether something was stored, or somebody else wrote first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Stored(Version),
    Taken,
}

impl Store {
    /// Loads what is kept, or begins with a new root of this algorithm if nothing is.
    pub async fn open(
        &self,
        making: &Making,
        algorithm: KeyAlgorithm,
        now: SystemTime,
    ) -> Result<Read, StoreError> {
        // Who loses the race for the first root finds that of the winner in the second round.
        for _ in 0..3 {
            if let Some(read) = self.load().await? {
                self.check(&read.vault, making, algorithm, now)?;
                tracing::info!(place = %self, revision = read.vault.state.revision, "loaded the root");
                return Ok(read);
            }
            let kind = Issuing::own(algorithm, 1);
            let key = making.key(kind).await?;
            let issuer = making.anchor(&key, now).await?;
            let vault = Vault::new(issuer.anchor(), kind, &key).map_err(|reason| self.unwritable(reason))?;
            let written = self.write(&vault, None).await;
            if let Some(reference) = key.reference().filter(|_| !matches!(written, Ok(Some(_))))
                && let Err(error) = making.keys.destroy(&reference).await
            {
                tracing::warn!(key = %reference, %error, "a key that nobody uses stays in the token");
            }
            if let Some(version) = written? {
                tracing::info!(
                    place = %self,
                    subject = issuer.anchor().subject,
                    algorithm = issuer.anchor().algorithm.name(),
                    fingerprint = %issuer.anchor().fingerprint(),
                    not_after = rfc3339(issuer.anchor().not_after),
                    "made and stored a new root"
                );
                return Ok(Read { vault, version });
            }
        }
        Err(StoreError::Unstable(self.to_string()))
    }

    /// The key of the audit trail, made and kept if there is none yet.
    pub async fn audit_key(&self) -> Result<PrivateKey, StoreError> {
        for _ in 0..3 {
            let read = self.load().await?.ok_or_else(|| StoreError::Unstable(self.to_string()))?;
            if let Some(key) = read.vault.audit_key() {
                return key.map_err(|reason| self.damaged(reason));
            }
            let (key, mut vault) = (PrivateKey::generate(Algorithm::MlDsa65)?, read.vault);
            vault.set_audit_key(&key).map_err(|reason| self.unwritable(reason))?;
            if self.write(&vault, Some(&read.version)).await?.is_some() {
                return Ok(key);
            }
        }
        Err(StoreError::Unstable(self.to_string()))
    }

    /// What is kept now, if anything is.
    pub async fn load(&self) -> Result<Option<Read>, StoreError> {
        let got = match self {
            Self::Secret(secret) => secret.get().await.map_err(Trouble::from),
            Self::Folder(folder) => folder.get().await,
        };
        let got = got.map_err(|trouble| match trouble {
            Trouble::Unreadable(reason) => StoreError::Unreadable { place: self.to_string(), reason },
            Trouble::Damaged(reason) => self.damaged(reason),
        });
        let Some((items, version)) = got? else { return Ok(None) };
        let vault = Vault::decode(items).map_err(|reason| self.damaged(reason))?;
        Ok(Some(Read { vault, version }))
    }

    /// Writes over `before`, or only if there is nothing; `None` if somebody else wrote in between.
    pub async fn write(
        &self,
        vault: &Vault,
        before: Option<&Version>,
    ) -> Result<Option<Version>, StoreError> {
        let items: Items = vault.encode().map_err(|reason| self.unwritable(reason))?;
        let put = match self {
            Self::Secret(secret) => secret.put(items, before).await,
            Self::Folder(folder) => folder.put(items, before).await,
        };
        match put.map_err(|reason| self.unwritable(reason))? {
            Put::Stored(version) => Ok(Some(version)),
            Put::Taken => Ok(None),
        }
    }

    fn check(
        &self,
        vault: &Vault,
        making: &Making,
        algorithm: KeyAlgorithm,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let state = &vault.state;
        let issuing =
            state.anchor(&state.issuing).ok_or_else(|| self.damaged("no anchor issues".to_owned()))?;
        let der = certificate(issuing).map_err(|reason| self.damaged(reason))?;
        let anchor = Anchor::parse(&der).map_err(|error| self.damaged(error.to_string()))?;
        if let Some(found) = anchor.trust_domain.as_ref().filter(|found| **found != making.trust_domain) {
            return Err(StoreError::TrustDomain {
                place: self.to_string(),
                found: found.clone(),
                wanted: making.trust_domain.clone(),
            });
        }
        vault.issuer(&making.trust_domain, issuing, &making.keys).map_err(|reason| self.damaged(reason))?;
        if !anchor.is_valid_at(now) {
            let remedy = match anchor.not_before.duration_since(now) {
                Ok(behind) => format!(
                    "this clock is at least {} behind that of the replica which made it; set both by NTP",
                    words(behind)
                ),
                Err(_) => {
                    "it has ended, so begin with a new root; if it has not, this clock is ahead, so set it \
                           by NTP"
                        .to_owned()
                }
            };
            return Err(StoreError::NotValid {
                place: self.to_string(),
                from: rfc3339(anchor.not_before),
                until: rfc3339(anchor.not_after),
                now: rfc3339(now),
                remedy,
            });
        }
        let left = anchor.not_after.duration_since(now).unwrap_or_default();
        if left < SOON {
            tracing::warn!(
                place = %self,
                not_after = rfc3339(anchor.not_after),
                days_left = left.as_secs() / (24 * 60 * 60),
                "the root ends soon, and no certificate outlives it; rotate it with trellis trust rotate"
            );
        }
        if issuing.kind.algorithm != algorithm {
            tracing::info!(
                place = %self,
                found = %issuing.kind.algorithm,
                wanted = %algorithm,
                "root-algorithm only decides about a first root; trellis trust rotate changes the one in use"
            );
        }
        Ok(())
    }

    fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { place: self.to_string(), reason }
    }

    fn unwritable(&self, reason: String) -> StoreError {
        StoreError::Unwritable { place: self.to_string(), reason }
    }
}

impl Making {
    /// A fresh key where keys are made now.
    pub async fn key(&self, kind: Issuing) -> Result<Key, StoreError> {
        match self.keys.reserve() {
            None => Ok(Key::kept(kind)?),
            Some(reference) => {
                let made = self.keys.make(&reference, &self.trust_domain, kind).await;
                made.map_err(StoreError::Token)
            }
        }
    }

    /// A certificate for `key` that it signs itself.
    pub async fn anchor(&self, key: &Key, now: SystemTime) -> Result<Issuer, StoreError> {
        let (signer, trust_domain, validity) = (key.signer(), self.trust_domain.clone(), self.validity);
        // A token may take its time.
        let made = spawn_blocking(move || Issuer::new_root(&trust_domain, signer, now, validity)).await;
        Ok(made.map_err(|error| StoreError::Token(error.to_string()))??)
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(secret) => secret.fmt(f),
            Self::Folder(folder) => folder.fmt(f),
        }
    }
}
