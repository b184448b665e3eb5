//! The algorithms on offer, under the names of their standards.

mod names;

use std::fmt;

pub use names::{AlgorithmError, Named};

/// How two parties come to share a secret: FIPS 203, or it together with X25519.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KemAlgorithm {
    MlKem512,
    MlKem768,
    MlKem1024,
    /// What TLS calls by this name: both secrets, ML-KEM-768's first, one behind the other.
    X25519MlKem768,
}

/// How somebody proves to have written something: FIPS 204 and FIPS 205.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureAlgorithm {
    MlDsa44,
    MlDsa65,
    MlDsa87,
    SlhDsa(SlhDsa),
}

/// The parameter sets of FIPS 205: hash, security in bits, and whether signatures are small (`s`) or made
/// fast (`f`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlhDsa {
    Sha2_128s,
    Sha2_128f,
    Sha2_192s,
    Sha2_192f,
    Sha2_256s,
    Sha2_256f,
    Shake128s,
    Shake128f,
    Shake192s,
    Shake192f,
    Shake256s,
    Shake256f,
}

/// Any of them. A key has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Kem(KemAlgorithm),
    Signature(SignatureAlgorithm),
}

impl KemAlgorithm {
    pub const ALL: [Self; 4] = [Self::MlKem512, Self::MlKem768, Self::MlKem1024, Self::X25519MlKem768];

    pub fn name(self) -> &'static str {
        match self {
            Self::MlKem512 => "ML-KEM-512",
            Self::MlKem768 => "ML-KEM-768",
            Self::MlKem1024 => "ML-KEM-1024",
            Self::X25519MlKem768 => "X25519MLKEM768",
        }
    }

    /// Bytes of the seed that a key pair is made from: `d` and `z` of FIPS 203, and the scalar of X25519.
    pub fn seed_len(self) -> usize {
        if self == Self::X25519MlKem768 { 96 } else { 64 }
    }

    pub fn public_key_len(self) -> usize {
        match self {
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
            Self::X25519MlKem768 => 1184 + 32,
        }
    }

    /// Bytes of the decapsulation key as FIPS 203 writes it, and the scalar of X25519.
    pub fn expanded_len(self) -> usize {
        match self {
            Self::MlKem512 => 1632,
            Self::MlKem768 => 2400,
            Self::MlKem1024 => 3168,
            Self::X25519MlKem768 => 2400 + 32,
        }
    }

    pub fn ciphertext_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
            Self::X25519MlKem768 => 1088 + 32,
        }
    }

    pub fn shared_secret_len(self) -> usize {
        if self == Self::X25519MlKem768 { 64 } else { 32 }
    }

    /// Random bytes that an encapsulation takes.
    pub(crate) fn randomness_len(self) -> usize {
        if self == Self::X25519MlKem768 { 64 } else { 32 }
    }
}

impl SignatureAlgorithm {
    pub const ALL: [Self; 15] = [
        Self::MlDsa44,
        Self::MlDsa65,
        Self::MlDsa87,
        Self::SlhDsa(SlhDsa::Sha2_128s),
        Self::SlhDsa(SlhDsa::Sha2_128f),
        Self::SlhDsa(SlhDsa::Sha2_192s),
        Self::SlhDsa(SlhDsa::Sha2_192f),
        Self::SlhDsa(SlhDsa::Sha2_256s),
        Self::SlhDsa(SlhDsa::Sha2_256f),
        Self::SlhDsa(SlhDsa::Shake128s),
        Self::SlhDsa(SlhDsa::Shake128f),
        Self::SlhDsa(SlhDsa::Shake192s),
        Self::SlhDsa(SlhDsa::Shake192f),
        Self::SlhDsa(SlhDsa::Shake256s),
        Self::SlhDsa(SlhDsa::Shake256f),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ML-DSA-44",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
            Self::SlhDsa(set) => set.name(),
        }
    }

    /// Bytes that a key pair is made from: the seed of FIPS 204; the two secret seeds and the public one of
    /// FIPS 205.
    pub fn seed_len(self) -> usize {
        match self {
            Self::SlhDsa(set) => 3 * set.n(),
            _ => 32,
        }
    }

    pub fn public_key_len(self) -> usize {
        match self {
            Self::MlDsa44 => 1312,
            Self::MlDsa65 => 1952,
            Self::MlDsa87 => 2592,
            Self::SlhDsa(set) => 2 * set.n(),
        }
    }

    /// Bytes of the private key as its standard writes it.
    pub fn expanded_len(self) -> usize {
        match self {
            Self::MlDsa44 => 2560,
            Self::MlDsa65 => 4032,
            Self::MlDsa87 => 4896,
            Self::SlhDsa(set) => 4 * set.n(),
        }
    }

    pub fn signature_len(self) -> usize {
        match self {
            Self::MlDsa44 => 2420,
            Self::MlDsa65 => 3309,
            Self::MlDsa87 => 4627,
            Self::SlhDsa(set) => set.signature_len(),
        }
    }
}

