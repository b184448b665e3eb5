//! Keys of certificates: those of the mesh's algorithms, and ECDSA P-384, which no workload of the mesh has
//! and some who verify certificates insist on.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::algorithm::Algorithm;
use crate::key::{KeyError, PrivateKey};
use crate::x509;

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    Mesh(Algorithm),
    EcdsaP384,
}

/// A key that a certificate is for, and that signs others if it is a CA's. It has no `Debug`.
pub struct Key(Inner);

enum Inner {
    Mesh(PrivateKey),
    P384 { pair: EcdsaKeyPair, public: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no algorithm of a certificate's key: use one of ML-DSA-44, ML-DSA-65, ML-DSA-87, ECDSA-P256, ECDSA-P384"
)]
pub struct UnknownKind(String);

impl KeyKind {
    pub const ALL: [Self; 5] = [
        Self::Mesh(Algorithm::MlDsa44),
        Self::Mesh(Algorithm::MlDsa65),
        Self::Mesh(Algorithm::MlDsa87),
        Self::Mesh(Algorithm::EcdsaP256),
        Self::EcdsaP384,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mesh(algorithm) => algorithm.name(),
            Self::EcdsaP384 => "ECDSA-P384",
        }
    }

    pub fn is_post_quantum(self) -> bool {
        matches!(self, Self::Mesh(algorithm) if algorithm.is_post_quantum())
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

impl Key {
    /// A fresh key from the operating system's randomness.
    pub fn generate(kind: KeyKind) -> Result<Self, KeyError> {
        match kind {
            KeyKind::Mesh(algorithm) => PrivateKey::generate(algorithm).map(|key| Self(Inner::Mesh(key))),
            KeyKind::EcdsaP384 => EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
                .map(Self::p384)
                .map_err(|_| KeyError::Generation("ECDSA-P384")),
        }
    }

    /// From PKCS#8 in PEM, as [`Self::pem`] writes it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::Unreadable)?;
        let der = Zeroizing::new(der);
        let der = der.secret_pkcs8_der();
        match EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der) {
            Ok(pair) => Ok(Self::p384(pair)),
            Err(_) => PrivateKey::from_pkcs8(der).map(|key| Self(Inner::Mesh(key))),
        }
    }

    fn p384(pair: EcdsaKeyPair) -> Self {
        let public = pair.public_key().as_ref().to_vec();
        Self(Inner::P384 { pair, public })
    }

    pub fn kind(&self) -> KeyKind {
        match &self.0 {
            Inner::Mesh(key) => KeyKind::Mesh(key.algorithm()),
            Inner::P384 { .. } => KeyKind::EcdsaP384,
        }
    }

    /// The public half, where the CA of the mesh may sign it.
    pub fn mesh_public_key(&self) -> Option<&crate::key::PublicKey> {
        match &self.0 {
            Inner::Mesh(key) => Some(key.public_key()),
            Inner::P384 { .. } => None,
        }
    }

    /// PKCS#8 in PEM, ML-DSA as its seed.
    pub fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = match &self.0 {
            Inner::Mesh(key) => key.pkcs8()?,
            Inner::P384 { pair, .. } => {
                let der = pair.to_pkcs8v1().map_err(|_| KeyError::Writing)?;
                Zeroizing::new(der.as_ref().to_vec())
            }
        };
        Ok(Zeroizing::new(x509::pem("PRIVATE KEY", &der)))
    }

    /// DER of its SubjectPublicKeyInfo.
    pub fn public_info(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        match &self.0 {
            Inner::Mesh(key) => key.der_bytes(),
            Inner::P384 { public, .. } => public,
        }
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match &self.0 {
            Inner::Mesh(key) => PublicKeyData::algorithm(key),
            Inner::P384 { .. } => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.0 {
            Inner::Mesh(key) => rcgen::SigningKey::sign(key, message),
            Inner::P384 { pair, .. } => {
                let signature = pair.sign(&SystemRandom::new(), message);
                signature
                    .map(|signature| signature.as_ref().to_vec())
                    .map_err(|_| rcgen::Error::RemoteKeyError)
            }
        }
    }
}
