//! DSSE: a payload, its type, and signatures over both.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::{AttestationError, Statement};
use crate::key::PublicKey;
use crate::signature;

/// The type of an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Bytes of a document: a statement, and a few signatures of the largest kind.
pub const MAX_ENVELOPE: usize = 4 << 20;
/// More than these do not sign one document.
const MAX_SIGNATURES: usize = 16;

/// A signed statement. Nothing in it is proven before [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub payload_type: String,
    pub payload: Vec<u8>,
    /// Each with the name of its key, which is a hint to whoever looks for that key.
    pub signatures: Vec<(String, Vec<u8>)>,
}

/// What is signed of a payload: DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    pub fn sign(statement: &Statement, key: &signature::PrivateKey) -> Result<Self, AttestationError> {
        let signature = key.sign(&message(statement), b"")?;
        Ok(Self::assemble(statement, key.public_key(), signature))
    }

    /// The document of a signature that somebody else made over [`message`].
    pub fn assemble(statement: &Statement, key: &signature::PublicKey, signature: Vec<u8>) -> Self {
        let key_id = PublicKey::Signature(key.clone()).fingerprint().to_string();
        Self {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: statement.encode(),
            signatures: vec![(key_id, signature)],
        }
    }

    /// The statement, if `key` signed it.
    pub fn verify(&self, key: &signature::PublicKey) -> Result<Statement, AttestationError> {
        if self.payload_type != PAYLOAD_TYPE {
            let found = self.payload_type.chars().take(100).collect();
            return Err(AttestationError::PayloadType(found));
        }
        let signed = pae(&self.payload_type, &self.payload);
        if !self.signatures.iter().any(|(_, signature)| key.verify(&signed, b"", signature).is_ok()) {
            let key = PublicKey::Signature(key.clone());
            return Err(AttestationError::Signature(key.fingerprint()));
        }
        Statement::decode(&self.payload)
    }

    pub fn encode(&self) -> String {
        let signatures: Vec<Value> = self
            .signatures
            .iter()
            .map(|(key_id, signature)| json!({"keyid": key_id, "sig": STANDARD.encode(signature)}))
            .collect();
        let envelope = json!({
            "payloadType": self.payload_type,
            "payload": STANDARD.encode(&self.payload),
            "signatures": signatures,
        });
        envelope.to_string()
    }

    pub fn decode(document: &[u8]) -> Result<Self, AttestationError> {
        let problem = AttestationError::Envelope;
        if document.len() > MAX_ENVELOPE {
            return Err(problem("it is larger than one can be"));
        }
        let value: Value = serde_json::from_slice(document).map_err(|_| problem("it is not JSON"))?;
        let payload_type = value["payloadType"].as_str().ok_or(problem("it has no payloadType"))?.to_owned();
        let payload = decoded(&value["payload"]).ok_or(problem("its payload is not base64"))?;
        let signatures = value["signatures"].as_array().ok_or(problem("it has no signatures"))?;
        if !(1..=MAX_SIGNATURES).contains(&signatures.len()) {
            return Err(problem("it has no signature, or more than there can be"));
        }
        let one = |value: &Value| {
            Some((value["keyid"].as_str().unwrap_or_default().to_owned(), decoded(&value["sig"])?))
        };
        let signatures = signatures.iter().map(one).collect::<Option<_>>();
        let signatures = signatures.ok_or(problem("one of its signatures is not base64"))?;
        Ok(Self { payload_type, payload, signatures })
    }
}

/// What to sign of a statement.
fn message(statement: &Statement) -> Vec<u8> {
    pae(PAYLOAD_TYPE, &statement.encode())
}

impl Statement {
    /// The bytes that a signature is over: what to hand to whoever signs bytes, such as a QuantumSignMessage.
    pub fn message(&self) -> Vec<u8> {
        message(self)
    }
}

/// DSSE allows either alphabet.
fn decoded(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}
