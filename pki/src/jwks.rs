//! SPIFFE's bundle format: the anchors of a trust domain as a set of JSON web keys, each with its
//! certificate. ECDSA keys are of type EC, ML-DSA keys of type AKP (RFC 9964). The document does not name
//! its trust domain; whoever reads it knows of whom it was fetched.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::algorithm::Algorithm;
use crate::bundle::{Anchor, AnchorError, Bundle, BundleError, MAX_ANCHORS};

/// The largest document that is read: many times the anchors of any rotation.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// Keys that are looked at, of whatever use.
const MAX_KEYS: usize = 4 * MAX_ANCHORS;
const USE: &str = "x509-svid";
/// What RFC 9964 calls an ML-DSA key.
const AKP: &str = "AKP";

/// What a document says.
#[derive(Clone, Debug)]
pub struct Document {
    pub bundle: Bundle,
    pub sequence: Option<u64>,
    pub refresh_hint: Option<Duration>,
    /// Certificates of algorithms that are not used here.
    pub unusable: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it has {0} bytes, more than the {MAX_DOCUMENT} that are read")]
    TooLarge(usize),
    #[error("it is not JSON: {0}")]
    Json(String),
    #[error("{0}")]
    Shape(&'static str),
    #[error("it holds {0} keys, more than the {MAX_KEYS} that are read")]
    TooMany(usize),
    #[error("keys[{index}]: {error}")]
    Key { index: usize, error: EntryError },
    #[error(
        "none of its {0} X.509 keys can be used here: it needs an anchor with an ML-DSA-44, ML-DSA-65, \
         ML-DSA-87 or ECDSA P-256 key"
    )]
    NothingUsable(usize),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// What is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("kty is missing")]
    Type,
    #[error("x5c must hold exactly one certificate, it holds {0}")]
    Certificates(usize),
    #[error("x5c is not the base64 of a certificate")]
    Base64,
    #[error("the certificate in x5c is refused: {0}")]
    Anchor(#[from] AnchorError),
    #[error("{0} is not that of the certificate in x5c")]
    OtherKey(&'static str),
}

/// The document of `bundle`, as it is served.
pub fn write(bundle: &Bundle, sequence: u64, refresh_hint: Duration) -> String {
    let keys: Vec<Value> = bundle.anchors().iter().map(entry).collect();
    let document = json!({
        "keys": keys,
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": refresh_hint.as_secs(),
    });
    document.to_string()
}

/// Reads what was fetched, or given, as the bundle of `trust_domain`. One certificate that is no anchor
/// spoils the whole document; one of an algorithm that is not used here is left out.
pub fn read(trust_domain: &str, document: &[u8]) -> Result<Document, DocumentError> {
    if document.len() > MAX_DOCUMENT {
        return Err(DocumentError::TooLarge(document.len()));
    }
    let document: Value =
        serde_json::from_slice(document).map_err(|error| DocumentError::Json(error.to_string()))?;
    let document = document.as_object().ok_or(DocumentError::Shape("it is not a JSON object"))?;
    let keys = document
        .get("keys")
        .and_then(Value::as_array)
        .ok_or(DocumentError::Shape("keys is missing, or not a list"))?;
    if keys.len() > MAX_KEYS {
        return Err(DocumentError::TooMany(keys.len()));
    }
    let (mut anchors, mut unusable) = (Vec::new(), 0);
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_object().ok_or(DocumentError::Shape("keys holds something else than objects"))?;
        // Keys of other uses, such as those that sign tokens, are not for us.
        if key.get("use").and_then(Value::as_str) != Some(USE) {
            continue;
        }
        match anchor(key) {
            Ok(anchor) => anchors.push(anchor),
            Err(EntryError::Anchor(AnchorError::KeyType(_))) => unusable += 1,
            Err(error) => return Err(DocumentError::Key { index, error }),
        }
    }
    if anchors.is_empty() {
        return Err(DocumentError::NothingUsable(unusable));
    }
    let number = |name, wrong| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(number) => number.as_u64().map(Some).ok_or(DocumentError::Shape(wrong)),
    };
    let sequence = number("spiffe_sequence", "spiffe_sequence is not a whole number")?;
    let hint = number("spiffe_refresh_hint", "spiffe_refresh_hint is not a whole number of seconds")?;
    let bundle = Bundle::new(trust_domain, anchors)?;
    Ok(Document { bundle, sequence, refresh_hint: hint.map(Duration::from_secs), unusable })
}

fn entry(anchor: &Anchor) -> Value {
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let raw = anchor.key.raw.as_slice();
    let mut key = match point(anchor) {
        Some((x, y)) => json!({ "kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y) }),
        None => json!({ "kty": AKP, "alg": anchor.algorithm.name(), "pub": encoded(raw) }),
    };
    if let Some(key) = key.as_object_mut() {
        key.insert("use".to_owned(), USE.into());
        key.insert("x5c".to_owned(), json!([STANDARD.encode(&anchor.der)]));
    }
    key
}

/// The coordinates of an elliptic key, which is uncompressed: 4, then both.
fn point(anchor: &Anchor) -> Option<(&[u8], &[u8])> {
    if anchor.algorithm != Algorithm::EcdsaP256 {
        return None;
    }
    let point = anchor.key.raw.get(1..)?;
    point.split_at_checked(point.len() / 2)
}

fn anchor(key: &Map<String, Value>) -> Result<Anchor, EntryError> {
    key.get("kty").and_then(Value::as_str).ok_or(EntryError::Type)?;
    let certificates = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let [certificate] = certificates else { return Err(EntryError::Certificates(certificates.len())) };
    let der = certificate.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or(EntryError::Base64)?;
    let anchor = Anchor::parse(&der)?;
    // What the key says of itself is not used, but two answers to one question are a forgery or a fault.
    let expected = entry(&anchor);
    for member in ["kty", "crv", "x", "y", "pub", "alg"] {
        if let (Some(said), wanted) = (key.get(member), expected.get(member))
            && (wanted.is_some() || matches!(member, "kty" | "pub" | "x"))
            && Some(said) != wanted
        {
            return Err(EntryError::OtherKey(member));
        }
    }
    Ok(anchor)
}
