//! What QubeSec's controller leaves behind: objects with the statuses that it wrote, and Secrets that say nothing of
//! themselves.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use trellis_crypto::{
    Fingerprint, KemAlgorithm, PrivateKey, SignatureAlgorithm,
    derive::{Hash, hkdf},
    hex, kem, pem, signature,
};
use trellis_pki::certify::{Key, Name, Role, Subject, Usages, Wanted};

use crate::bed::{Bed, bytes, secret_path};

pub const DAY: Duration = Duration::from_secs(24 * 3600);
pub const RANDOM: &str = "QuantumRandomNumber";
pub const KEM: &str = "QuantumKEMKeyPair";
pub const ENCAPSULATE: &str = "QuantumEncapsulateSecret";
pub const DECAPSULATE: &str = "QuantumDecapsulateSecret";
pub const DERIVED: &str = "QuantumDerivedKey";
pub const SIGNATURE: &str = "QuantumSignatureKeyPair";
pub const SIGN: &str = "QuantumSignMessage";
pub const VERIFY: &str = "QuantumVerifySignature";
pub const CERTIFICATE: &str = "QuantumCertificate";

/// Objects that keep something, and their Secrets.
pub const KEPT: [(&str, &str, &str); 8] = [
    (RANDOM, "number", "number"),
    (KEM, "kem", "kem"),
    (ENCAPSULATE, "enc", "enc-shared-secret"),
    (DECAPSULATE, "dec", "dec-shared-secret"),
    (DERIVED, "key", "key-derived-key"),
    (SIGNATURE, "pair", "pair"),
    (SIGN, "sign", "signed"),
    (CERTIFICATE, "web", "web"),
];
/// Without signatures, which have no versions.
pub const VERSIONED: [(&str, &str); 7] = [
    (RANDOM, "number"),
    (KEM, "kem"),
    (ENCAPSULATE, "enc"),
    (DECAPSULATE, "dec"),
    (DERIVED, "key"),
    (SIGNATURE, "pair"),
    (CERTIFICATE, "web"),
];

pub type Items = BTreeMap<&'static str, Vec<u8>>;

/// All that is in the Secrets, by their names.
pub type Contents = BTreeMap<&'static str, Items>;

/// Contents that belong together, made by nothing of what is tried here but the primitives.
pub fn contents() -> Contents {
    let mut all = Contents::new();
    let mut put = |secret, items: Vec<(&'static str, Vec<u8>)>| {
        all.insert(secret, items.into_iter().collect());
    };
    let number: Vec<u8> = (0..64).collect();
    put("number", vec![("quantumrandomnumber", number)]);

    let kem = kem::PrivateKey::generate(KemAlgorithm::MlKem1024).unwrap();
    let capsule = kem.public_key().encapsulate().unwrap();
    let shared = capsule.shared_secret.as_bytes().to_vec();
    put("kem", pair("ML-KEM-1024", kem.public_key().raw(), kem.expanded().as_bytes()));
    put("enc-shared-secret", vec![("shared-secret", shared.clone()), ("ciphertext", capsule.ciphertext)]);
    put("dec-shared-secret", vec![("shared-secret", shared)]);
    let derived = hkdf(Hash::Sha256, &capsule.shared_secret, &[0x00, 0xff], b"", 32).unwrap();
    let digest = Fingerprint::of_public(derived.as_bytes()).to_string();
    put(
        "key-derived-key",
        vec![
            ("derived-key", derived.as_bytes().to_vec()),
            ("fingerprint", digest.into_bytes()),
            ("key-type", b"AES-256".to_vec()),
        ],
    );

    let signer = signature::PrivateKey::generate(SignatureAlgorithm::MlDsa87).unwrap();
    put("pair", pair("ML-DSA-87", signer.public_key().raw(), signer.expanded().unwrap().as_bytes()));
    put("signed", vec![("signature", signer.sign(b"hello", b"").unwrap())]);
    put("web", certificate("ML-DSA-87", 1_800_000_000 - 10 * 86_400, 365));
    all
}

/// PEM of the raw bytes of both halves.
pub fn pair(algorithm: &str, public: &[u8], private: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("public-key", pem::encode(&format!("{algorithm} PUBLIC KEY"), public).into_bytes()),
        ("private-key", pem::encode(&format!("{algorithm} SECRET KEY"), private).into_bytes()),
    ]
}

