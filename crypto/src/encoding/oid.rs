//! Object identifiers of algorithms, as DER has them.

use crate::algorithm::{Algorithm, KemAlgorithm, SignatureAlgorithm, SlhDsa};

/// 2.16.840.1.101.3.4, under which NIST registers algorithms.
const NIST: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0];
const SIGNATURES: u8 = 3;
const KEMS: u8 = 4;
/// 2.25.225073894544748183949091582343555188920
const X25519_ML_KEM_768: [u8; 20] = [
    0x69, 0x82, 0xd2, 0xd3, 0xd3, 0xf0, 0xe2, 0xb3, 0xa2, 0xed, 0xa9, 0x92, 0xda, 0xf0, 0x99, 0xa9, 0xab,
    0x88, 0x91, 0x38,
];

pub(super) fn of(algorithm: Algorithm) -> Vec<u8> {
    let (kind, arc) = match algorithm {
        Algorithm::Kem(KemAlgorithm::X25519MlKem768) => return X25519_ML_KEM_768.to_vec(),
        Algorithm::Kem(KemAlgorithm::MlKem512) => (KEMS, 1),
        Algorithm::Kem(KemAlgorithm::MlKem768) => (KEMS, 2),
        Algorithm::Kem(KemAlgorithm::MlKem1024) => (KEMS, 3),
        Algorithm::Signature(SignatureAlgorithm::MlDsa44) => (SIGNATURES, 17),
        Algorithm::Signature(SignatureAlgorithm::MlDsa65) => (SIGNATURES, 18),
        Algorithm::Signature(SignatureAlgorithm::MlDsa87) => (SIGNATURES, 19),
        Algorithm::Signature(SignatureAlgorithm::SlhDsa(set)) => (SIGNATURES, slh_dsa(set)),
    };
    let [head @ .., _] = NIST;
    [&head[..], &[kind, arc]].concat()
}

fn slh_dsa(set: SlhDsa) -> u8 {
    match set {
        SlhDsa::Sha2_128s => 20,
        SlhDsa::Sha2_128f => 21,
        SlhDsa::Sha2_192s => 22,
        SlhDsa::Sha2_192f => 23,
        SlhDsa::Sha2_256s => 24,
        SlhDsa::Sha2_256f => 25,
        SlhDsa::Shake128s => 26,
        SlhDsa::Shake128f => 27,
        SlhDsa::Shake192s => 28,
        SlhDsa::Shake192f => 29,
        SlhDsa::Shake256s => 30,
        SlhDsa::Shake256f => 31,
    }
}

pub(super) fn algorithm(oid: &[u8]) -> Option<Algorithm> {
    Algorithm::all().find(|algorithm| of(*algorithm) == oid)
}

/// With dots, as people write it; its bytes where it is too long for that.
pub(super) fn dotted(oid: &[u8]) -> String {
    let mut arcs = Vec::new();
    let mut arc: u64 = 0;
    for byte in oid {
        match arc.checked_mul(128).and_then(|arc| arc.checked_add(u64::from(byte & 0x7f))) {
            Some(next) => arc = next,
            None => return crate::hex::encode(oid.get(..32).unwrap_or(oid)),
        }
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
        if arcs.len() > 24 {
            return crate::hex::encode(oid.get(..32).unwrap_or(oid));
        }
    }
    let (first, rest) = arcs.split_first().map_or((0, &[][..]), |(first, rest)| (*first, rest));
    let root = (first / 40).min(2);
    let mut text = format!("{root}.{}", first - 40 * root);
    rest.iter().for_each(|arc| text.push_str(&format!(".{arc}")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_its_own_and_is_found_by_it() {
        for one in Algorithm::all() {
            assert_eq!(algorithm(&of(one)), Some(one), "{one}");
        }
        let dots = |name: &str| dotted(&of(Algorithm::parse(name).unwrap().algorithm));
        assert_eq!(dots("ML-KEM-768"), "2.16.840.1.101.3.4.4.2");
        assert_eq!(dots("ML-DSA-65"), "2.16.840.1.101.3.4.3.18");
        assert_eq!(dots("SLH-DSA-SHA2-128f"), "2.16.840.1.101.3.4.3.21");
        assert_eq!(dots("SLH-DSA-SHAKE-256f"), "2.16.840.1.101.3.4.3.31");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]), "1.2.840.113549.1.1.1");
        assert_eq!(dotted(&[]), "0.0");
        assert!(dotted(&[0xff; 1000]).len() <= 64);
    }
}
