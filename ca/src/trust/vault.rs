//! The trust state together with the keys of its anchors, as it is kept: a few named items that are
//! always written in one go.

use std::collections::BTreeMap;

use pem::{EncodeConfig, LineEnding, Pem};
use trellis_api::{
    names::{ANCHOR_KEY, ANCHOR_KEY_DIGITS, TRUST_STATE},
    trust::{Issuing, KeyAlgorithm},
};
use trellis_pki::{
    algorithm::Algorithm,
    bundle::{Anchor as Certificate, fingerprint},
    issue::Issuer,
    key::PrivateKey,
    upstream::chain_pem,
};
use zeroize::Zeroizing;

use super::{
    keys::{Key, Keys},
    state::{Anchor, Pending, TrustState},
};

/// Everything that is kept, by name. Values are wiped when dropped.
pub type Items = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// The key that signs the audit trail; it outlives every anchor.
const AUDIT: &str = "audit.pem";
const PEM_KEY: &str = "PRIVATE KEY";
const PEM_CERTIFICATE: &str = "CERTIFICATE";

/// The state and the keys.
#[derive(Clone)]
pub struct Vault {
    pub state: TrustState,
    items: Items,
}

impl Vault {
    /// The key that signs the audit trail, if there is one yet.
    pub fn audit_key(&self) -> Option<Result<PrivateKey, String>> {
        let item = self.items.get(AUDIT)?;
        let key =
            block(item, PEM_KEY).and_then(|key| PrivateKey::from_pkcs8(&key).map_err(|e| e.to_string()));
        Some(key.map_err(|error| format!("{AUDIT}: {error}")))
    }

    pub fn set_audit_key(&mut self, key: &PrivateKey) -> Result<(), String> {
        self.items.insert(AUDIT.to_owned(), private_pem(key)?);
        Ok(())
    }

    /// A new domain with one anchor.
    pub fn new(certificate: &Certificate, kind: Issuing, key: &Key) -> Result<Self, String> {
        let mut items = Items::new();
        let anchor = put(&mut items, certificate, &[], kind, key)?;
        Ok(Self { state: TrustState::new(anchor), items })
    }

    pub fn decode(items: Items) -> Result<Self, String> {
        let state = items.get(TRUST_STATE).ok_or_else(|| format!("it holds no {TRUST_STATE}"))?;
        let state: TrustState = serde_json::from_slice(state)
            .map_err(|error| format!("{TRUST_STATE} cannot be read: {error}"))?;
        state.check().map_err(|error| format!("{TRUST_STATE}: {error}"))?;
        Ok(Self { state, items })
    }

    /// What is to be written. Keys of anchors that are gone are not among it.
    pub fn encode(&self) -> Result<Items, String> {
        let mut items = self.items.clone();
        items.retain(|name, _| {
            !name.ends_with(ANCHOR_KEY)
                || self.state.anchors.iter().any(|anchor| key_item(&anchor.fingerprint) == *name)
                || self.state.pending.as_ref().is_some_and(|pending| pending_item(&pending.key) == *name)
        });
        let state = serde_json::to_vec_pretty(&self.state).map_err(|error| error.to_string())?;
        items.insert(TRUST_STATE.to_owned(), Zeroizing::new(state));
        Ok(items)
    }

    /// The same keys, and one more, under another state.
    pub fn with(&self, state: TrustState) -> Self {
        Self { state, items: self.items.clone() }
    }

    /// Keeps the key of an anchor that is about to join the state.
    pub fn add(
        &mut self,
        certificate: &Certificate,
        parents: &[Vec<u8>],
        kind: Issuing,
        key: &Key,
    ) -> Result<Anchor, String> {
        put(&mut self.items, certificate, parents, kind, key)
    }

