//! What users call an algorithm: by its standard, by the name of the submission that it came from, or by
//! that of another. The second is taken with a note of what differs, the third refused with a reason.

use super::{Algorithm, KemAlgorithm, SignatureAlgorithm};

/// An algorithm that was named, and what the one who named it should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<A = Algorithm> {
    pub algorithm: A,
    /// There when the name is not the standard's.
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlgorithmError {
    #[error("{name} is not offered: {why}; use {nearest}")]
    Refused { name: String, why: &'static str, nearest: &'static str },
    #[error("unknown algorithm {name:?}: did you mean {nearest}?")]
    Unknown { name: String, nearest: &'static str },
    #[error("{algorithm} {does}: name an algorithm that {wanted}, such as {nearest}")]
    OtherUse { algorithm: Algorithm, does: &'static str, wanted: &'static str, nearest: &'static str },
}

/// Longer names are nobody's.
const MAX_SHOWN: usize = 64;

const DRAFT: &str = "that variant did not become part of the standard";
const UNPROVEN: &str = "it is not a standard of NIST";
const CLASSICAL: &str = "a quantum computer breaks it";
const PREHASHED: &str = "signatures are made over whole messages, not over hashes of them";

/// Beginnings of names that are refused, as [`plain`] writes them; the first that fits counts.
const REFUSED: [(&str, &str, &str); 37] = [
    ("falcon512", "its standard, FN-DSA (FIPS 206), is not finished", "ML-DSA-44"),
    ("falconpadded512", "its standard, FN-DSA (FIPS 206), is not finished", "ML-DSA-44"),
    ("falcon", "its standard, FN-DSA (FIPS 206), is not finished", "ML-DSA-87"),
    ("fndsa512", "its standard (FIPS 206) is not finished", "ML-DSA-44"),
    ("fndsa", "its standard (FIPS 206) is not finished", "ML-DSA-87"),
    ("kyber", DRAFT, "ML-KEM-768"),
    ("dilithium", DRAFT, "ML-DSA-65"),
    ("sphincs", DRAFT, "SLH-DSA-SHA2-128f"),
    ("xwing", "it combines the same two secrets in another way", "X25519MLKEM768"),
    ("x25519kyber768", DRAFT, "X25519MLKEM768"),
    ("hashmldsa", PREHASHED, "ML-DSA-65"),
    ("hashslhdsa", PREHASHED, "SLH-DSA-SHA2-128f"),
    ("hqc", "its standard is not finished", "ML-KEM-768"),
    ("bike", UNPROVEN, "ML-KEM-768"),
    ("frodokem", UNPROVEN, "ML-KEM-1024"),
    ("classicmceliece", UNPROVEN, "ML-KEM-1024"),
    ("ntru", UNPROVEN, "ML-KEM-768"),
    ("sntrup", UNPROVEN, "X25519MLKEM768"),
    ("mayo", UNPROVEN, "ML-DSA-65"),
    ("cross", UNPROVEN, "ML-DSA-65"),
    ("snova", UNPROVEN, "ML-DSA-65"),
    ("uov", UNPROVEN, "ML-DSA-65"),
    ("xmss", "its keys must count what they have signed", "SLH-DSA-SHA2-128f"),
    ("lms", "its keys must count what they have signed", "SLH-DSA-SHA2-128f"),
    ("rsa", CLASSICAL, "ML-DSA-65 to sign, X25519MLKEM768 to share secrets"),
    ("ecdsa", CLASSICAL, "ML-DSA-65"),
    ("ed25519", CLASSICAL, "ML-DSA-65"),
    ("ed448", CLASSICAL, "ML-DSA-87"),
    ("ecdh", CLASSICAL, "X25519MLKEM768"),
    ("dh", CLASSICAL, "X25519MLKEM768"),
    ("x25519", CLASSICAL, "X25519MLKEM768"),
    ("x448", CLASSICAL, "ML-KEM-1024"),
    ("p256", CLASSICAL, "ML-DSA-65 to sign, X25519MLKEM768 to share secrets"),
    ("p384", CLASSICAL, "ML-DSA-87 to sign, ML-KEM-1024 to share secrets"),
    ("p521", CLASSICAL, "ML-DSA-87 to sign, ML-KEM-1024 to share secrets"),
    ("prime256v1", CLASSICAL, "ML-DSA-65 to sign, X25519MLKEM768 to share secrets"),
    ("secp", CLASSICAL, "ML-DSA-65 to sign, X25519MLKEM768 to share secrets"),
];

impl Algorithm {
    /// The algorithm that `name` stands for, whatever its case and its hyphens.
    pub fn parse(name: &str) -> Result<Named, AlgorithmError> {
        let wanted = plain(name);
        if let Some(algorithm) = Self::all().find(|one| plain(one.name()) == wanted) {
            return Ok(Named { algorithm, note: None });
        }
        // As liboqs writes those of FIPS 205.
        let pure = wanted.replacen("slhdsapure", "slhdsa", 1);
        if let Some(algorithm) = Self::all().find(|one| plain(one.name()) == pure) {
            return Ok(Named { algorithm, note: None });
        }
        if let Some((algorithm, note)) = submitted(&wanted) {
            return Ok(Named { algorithm, note: Some(note(name, algorithm)) });
        }
        let refused = REFUSED.iter().find(|(begins, ..)| {
            wanted.starts_with(begins)
                || wanted.strip_prefix("crystals").is_some_and(|w| w.starts_with(begins))
        });
        let shown: String = name.chars().take(MAX_SHOWN).collect();
        if let Some((_, why, nearest)) = refused {
            return Err(AlgorithmError::Refused { name: shown, why, nearest });
        }
        let shown_plain = plain(&shown);
        let nearest = Self::all()
            .map(Self::name)
            .max_by(|a, b| {
                let like = |one: &str| strsim::jaro_winkler(&plain(one), &shown_plain);
                like(a).total_cmp(&like(b))
            })
            .unwrap_or_default();
        Err(AlgorithmError::Unknown { name: shown, nearest })
    }

    /// This algorithm as one that encapsulates.
    pub fn kem(self) -> Result<KemAlgorithm, AlgorithmError> {
        match self {
            Self::Kem(algorithm) => Ok(algorithm),
            Self::Signature(_) => Err(AlgorithmError::OtherUse {
                algorithm: self,
                does: "signs",
                wanted: "encapsulates secrets",
                nearest: "ML-KEM-768",
            }),
        }
    }

    /// This algorithm as one that signs.
    pub fn signature(self) -> Result<SignatureAlgorithm, AlgorithmError> {
        match self {
            Self::Signature(algorithm) => Ok(algorithm),
            Self::Kem(_) => Err(AlgorithmError::OtherUse {
                algorithm: self,
                does: "encapsulates secrets",
                wanted: "signs",
                nearest: "ML-DSA-65",
            }),
        }
    }
}

impl KemAlgorithm {
    pub fn parse(name: &str) -> Result<Named<Self>, AlgorithmError> {
        let named = Algorithm::parse(name)?;
        Ok(Named { algorithm: named.algorithm.kem()?, note: named.note })
    }
}

impl SignatureAlgorithm {
    pub fn parse(name: &str) -> Result<Named<Self>, AlgorithmError> {
        let named = Algorithm::parse(name)?;
        Ok(Named { algorithm: named.algorithm.signature()?, note: named.note })
    }
}

/// Without what people spell in different ways.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ' | '+')).flat_map(char::to_lowercase).collect()
}

type Note = fn(&str, Algorithm) -> String;

/// The algorithm that a submission to NIST's competition became, if only the standard's details differ.
fn submitted(plain_name: &str) -> Option<(Algorithm, Note)> {
    let crystals = plain_name.strip_prefix("crystals").unwrap_or(plain_name);
    let name = match crystals {
        "kyber512" => "ML-KEM-512",
        "kyber768" => "ML-KEM-768",
        "kyber1024" => "ML-KEM-1024",
        "dilithium2" => "ML-DSA-44",
        "dilithium3" => "ML-DSA-65",
        "dilithium5" => "ML-DSA-87",
        _ => "",
    };
    let note: Note = |name, algorithm| {
        format!(
            "{name} is now {algorithm}, which is what is made and read here: keys, ciphertexts and signatures of \
             the earlier {name} are not compatible with it"
        )
    };
    if let Some(algorithm) = Algorithm::all().find(|algorithm| algorithm.name() == name) {
        return Some((algorithm, note));
    }
    let set = plain_name.strip_prefix("sphincs")?.strip_suffix("simple")?;
    let algorithm = Algorithm::all().find(|one| plain(one.name()).strip_prefix("slhdsa") == Some(set))?;
    Some((algorithm, note))
}

#[cfg(test)]
mod tests {
    use super::super::SlhDsa;
    use super::*;

    #[test]
    fn every_algorithm_is_read_from_its_name_however_it_is_spelt() {
        for algorithm in Algorithm::all() {
            let name = algorithm.name();
            let spellings =
                [name.to_owned(), name.to_lowercase(), name.replace('-', "_"), name.replace('-', "")];
            for spelling in spellings {
                assert_eq!(Algorithm::parse(&spelling), Ok(Named { algorithm, note: None }), "{spelling}");
            }
        }
        let named = Algorithm::parse("SLH_DSA_PURE_SHA2_128F").unwrap();
        assert_eq!(named.algorithm.name(), "SLH-DSA-SHA2-128f");
    }

    #[test]
    fn old_names_mean_the_standard_and_say_so() {
        for (old, new) in [
            ("Kyber512", "ML-KEM-512"),
            ("Kyber768", "ML-KEM-768"),
            ("kyber-1024", "ML-KEM-1024"),
            ("CRYSTALS-Kyber768", "ML-KEM-768"),
            ("Dilithium2", "ML-DSA-44"),
            ("Dilithium3", "ML-DSA-65"),
            ("Dilithium5", "ML-DSA-87"),
            ("CRYSTALS-Dilithium2", "ML-DSA-44"),
            ("CRYSTALS-Dilithium3", "ML-DSA-65"),
            ("CRYSTALS-Dilithium5", "ML-DSA-87"),
            ("SPHINCS+-SHA2-128f-simple", "SLH-DSA-SHA2-128f"),
            ("SPHINCS+-SHA2-256s-simple", "SLH-DSA-SHA2-256s"),
            ("SPHINCS+-SHAKE-192f-simple", "SLH-DSA-SHAKE-192f"),
        ] {
            let named = Algorithm::parse(old).unwrap();
            assert_eq!(named.algorithm.name(), new, "{old}");
            let note = named.note.unwrap();
            assert!(note.contains(old) && note.contains(new), "{note}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_with_a_reason_and_the_nearest() {
        for (name, reason, nearest) in [
            ("Falcon512", "FIPS 206", "ML-DSA-44"),
            ("Falcon-1024", "FIPS 206", "ML-DSA-87"),
            ("Falcon-padded-512", "FIPS 206", "ML-DSA-44"),
            ("Dilithium2-AES", "did not become part", "ML-DSA-65"),
            ("CRYSTALS-Dilithium4", "did not become part", "ML-DSA-65"),
            ("Kyber768-90s", "did not become part", "ML-KEM-768"),
            ("SPHINCS+-SHA2-128f-robust", "did not become part", "SLH-DSA-SHA2-128f"),
            ("SPHINCS+-Haraka-128f-simple", "did not become part", "SLH-DSA-SHA2-128f"),
            ("HashML-DSA-65", "whole messages", "ML-DSA-65"),
            ("HQC-128", "not finished", "ML-KEM-768"),
            ("FrodoKEM-640-AES", "not a standard", "ML-KEM-1024"),
            ("RSA", "quantum computer", "ML-DSA-65"),
            ("X25519", "quantum computer", "X25519MLKEM768"),
        ] {
            let error = Algorithm::parse(name).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(reason) && error.ends_with(nearest) || name == "RSA",
                "{error}"
            );
        }
        let error = Algorithm::parse("ML-KEM-786").unwrap_err();
        assert_eq!(error.to_string(), "unknown algorithm \"ML-KEM-786\": did you mean ML-KEM-768?");
        let long = "x".repeat(1 << 16);
        assert!(Algorithm::parse(&long).unwrap_err().to_string().len() < 200);
        assert!(Algorithm::parse("").is_err());
    }

    #[test]
    fn an_algorithm_of_the_other_use_is_refused() {
        assert_eq!(
            KemAlgorithm::parse("Dilithium3").unwrap_err().to_string(),
            "ML-DSA-65 signs: name an algorithm that encapsulates secrets, such as ML-KEM-768"
        );
        assert!(SignatureAlgorithm::parse("X25519MLKEM768").is_err());
        let set = SignatureAlgorithm::SlhDsa(SlhDsa::Sha2_256f);
        assert_eq!(SignatureAlgorithm::parse("slh-dsa-sha2-256f").unwrap().algorithm, set);
    }
}
