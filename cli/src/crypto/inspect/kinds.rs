//! Recognises keys, signatures and certificates, in each of their encodings.

use trellis_crypto::{
    Algorithm, EncodingError, Form, KemAlgorithm, PrivateKey, PublicKey, SignatureAlgorithm,
    attestation::{Envelope, Statement},
    pem,
    seal::{OpeningKey, Recipient},
};
use zeroize::Zeroizing;

use super::{Found, certificate};

/// As far as a text of PEM goes.
const MAX_PEM: usize = 4 << 20;

pub(super) fn found(content: &[u8]) -> Vec<Found> {
    if let Ok(text) = std::str::from_utf8(content) {
        if text.contains("-----BEGIN ") {
            return match pem::blocks_within(text, MAX_PEM) {
                Ok(blocks) => blocks.iter().map(|block| of_block(&block.label, &block.content)).collect(),
                Err(error) => vec![Found::new("damaged PEM").fact("problem", error)],
            };
        }
        if let Ok(envelope) = Envelope::decode(content) {
            return vec![of_envelope(&envelope)];
        }
    }
    let der = private_of_der(content).or_else(|| public_of_der(content));
    let der = der.or_else(|| certificate::of_der(content));
    der.map_or_else(|| of_length(content.len()), |found| vec![found])
}

fn of_block(label: &str, content: &[u8]) -> Found {
    let found = match label {
        "PRIVATE KEY" => private_of_der(content),
        "PUBLIC KEY" => public_of_der(content),
        "CERTIFICATE" => certificate::of_der(content),
        _ => labelled(label, content),
    };
    found.unwrap_or_else(|| {
        let name: String = label.chars().take(64).collect();
        Found::new("unknown").fact("label", name).fact("bytes", content.len())
    })
}

/// A key in QubeSec's PEM.
fn labelled(label: &str, content: &[u8]) -> Option<Found> {
    let text = Zeroizing::new(pem::encode(label, content));
    if label.ends_with(" PUBLIC KEY") {
        return Some(judged("public key", PublicKey::from_pem(&text), |key| public(&key)));
    }
    let secret = label.ends_with(" SECRET KEY") || label.ends_with(" PRIVATE KEY");
    secret.then(|| judged("private key", PrivateKey::from_pem(&text), |key| private(&key)))
}

fn private_of_der(der: &[u8]) -> Option<Found> {
    let text = Zeroizing::new(pem::encode("PRIVATE KEY", der));
    // X-Wing's are read only there.
    if let Ok(key) = OpeningKey::from_pem(&text)
        && key.recipient().is_x_wing()
    {
        return Some(opens(Found::new("private key"), key.recipient()));
    }
    match PrivateKey::from_der(der) {
        Err(EncodingError::Structure(_)) => None,
        read => Some(judged("private key", read, |key| private(&key))),
    }
}

fn public_of_der(der: &[u8]) -> Option<Found> {
    if let Ok(key) = Recipient::from_pem(&pem::encode("PUBLIC KEY", der))
        && key.is_x_wing()
    {
        return Some(opens(Found::new("public key"), &key));
    }
    match PublicKey::from_der(der) {
        Err(EncodingError::Structure(_)) => None,
        read => Some(judged("public key", read, |key| public(&key))),
    }
}

fn judged<K>(what: &str, read: Result<K, EncodingError>, describe: impl FnOnce(K) -> Found) -> Found {
    read.map_or_else(|error| Found::new(what).fact("problem", error), describe)
}

fn opens(found: Found, key: &Recipient) -> Found {
    let found = found.fact("algorithm", key.algorithm()).fact("use", "opens sealed files");
    found.fact("fingerprint", key.fingerprint()).public(key.pem())
}

fn private(key: &PrivateKey) -> Found {
    let form = match (key.algorithm(), key.form()) {
        (Algorithm::Signature(SignatureAlgorithm::SlhDsa(_)), _) => "whole, as FIPS 205 has it",
        (_, Form::Seed) => "seed",
        (_, Form::Expanded) => "expanded, without the seed",
    };
    described(Found::new("private key"), &key.public_key()).fact("form", form)
}

fn public(key: &PublicKey) -> Found {
    described(Found::new("public key"), key)
}

fn described(found: Found, key: &PublicKey) -> Found {
    let uses = match key.algorithm() {
        Algorithm::Kem(_) => "encapsulates secrets, opens sealed files",
        Algorithm::Signature(_) => "signs",
    };
    let found = found.fact("algorithm", key.algorithm()).fact("use", uses);
    found.fact("fingerprint", key.fingerprint()).public(key.pem())
}

fn of_envelope(envelope: &Envelope) -> Found {
    let mut found = Found::new("signature document").fact("payload", &envelope.payload_type);
    for (key_id, signature) in &envelope.signatures {
        let of = SignatureAlgorithm::ALL.into_iter().find(|one| one.signature_len() == signature.len());
        let of = of.map_or_else(String::new, |algorithm| format!(", as long as one of {algorithm}"));
        found = found.fact("signature", format!("by {key_id}{of}"));
    }
    let found = match Statement::decode(&envelope.payload) {
        Err(error) => found.fact("problem", error),
        Ok(statement) => {
            let about = statement.purpose().map(|purpose| purpose.to_string());
            let mut found = found.fact("for", about.unwrap_or(statement.predicate_type));
            for subject in &statement.subjects {
                let name = subject.name.as_deref().unwrap_or_default();
                for (hash, digest) in &subject.digests {
                    found = found.fact("subject", format!("{name}@{hash}:{digest}"));
                }
            }
            found
        }
    };
    found.fact("proven", "nothing: verify it with the signer's public key")
}

/// Raw bytes say nothing, but few things have as many.
fn of_length(length: usize) -> Vec<Found> {
    let mut could: Vec<String> = Vec::new();
    for algorithm in Algorithm::all() {
        if algorithm.public_key_len() == length {
            could.push(format!("public key of {algorithm}"));
        }
        if algorithm.expanded_len() == length {
            could.push(format!("private key of {algorithm}"));
        }
    }
    let signatures = SignatureAlgorithm::ALL.into_iter().filter(|one| one.signature_len() == length);
    could.extend(signatures.map(|algorithm| format!("signature of {algorithm}")));
    let ciphertexts = KemAlgorithm::ALL.into_iter().filter(|one| one.ciphertext_len() == length);
    could.extend(ciphertexts.map(|algorithm| format!("ciphertext of {algorithm}")));
    if could.is_empty() {
        return Vec::new();
    }
    let found = Found::new("raw bytes").fact("bytes", length);
    vec![could.into_iter().fold(found, |found, one| found.fact("could be", one))]
}