/// As `openssl req -x509 -subj /CN=…` makes it, without names and for any purpose.
pub fn certificate(algorithm: &str, from: u64, days: u32) -> Vec<(&'static str, Vec<u8>)> {
    let key = Key::generate(algorithm.parse().unwrap()).unwrap();
    let subject = Subject { common_name: Some("web.example".to_owned()), ..Subject::default() };
    let wanted = Wanted {
        subject,
        names: vec![Name::dns("web.example").unwrap()],
        usages: Usages::new([]),
        role: Role::Ca { path_length: None },
        life: DAY * days,
    };
    let der = wanted.self_signed(&key, UNIX_EPOCH + Duration::from_secs(from)).unwrap();
    vec![
        ("tls.crt", pem::encode("CERTIFICATE", &der).into_bytes()),
        ("tls.key", key_of_openssl(&key).into_bytes()),
    ]
}

/// ML-DSA as OpenSSL writes it: the seed and the expanded key.
fn key_of_openssl(key: &Key) -> String {
    let key = PrivateKey::from_pem(&key.pem().unwrap()).unwrap();
    let (seed, expanded) = (key.seed().unwrap(), key.expanded().unwrap());
    let both = der(0x30, &[der(0x04, seed.as_bytes()), der(0x04, expanded.as_bytes())].concat());
    let oid = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03, 0x13];
    let info = [der(0x02, &[0]), der(0x30, &der(0x06, &oid)), der(0x04, &both)].concat();
    pem::encode("PRIVATE KEY", &der(0x30, &info))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let length = match length {
        0..128 => vec![u8::try_from(length).unwrap()],
        _ => [&[0x82], length.to_be_bytes().as_slice()].concat(),
    };
    [&[tag], length.as_slice(), content].concat()
}

/// The first ten characters of SHA-256.
pub fn short(bytes: &[u8]) -> String {
    Fingerprint::of_public(bytes).to_string()[..10].to_owned()
}

/// An object whose status QubeSec wrote.
fn object(bed: &Bed, kind: &str, name: &str, spec: Value, mut status: Value) {
    bed.create(kind, name, spec);
    status["lastUpdateTime"] = json!("2025-06-01T12:00:00Z");
    bed.edit(kind, name, |object| object["status"] = status);
}

/// Its Secret: no label, no annotation, and an owner.
pub fn secret(bed: &Bed, kind: &str, owner: &str, name: &str, items: &Items) {
    let uid = bed.object(kind, owner)["metadata"]["uid"].clone();
    secret_of(bed, kind, owner, &uid, name, items);
}

pub fn secret_of(bed: &Bed, kind: &str, owner: &str, uid: &Value, name: &str, items: &Items) {
    let data: serde_json::Map<String, Value> =
        items.iter().map(|(item, bytes)| ((*item).to_owned(), json!(STANDARD.encode(bytes)))).collect();
    let owner = json!({
        "apiVersion": "qubesec.io/v1", "kind": kind, "name": owner, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data,
        "metadata": { "name": name, "namespace": "shop", "ownerReferences": [owner] },
    });
    bed.api.create(&secret_path("shop", name), secret);
}

