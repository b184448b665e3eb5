//! The cryptographic custom resources: nine kinds whose fields are called as those of QubeSec are, and more
//! of our own beside them. One set of types serves our group and, where operators want it, QubeSec's.

mod algorithms;
mod certificate;
mod decapsulate_secret;
mod definition;
mod derived_key;
mod encapsulate_secret;
mod kem_key_pair;
mod kind;
mod lifecycle;
mod names;
mod problem;
mod random_number;
mod reference;
mod rule;
mod sign_message;
mod signature_key_pair;
mod status;
mod verify_signature;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    algorithms::{CERTIFICATE_ALGORITHMS, KEM_ALGORITHMS, SIGNATURE_ALGORITHMS, UNSTANDARDISED},
    certificate::{
        CLASSICAL_CERTIFICATE, CLASSICAL_KEY, CertificateSpec, CertificateStatus, CertificateType, Hybrid,
        HybridAlgorithm, Issuer, IssuerKind, MESH_LIFE, Usage,
    },
    decapsulate_secret::{DecapsulateSecretSpec, DecapsulateSecretStatus},
    definition::definition,
    derived_key::{
        DerivedKeySpec, DerivedKeyStatus, Kdf, KdfProfile, KeyType, SharedSecretKind, SharedSecretReference,
    },
    encapsulate_secret::{EncapsulateSecretSpec, EncapsulateSecretStatus},
    kem_key_pair::{KemKeyPairSpec, KemKeyPairStatus},
    kind::{Column, GROUP, Kind, QUBESEC_GROUP, VERSION},
    lifecycle::{Keeping, KeyFormat, Output, RecreatePolicy, Rotation, duration},
    names::*,
    problem::Problem,
    random_number::{Provider, RandomNumberSpec, RandomNumberStatus},
    reference::{MessageKind, MessageReference, Reference},
    sign_message::{SignMessageSpec, SignMessageStatus},
    signature_key_pair::{SignatureKeyPairSpec, SignatureKeyPairStatus},
    status::{Condition, Standing, Version, VersionState, Word, condition},
    verify_signature::{VerifySignatureSpec, VerifySignatureStatus},
};

/// What is wished of an object of one of the nine kinds.
pub trait Spec: Serialize + DeserializeOwned + JsonSchema {
    const KIND: Kind;
    type Status: Serialize + DeserializeOwned + JsonSchema + Default + Clone + PartialEq;

    /// What is wrong with it, beyond what the definition refuses. Admission and the controller both ask here.
    fn check(&self) -> Vec<Problem>;
}

/// The first problem of a spec that is not even readable.
pub fn read<S: Spec>(spec: serde_json::Value) -> Result<S, Problem> {
    let spec = if spec.is_null() { serde_json::json!({}) } else { spec };
    serde_json::from_value(spec).map_err(|error| Problem::new("spec", "", error.to_string()))
}
