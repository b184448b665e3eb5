//! Names of algorithms as users type them, old ones included, and what of the mesh's own each of them means.

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A key exchange that resists a quantum computer. The mesh has one, X25519MLKEM768.
    HybridExchange,
    ClassicalExchange,
    /// ML-DSA, of whatever level: which one a workload has is its own choice.
    MlDsa,
    ClassicalSignature,
}

/// Every name that is understood. ML-KEM-1024 is not among them: what the mesh has is less than that.
const NAMES: [(&str, Named); 29] = [
    ("kyber512", Named::HybridExchange),
    ("kyber768", Named::HybridExchange),
    ("Kyber512", Named::HybridExchange),
    ("Kyber768", Named::HybridExchange),
    ("ml-kem-512", Named::HybridExchange),
    ("ml-kem-768", Named::HybridExchange),
    ("ML-KEM-512", Named::HybridExchange),
    ("ML-KEM-768", Named::HybridExchange),
    ("x25519mlkem768", Named::HybridExchange),
    ("X25519MLKEM768", Named::HybridExchange),
    ("x25519", Named::ClassicalExchange),
    ("X25519", Named::ClassicalExchange),
    ("P-256", Named::ClassicalExchange),
    ("secp256r1", Named::ClassicalExchange),
    ("dilithium2", Named::MlDsa),
    ("dilithium3", Named::MlDsa),
    ("dilithium5", Named::MlDsa),
    ("Dilithium2", Named::MlDsa),
    ("Dilithium3", Named::MlDsa),
    ("Dilithium5", Named::MlDsa),
    ("ml-dsa-44", Named::MlDsa),
    ("ml-dsa-65", Named::MlDsa),
    ("ml-dsa-87", Named::MlDsa),
    ("ML-DSA-44", Named::MlDsa),
    ("ML-DSA-65", Named::MlDsa),
    ("ML-DSA-87", Named::MlDsa),
    ("ecdsa-p256", Named::ClassicalSignature),
    ("ECDSA-P256", Named::ClassicalSignature),
    ("ecdsa", Named::ClassicalSignature),
];

/// The most that one policy lists.
pub(super) const MAX: usize = 16;

pub(super) fn of(name: &str) -> Option<Named> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, named)| *named)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}
