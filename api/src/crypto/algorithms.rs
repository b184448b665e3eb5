//! Names of algorithms that specs may hold: those of the standards first, then older ones for the same.
//! What each means, `trellis-crypto` says.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::Problem;

/// Key encapsulation.
pub const KEM_ALGORITHMS: [&str; 7] =
    ["ML-KEM-512", "ML-KEM-768", "ML-KEM-1024", "X25519MLKEM768", "Kyber512", "Kyber768", "Kyber1024"];

/// Signatures.
pub const SIGNATURE_ALGORITHMS: [&str; 24] = [
    "ML-DSA-44",
    "ML-DSA-65",
    "ML-DSA-87",
    "SLH-DSA-SHA2-128s",
    "SLH-DSA-SHA2-128f",
    "SLH-DSA-SHA2-192s",
    "SLH-DSA-SHA2-192f",
    "SLH-DSA-SHA2-256s",
    "SLH-DSA-SHA2-256f",
    "SLH-DSA-SHAKE-128s",
    "SLH-DSA-SHAKE-128f",
    "SLH-DSA-SHAKE-192s",
    "SLH-DSA-SHAKE-192f",
    "SLH-DSA-SHAKE-256s",
    "SLH-DSA-SHAKE-256f",
    "Dilithium2",
    "Dilithium3",
    "Dilithium5",
    "CRYSTALS-Dilithium2",
    "CRYSTALS-Dilithium3",
    "CRYSTALS-Dilithium5",
    "SPHINCS+-SHA2-128f-simple",
    "Falcon512",
    "Falcon1024",
];

/// Those of them that no standard defines yet. They are named so that the refusal can say why.
pub const UNSTANDARDISED: [&str; 2] = ["Falcon512", "Falcon1024"];

/// Keys of certificates. The classical ones are for what cannot verify others yet.
pub const CERTIFICATE_ALGORITHMS: [&str; 5] =
    ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87", "ECDSA-P256", "ECDSA-P384"];

pub(super) fn kem(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": KEM_ALGORITHMS })
}

pub(super) fn signature(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": SIGNATURE_ALGORITHMS })
}

pub(super) fn certificate(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": CERTIFICATE_ALGORITHMS })
}

pub(super) fn check(name: Option<&str>, known: &[&str]) -> Vec<Problem> {
    let Some(name) = name else { return Vec::new() };
    let remedy = if UNSTANDARDISED.contains(&name) {
        "is not a standard yet, so keys of it could not be kept: use ML-DSA-65".to_owned()
    } else if known.contains(&name) {
        return Vec::new();
    } else {
        let offered: Vec<&str> =
            known.iter().filter(|known| !UNSTANDARDISED.contains(known)).copied().collect();
        format!("is no algorithm of this kind; use one of {}", offered.join(", "))
    };
    vec![Problem::new("spec.algorithm", name, remedy)]
}