impl SlhDsa {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha2_128s => "SLH-DSA-SHA2-128s",
            Self::Sha2_128f => "SLH-DSA-SHA2-128f",
            Self::Sha2_192s => "SLH-DSA-SHA2-192s",
            Self::Sha2_192f => "SLH-DSA-SHA2-192f",
            Self::Sha2_256s => "SLH-DSA-SHA2-256s",
            Self::Sha2_256f => "SLH-DSA-SHA2-256f",
            Self::Shake128s => "SLH-DSA-SHAKE-128s",
            Self::Shake128f => "SLH-DSA-SHAKE-128f",
            Self::Shake192s => "SLH-DSA-SHAKE-192s",
            Self::Shake192f => "SLH-DSA-SHAKE-192f",
            Self::Shake256s => "SLH-DSA-SHAKE-256s",
            Self::Shake256f => "SLH-DSA-SHAKE-256f",
        }
    }

    /// Bytes of each seed and hash.
    pub(crate) fn n(self) -> usize {
        match self {
            Self::Sha2_128s | Self::Sha2_128f | Self::Shake128s | Self::Shake128f => 16,
            Self::Sha2_192s | Self::Sha2_192f | Self::Shake192s | Self::Shake192f => 24,
            Self::Sha2_256s | Self::Sha2_256f | Self::Shake256s | Self::Shake256f => 32,
        }
    }

    fn signature_len(self) -> usize {
        match self {
            Self::Sha2_128s | Self::Shake128s => 7856,
            Self::Sha2_128f | Self::Shake128f => 17088,
            Self::Sha2_192s | Self::Shake192s => 16224,
            Self::Sha2_192f | Self::Shake192f => 35664,
            Self::Sha2_256s | Self::Shake256s => 29792,
            Self::Sha2_256f | Self::Shake256f => 49856,
        }
    }
}

impl Algorithm {
    pub fn all() -> impl Iterator<Item = Self> {
        let kems = KemAlgorithm::ALL.into_iter().map(Self::Kem);
        kems.chain(SignatureAlgorithm::ALL.into_iter().map(Self::Signature))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Kem(algorithm) => algorithm.name(),
            Self::Signature(algorithm) => algorithm.name(),
        }
    }

    pub fn seed_len(self) -> usize {
        match self {
            Self::Kem(algorithm) => algorithm.seed_len(),
            Self::Signature(algorithm) => algorithm.seed_len(),
        }
    }

    pub fn public_key_len(self) -> usize {
        match self {
            Self::Kem(algorithm) => algorithm.public_key_len(),
            Self::Signature(algorithm) => algorithm.public_key_len(),
        }
    }

    pub fn expanded_len(self) -> usize {
        match self {
            Self::Kem(algorithm) => algorithm.expanded_len(),
            Self::Signature(algorithm) => algorithm.expanded_len(),
        }
    }
}

impl From<KemAlgorithm> for Algorithm {
    fn from(algorithm: KemAlgorithm) -> Self {
        Self::Kem(algorithm)
    }
}

impl From<SignatureAlgorithm> for Algorithm {
    fn from(algorithm: SignatureAlgorithm) -> Self {
        Self::Signature(algorithm)
    }
}

impl fmt::Display for KemAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