    /// The anchor with its key, ready to sign for `trust_domain`.
    pub fn issuer(&self, trust_domain: &str, anchor: &Anchor, keys: &Keys) -> Result<Issuer, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("anchor {}: {error}", anchor.fingerprint);
        let der = certificate(anchor)?;
        let key = match &anchor.token {
            None => self.kept(&key_item(&anchor.fingerprint))?,
            Some(reference) => {
                let public = Certificate::parse(&der).map_err(|error| wrong(&error))?.public_key().clone();
                keys.in_token(reference, public)?
            }
        };
        Issuer::load_for(trust_domain, &der, key.signer()).map_err(|error| wrong(&error))
    }

    /// Keeps the key that waits for its certificate.
    pub fn set_pending(&mut self, pending: &mut Pending, key: &Key) -> Result<(), String> {
        pending.key = key.signer().public_key().fingerprint();
        if let Key::Kept(key) = key {
            self.items.insert(pending_item(&pending.key), private_pem(key)?);
        }
        Ok(())
    }

    /// The key that waits for its certificate, where it is kept here.
    pub fn pending_key(&self, pending: &Pending) -> Result<Key, String> {
        self.kept(&pending_item(&pending.key))
    }

    fn kept(&self, name: &str) -> Result<Key, String> {
        let item = self.items.get(name).ok_or_else(|| format!("the key {name} is missing"))?;
        let key = block(item, PEM_KEY).map_err(|error| format!("{name}: {error}"))?;
        let key = PrivateKey::from_pkcs8(&key).map_err(|error| format!("{name}: {error}"))?;
        Ok(Key::Kept(key.into()))
    }
}

/// DER.
pub fn certificate(anchor: &Anchor) -> Result<Vec<u8>, String> {
    let what = |error: String| format!("the certificate of anchor {}: {error}", anchor.fingerprint);
    let der = block(anchor.certificate.as_bytes(), PEM_CERTIFICATE).map_err(what)?;
    match fingerprint(&der) == anchor.fingerprint {
        true => Ok(der.to_vec()),
        false => Err(what("it has another fingerprint".to_owned())),
    }
}

pub fn kind_of(algorithm: Algorithm) -> KeyAlgorithm {
    match algorithm {
        Algorithm::MlDsa44 => KeyAlgorithm::MlDsa44,
        Algorithm::MlDsa65 => KeyAlgorithm::MlDsa65,
        Algorithm::MlDsa87 => KeyAlgorithm::MlDsa87,
        Algorithm::EcdsaP256 => KeyAlgorithm::EcdsaP256,
    }
}

pub fn algorithm_of(kind: KeyAlgorithm) -> Algorithm {
    match kind {
        KeyAlgorithm::MlDsa44 => Algorithm::MlDsa44,
        KeyAlgorithm::MlDsa65 => Algorithm::MlDsa65,
        KeyAlgorithm::MlDsa87 => Algorithm::MlDsa87,
        KeyAlgorithm::EcdsaP256 => Algorithm::EcdsaP256,
    }
}

fn put(
    items: &mut Items,
    certificate: &Certificate,
    parents: &[Vec<u8>],
    kind: Issuing,
    key: &Key,
) -> Result<Anchor, String> {
    let fingerprint = certificate.fingerprint().to_string();
    if let Key::Kept(key) = key {
        items.insert(key_item(&fingerprint), private_pem(key)?);
    }
    let parents = chain_pem(parents.iter().map(Vec::as_slice));
    let certificate = chain_pem([certificate.der.as_slice()]);
    Ok(Anchor { fingerprint, kind, certificate, token: key.reference(), parents })
}

fn form() -> EncodeConfig {
    EncodeConfig::new().set_line_ending(LineEnding::LF)
}

fn private_pem(key: &PrivateKey) -> Result<Zeroizing<Vec<u8>>, String> {
    let pkcs8 = key.pkcs8().map_err(|error| error.to_string())?;
    // `Pem` keeps a copy of the key that nobody wipes, so that copy is taken back and wiped here.
    let pem = Pem::new(PEM_KEY, pkcs8.as_slice());
    let text = Zeroizing::new(pem::encode_config(&pem, form()).into_bytes());
    drop(Zeroizing::new(pem.into_contents()));
    Ok(text)
}

fn pending_item(key: &str) -> String {
    format!("pending-{}", key_item(key))
}

fn key_item(fingerprint: &str) -> String {
    format!("{}{ANCHOR_KEY}", fingerprint.get(..ANCHOR_KEY_DIGITS).unwrap_or(fingerprint))
}

/// The one PEM block of a text.
fn block(text: &[u8], tag: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut found = None;
    for block in pem::parse_many(text).map_err(|error| error.to_string())? {
        let matches = block.tag() == tag && found.is_none();
        let contents = Zeroizing::new(block.into_contents());
        match matches {
            true => found = Some(contents),
            false => return Err(format!("it holds something else than one {tag}")),
        }
    }
    found.ok_or_else(|| format!("it holds no {tag}"))
}
