//! The root: made once, kept where only the CA reads it, loaded ever after. However many replicas start
//! at once, one root is stored, and all of them use that one.

mod folder;
mod secret;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    time::{Duration, SystemTime},
};

use pem::{EncodeConfig, LineEnding, Pem};
use thiserror::Error;
use trellis_pki::{
    algorithm::Algorithm,
    clock::rfc3339,
    issue::{IssueError, Issuer},
    key::{KeyError, PrivateKey},
};
use zeroize::Zeroizing;

pub use self::{folder::Folder, secret::Secret};

/// The one item in the store: the key (PKCS#8; of ML-DSA only the seed) and the certificate, both PEM.
pub const ITEM: &str = "root.pem";

/// When the end of the root becomes a matter for the log.
const SOON: Duration = Duration::from_secs(60 * 24 * 60 * 60);

const KEY: &str = "PRIVATE KEY";
const CERTIFICATE: &str = "CERTIFICATE";

/// `secret` or `file:DIR`, as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSpec {
    Secret,
    Folder(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("root {0:?} is unknown; use secret or file:DIR")]
pub struct UnknownRoot(String);

impl FromStr for RootSpec {
    type Err = UnknownRoot;

    fn from_str(text: &str) -> Result<Self, UnknownRoot> {
        match text.split_once(':') {
            None if text == "secret" => Ok(Self::Secret),
            Some(("file", path)) if !path.is_empty() => Ok(Self::Folder(path.into())),
            _ => Err(UnknownRoot(text.to_owned())),
        }
    }
}

impl fmt::Display for RootSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret => f.write_str("secret"),
            Self::Folder(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Where the root is kept.
pub enum Store {
    Secret(Box<Secret>),
    Folder(Folder),
}

/// How a root is made if there is none.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub trust_domain: String,
    pub algorithm: Algorithm,
    pub validity: Duration,
}

#[derive(Debug, Error)]
pub enum RootError {
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
    #[error(
        "the root in {place} is valid from {from} until {until}, and it is {now}; check the clock, or begin with a new root"
    )]
    NotValid { place: String, from: String, until: String, now: String },
    #[error("cannot make a key for the root: {0}")]
    Key(#[from] KeyError),
    #[error("cannot make the root: {0}")]
    Issue(#[from] IssueError),
    #[error("the root in {0} appears and disappears; something else deletes it")]
    Unstable(String),
}

/// Whether an item was stored, or another was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Stored,
    Taken,
}

/// The stored bytes; wiped when dropped.
type Item = Zeroizing<Vec<u8>>;

impl Store {
    /// Loads the root, or makes and stores one if there is none.
    pub async fn open(&self, wanted: &Wanted, now: SystemTime) -> Result<Issuer, RootError> {
        // Who loses the race for the first root finds that of the winner in the second round.
        for _ in 0..3 {
            if let Some(item) = self.get().await? {
                let issuer = self.load(&item, wanted, now)?;
                tracing::info!(place = %self, subject = issuer.anchor().subject, "loaded the root");
                return Ok(issuer);
            }
            let key = PrivateKey::generate(wanted.algorithm)?;
            let item = Zeroizing::new(key.pkcs8()?);
            let issuer = Issuer::new_root(&wanted.trust_domain, key, now, wanted.validity)?;
            let item = encode(&item, &issuer.anchor().der);
            if self.put(item).await? == Put::Stored {
                tracing::info!(
                    place = %self,
                    subject = issuer.anchor().subject,
                    algorithm = issuer.anchor().algorithm.name(),
                    fingerprint = issuer.anchor().fingerprint(),
                    not_after = rfc3339(issuer.anchor().not_after),
                    "made and stored a new root"
                );
                return Ok(issuer);
            }
        }
        Err(RootError::Unstable(self.to_string()))
    }

    fn load(&self, item: &[u8], wanted: &Wanted, now: SystemTime) -> Result<Issuer, RootError> {
        let damaged = |reason: String| RootError::Damaged { place: self.to_string(), reason };
        let (key, certificate) = decode(item).map_err(damaged)?;
        let key = PrivateKey::from_pkcs8(&key).map_err(|error| damaged(error.to_string()))?;
        let issuer = Issuer::load(&certificate, key).map_err(|error| damaged(error.to_string()))?;
        if issuer.trust_domain() != wanted.trust_domain {
            return Err(RootError::TrustDomain {
                place: self.to_string(),
                found: issuer.trust_domain().to_owned(),
                wanted: wanted.trust_domain.clone(),
            });
        }
        let anchor = issuer.anchor();
        if !anchor.is_valid_at(now) {
            return Err(RootError::NotValid {
                place: self.to_string(),
                from: rfc3339(anchor.not_before),
                until: rfc3339(anchor.not_after),
                now: rfc3339(now),
            });
        }
        let left = anchor.not_after.duration_since(now).unwrap_or_default();
        if left < SOON {
            tracing::warn!(
                place = %self,
                not_after = rfc3339(anchor.not_after),
                days_left = left.as_secs() / (24 * 60 * 60),
                "the root ends soon, and no certificate outlives it; plan its replacement"
            );
        }
        if anchor.algorithm != wanted.algorithm {
            tracing::warn!(
                place = %self,
                found = %anchor.algorithm,
                wanted = %wanted.algorithm,
                "root-algorithm only decides about a new root; the stored one is used as it is"
            );
        }
        Ok(issuer)
    }

    async fn get(&self) -> Result<Option<Item>, RootError> {
        match self {
            Self::Secret(secret) => secret.get().await,
            Self::Folder(folder) => folder.get().await,
        }
        .map_err(|reason| RootError::Unreadable { place: self.to_string(), reason })
    }

    async fn put(&self, item: Item) -> Result<Put, RootError> {
        match self {
            Self::Secret(secret) => secret.put(item).await,
            Self::Folder(folder) => folder.put(item).await,
        }
        .map_err(|reason| RootError::Unwritable { place: self.to_string(), reason })
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

fn encode(pkcs8: &[u8], certificate: &[u8]) -> Item {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    // `Pem` keeps a copy of the key that nobody wipes, so that copy is taken back and wiped here.
    let key = Pem::new(KEY, pkcs8);
    let text = Zeroizing::new(pem::encode_config(&key, config));
    drop(Zeroizing::new(key.into_contents()));
    let certificate = pem::encode_config(&Pem::new(CERTIFICATE, certificate), config);
    let mut item = Zeroizing::new(Vec::with_capacity(text.len() + certificate.len()));
    item.extend_from_slice(text.as_bytes());
    item.extend_from_slice(certificate.as_bytes());
    item
}

fn decode(item: &[u8]) -> Result<(Item, Vec<u8>), String> {
    let (mut key, mut certificate) = (None, None);
    for block in pem::parse_many(item).map_err(|error| error.to_string())? {
        match block.tag() {
            KEY if key.is_none() => key = Some(Zeroizing::new(block.into_contents())),
            CERTIFICATE if certificate.is_none() => certificate = Some(block.into_contents()),
            other => return Err(format!("it holds one {other} too many")),
        }
    }
    match (key, certificate) {
        (Some(key), Some(certificate)) => Ok((key, certificate)),
        (None, _) => Err(format!("it holds no {KEY}")),
        (_, None) => Err(format!("it holds no {CERTIFICATE}")),
    }
}