/// Everything that QubeSec's controller leaves, and nobody who attends to it.
pub fn left(contents: &Contents) -> Bed {
    let mut bed = Bed::idle();
    bed.group = "qubesec.io";
    let to = |name: &str| json!({ "name": name, "namespace": "shop" });
    let of = |secret: &str, item: &str| contents.get(secret).and_then(|items| items.get(item)).cloned();
    let shared = of("enc-shared-secret", "shared-secret").unwrap_or_default();
    let derived = of("key-derived-key", "derived-key").unwrap_or_default();
    object(
        &bed,
        RANDOM,
        "number",
        json!({ "bytes": 64, "provider": "OpenSSL" }),
        json!({ "status": "Success", "randomNumberReference": to("number"), "bytes": 64,
                "provider": "OpenSSL", "entropy": "0.998877665544" }),
    );
    object(
        &bed,
        KEM,
        "kem",
        json!({ "algorithm": "ML-KEM-1024" }),
        json!({ "status": "Success", "keyPairReference": to("kem") }),
    );
    object(
        &bed,
        ENCAPSULATE,
        "enc",
        json!({ "publicKeyRef": to("kem"), "algorithm": "ML-KEM-1024" }),
        json!({ "status": "Success", "sharedSecretReference": to("enc-shared-secret"),
                "ciphertext": hex::encode(&of("enc-shared-secret", "ciphertext").unwrap_or_default()),
                "fingerprint": short(&shared) }),
    );
    object(
        &bed,
        DECAPSULATE,
        "dec",
        json!({ "privateKeyRef": to("kem"), "ciphertextRef": to("enc"), "ciphertext": "",
                "algorithm": "ML-KEM-1024" }),
        json!({ "status": "Success", "sharedSecretReference": to("dec-shared-secret"),
                "fingerprint": short(&shared) }),
    );
    object(
        &bed,
        DERIVED,
        "key",
        json!({ "sharedSecretRef": to("dec"), "keyType": "AES-256", "salt": "00ff", "info": "" }),
        json!({ "status": "Success", "derivedKeyReference": to("key-derived-key"),
                "keyFingerprint": Fingerprint::of_public(&derived).to_string(),
                "fingerprint": "", "usedSalt": "00ff", "usedInfo": "" }),
    );
    let public = of("pair", "public-key").unwrap_or_default();
    object(
        &bed,
        SIGNATURE,
        "pair",
        json!({ "algorithm": "ML-DSA-87" }),
        json!({ "status": "Success", "keyPairReference": to("pair"), "publicKeyFingerprint": short(&public) }),
    );
    object(
        &bed,
        SIGN,
        "sign",
        json!({ "privateKeyRef": to("pair"), "messageRef": to("message"), "algorithm": "ML-DSA-87",
                "outputSecretName": "signed", "messageKey": "message", "signatureKey": "sig" }),
        json!({ "status": "Success", "signatureReference": to("signed"),
                "signature": STANDARD.encode(of("signed", "signature").unwrap_or_default()),
                "messageFingerprint": short(b"hello") }),
    );
    object(
        &bed,
        VERIFY,
        "verify",
        json!({ "publicKeyRef": to("pair"), "messageRef": to("message"), "signatureRef": to("signed"),
                "algorithm": "ML-DSA-87", "messageKey": "message", "signatureKey": "signature" }),
        json!({ "status": "Valid", "verified": true, "messageFingerprint": short(b"hello"),
                "lastCheckedTime": "2025-06-01T12:00:00Z" }),
    );
    object(
        &bed,
        CERTIFICATE,
        "web",
        json!({ "domain": "web.example", "algorithm": "ML-DSA-87", "days": 365 }),
        json!({ "status": "Success", "certificateReference": to("web") }),
    );
    let message = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": { "name": "message", "namespace": "shop" }, "data": { "message": STANDARD.encode("hello") },
    });
    bed.api.create(&secret_path("shop", "message"), message);
    for (kind, owner, name) in KEPT {
        if let Some(items) = contents.get(name) {
            secret(&bed, kind, owner, name, items);
        }
    }
    bed
}

/// Every item that there was is there, byte by byte.
pub fn unchanged(bed: &Bed, contents: &Contents) {
    for (name, items) in contents {
        let now = bed.secret(name);
        for (item, before) in items {
            assert!(bytes(&now, item) == *before, "{item} of Secret {name} is another");
        }
    }
}

/// A certificate of another algorithm.
pub fn certificate_of(algorithm: &str) -> Items {
    let key = Key::generate(algorithm.parse().unwrap()).unwrap();
    let wanted = Wanted {
        subject: Subject { common_name: Some("web.example".to_owned()), ..Subject::default() },
        names: Vec::new(),
        usages: Usages::new([]),
        role: Role::Leaf,
        life: DAY,
    };
    let der = wanted.self_signed(&key, UNIX_EPOCH + Duration::from_secs(1_800_000_000)).unwrap();
    let pem = pem::encode("CERTIFICATE", &der).into_bytes();
    [("tls.crt", pem), ("tls.key", key.pem().unwrap().as_bytes().to_vec())].into()
}
