//! The signature algorithms that keys and certificates may use, under the names that users type and
//! that evidence reports.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ML_DSA_44, ML_DSA_44_SIGNING, ML_DSA_65, ML_DSA_65_SIGNING, ML_DSA_87,
    ML_DSA_87_SIGNING, PqdsaSigningAlgorithm, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::SignatureScheme;

/// A signature algorithm. One key has exactly one, in certificates and in TLS alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    MlDsa44,
    MlDsa65,
    MlDsa87,
    EcdsaP256,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm {0:?}: use one of ml-dsa-44, ml-dsa-65, ml-dsa-87, ecdsa-p256")]
pub struct UnknownAlgorithm(pub String);

impl Algorithm {
    pub const ALL: [Self; 4] = [Self::MlDsa44, Self::MlDsa65, Self::MlDsa87, Self::EcdsaP256];

    /// The name in evidence, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ML-DSA-44",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
            Self::EcdsaP256 => "ECDSA-P256",
        }
    }

    /// The name on command lines and in configuration.
    pub fn flag(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ml-dsa-44",
            Self::MlDsa65 => "ml-dsa-65",
            Self::MlDsa87 => "ml-dsa-87",
            Self::EcdsaP256 => "ecdsa-p256",
        }
    }

    pub fn is_post_quantum(self) -> bool {
        !matches!(self, Self::EcdsaP256)
    }

    /// The code point that a TLS 1.3 handshake signs under with a key of this algorithm.
    pub fn scheme(self) -> SignatureScheme {
        match self {
            Self::MlDsa44 => SignatureScheme::ML_DSA_44,
            Self::MlDsa65 => SignatureScheme::ML_DSA_65,
            Self::MlDsa87 => SignatureScheme::ML_DSA_87,
            Self::EcdsaP256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        }
    }

    pub(crate) fn of_scheme(scheme: SignatureScheme) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.scheme() == scheme)
    }

    /// Dotted OID of the signature algorithm; for ML-DSA the key's OID as well.
    pub(crate) fn signature_oid(self) -> &'static str {
        match self {
            Self::MlDsa44 => "2.16.840.1.101.3.4.3.17",
            Self::MlDsa65 => "2.16.840.1.101.3.4.3.18",
            Self::MlDsa87 => "2.16.840.1.101.3.4.3.19",
            Self::EcdsaP256 => "1.2.840.10045.4.3.2",
        }
    }

    pub(crate) fn public_key_len(self) -> usize {
        match self {
            Self::MlDsa44 => 1312,
            Self::MlDsa65 => 1952,
            Self::MlDsa87 => 2592,
            Self::EcdsaP256 => 65,
        }
    }

    pub(crate) fn for_certificates(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::MlDsa44 => &rcgen::PKCS_ML_DSA_44,
            Self::MlDsa65 => &rcgen::PKCS_ML_DSA_65,
            Self::MlDsa87 => &rcgen::PKCS_ML_DSA_87,
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }

    pub(crate) fn ml_dsa(self) -> Option<&'static PqdsaSigningAlgorithm> {
        match self {
            Self::MlDsa44 => Some(&ML_DSA_44_SIGNING),
            Self::MlDsa65 => Some(&ML_DSA_65_SIGNING),
            Self::MlDsa87 => Some(&ML_DSA_87_SIGNING),
            Self::EcdsaP256 => None,
        }
    }

    /// Whether `signature` over `message` was made by the key `raw`.
    pub(crate) fn verifies(self, raw: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self {
            Self::MlDsa44 => &ML_DSA_44,
            Self::MlDsa65 => &ML_DSA_65,
            Self::MlDsa87 => &ML_DSA_87,
            Self::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, raw).verify(message, signature).is_ok()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.flag())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.flag() == text)
            .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_read_back_from_what_users_type() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            assert_eq!(Algorithm::of_scheme(algorithm.scheme()), Some(algorithm));
        }
    }

    #[test]
    fn an_unknown_algorithm_names_the_choices() {
        let error = "rsa-2048".parse::<Algorithm>().unwrap_err().to_string();
        assert!(error.contains("\"rsa-2048\"") && error.contains("ml-dsa-65"), "{error}");
        assert!("ML-DSA-65".parse::<Algorithm>().is_err(), "flags are lower case");
    }

    #[test]
    fn only_ml_dsa_resists_a_quantum_computer() {
        let resisting: Vec<_> = Algorithm::ALL.into_iter().filter(|a| a.is_post_quantum()).collect();
        assert_eq!(resisting, [Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87]);
    }
}
