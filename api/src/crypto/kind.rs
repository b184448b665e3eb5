//! The nine kinds: what each is called, what `kubectl get` shows of it, what its Secret is called.

use kube::core::{ApiResource, GroupVersionKind};
use schemars::SchemaGenerator;

use super::{
    CertificateSpec, DecapsulateSecretSpec, DerivedKeySpec, EncapsulateSecretSpec, KemKeyPairSpec,
    RandomNumberSpec, SignMessageSpec, SignatureKeyPairSpec, Spec, VerifySignatureSpec, Word,
};

/// Our group.
pub const GROUP: &str = "crypto.trellis.dev";
/// The group of QubeSec, which is served as well where operators want to take objects of it over.
pub const QUBESEC_GROUP: &str = "qubesec.io";
pub const VERSION: &str = "v1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    RandomNumber,
    KemKeyPair,
    EncapsulateSecret,
    DecapsulateSecret,
    DerivedKey,
    SignatureKeyPair,
    SignMessage,
    VerifySignature,
    Certificate,
}

/// A column of `kubectl get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub type_: &'static str,
    pub path: &'static str,
    /// Whether it is shown with `-o wide` only.
    pub wide: bool,
}

const fn column(name: &'static str, path: &'static str) -> Column {
    Column { name, type_: "string", path, wide: false }
}

const STATUS: Column = column("Status", ".status.status");
/// What is really in use: what is wished stands in the spec.
const ALGORITHM: Column = column("Algorithm", ".status.algorithm");
const FINGERPRINT: Column = column("Fingerprint", ".status.fingerprint");
const KEY_FINGERPRINT: Column = column("Fingerprint", ".status.publicKeyFingerprint");
const MESSAGE_FINGERPRINT: Column = column("Fingerprint", ".status.messageFingerprint");
const AGE: Column = Column { name: "Age", type_: "date", path: ".metadata.creationTimestamp", wide: false };
const NUMBER: Column = Column { name: "Version", type_: "integer", path: ".status.version", wide: true };
const REASON: Column =
    Column { wide: true, ..column("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#) };

impl Kind {
    pub const ALL: [Self; 9] = [
        Self::RandomNumber,
        Self::KemKeyPair,
        Self::EncapsulateSecret,
        Self::DecapsulateSecret,
        Self::DerivedKey,
        Self::SignatureKeyPair,
        Self::SignMessage,
        Self::VerifySignature,
        Self::Certificate,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RandomNumber => "QuantumRandomNumber",
            Self::KemKeyPair => "QuantumKEMKeyPair",
            Self::EncapsulateSecret => "QuantumEncapsulateSecret",
            Self::DecapsulateSecret => "QuantumDecapsulateSecret",
            Self::DerivedKey => "QuantumDerivedKey",
            Self::SignatureKeyPair => "QuantumSignatureKeyPair",
            Self::SignMessage => "QuantumSignMessage",
            Self::VerifySignature => "QuantumVerifySignature",
            Self::Certificate => "QuantumCertificate",
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    pub fn singular(self) -> String {
        self.as_str().to_ascii_lowercase()
    }

    pub fn plural(self) -> String {
        format!("{}s", self.singular())
    }

    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::RandomNumber => &["qrn", "qrng"],
            Self::KemKeyPair => &["qkkp"],
            Self::EncapsulateSecret => &["qes"],
            Self::DecapsulateSecret => &["qds"],
            Self::DerivedKey => &["qdk"],
            Self::SignatureKeyPair => &["qskp"],
            Self::SignMessage => &["qsm"],
            Self::VerifySignature => &["qvs"],
            Self::Certificate => &["qc"],
        }
    }

    pub fn columns(self) -> Vec<Column> {
        let own: &[Column] = match self {
            Self::RandomNumber => &[
                Column { type_: "integer", ..column("Bytes", ".status.bytes") },
                column("Provider", ".status.provider"),
                column("Entropy", ".status.entropy"),
            ],
            Self::KemKeyPair | Self::SignatureKeyPair => &[ALGORITHM, KEY_FINGERPRINT],
            Self::EncapsulateSecret | Self::DecapsulateSecret => &[ALGORITHM, FINGERPRINT],
            Self::DerivedKey => &[column("KeyType", ".spec.keyType"), FINGERPRINT],
            Self::SignMessage => &[ALGORITHM, MESSAGE_FINGERPRINT],
            Self::VerifySignature => &[
                ALGORITHM,
                Column { type_: "boolean", ..column("Verified", ".status.verified") },
                MESSAGE_FINGERPRINT,
            ],
            Self::Certificate => &[ALGORITHM, column("Domain", ".spec.domain")],
        };
        let versions = (self.secret_suffix().is_some() && self != Self::SignMessage).then_some(NUMBER);
        let last = [AGE].into_iter().chain(versions).chain([REASON]);
        [STATUS].into_iter().chain(own.iter().copied()).chain(last).collect()
    }

    /// Words that its `status.status` can be.
    pub fn words(self) -> &'static [Word] {
        match self {
            Self::VerifySignature => &[Word::Pending, Word::Valid, Word::Invalid, Word::Failed],
            _ => &[Word::Pending, Word::Success, Word::Failed],
        }
    }

    /// Whether an object of it says nothing without a spec.
    pub fn needs_spec(self) -> bool {
        // A certificate is always somebody's, so there is none of nothing.
        !matches!(self, Self::RandomNumber | Self::KemKeyPair | Self::SignatureKeyPair)
    }

    /// What follows the object's name in that of its Secret, if it has one.
    fn secret_suffix(self) -> Option<&'static str> {
        match self {
            Self::RandomNumber | Self::KemKeyPair | Self::SignatureKeyPair | Self::Certificate => Some(""),
            Self::EncapsulateSecret | Self::DecapsulateSecret => Some("-shared-secret"),
            Self::DerivedKey => Some("-derived-key"),
            Self::SignMessage => Some("-signature"),
            Self::VerifySignature => None,
        }
    }

    /// What its Secret is called where the spec does not say; nothing for a kind without one.
    pub fn default_secret(self, object: &str) -> Option<String> {
        self.secret_suffix().map(|suffix| format!("{object}{suffix}"))
    }

    /// The type of its Secret.
    pub fn secret_type(self) -> &'static str {
        if self == Self::Certificate { "kubernetes.io/tls" } else { "Opaque" }
    }

    pub fn resource(self, group: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(group, VERSION, self.as_str()),
            &self.plural(),
        )
    }

    /// The schemas of its spec and status.
    pub(super) fn schemas(self, generator: &SchemaGenerator) -> (schemars::Schema, schemars::Schema) {
        match self {
            Self::RandomNumber => schemas::<RandomNumberSpec>(generator),
            Self::KemKeyPair => schemas::<KemKeyPairSpec>(generator),
            Self::EncapsulateSecret => schemas::<EncapsulateSecretSpec>(generator),
            Self::DecapsulateSecret => schemas::<DecapsulateSecretSpec>(generator),
            Self::DerivedKey => schemas::<DerivedKeySpec>(generator),
            Self::SignatureKeyPair => schemas::<SignatureKeyPairSpec>(generator),
            Self::SignMessage => schemas::<SignMessageSpec>(generator),
            Self::VerifySignature => schemas::<VerifySignatureSpec>(generator),
            Self::Certificate => schemas::<CertificateSpec>(generator),
        }
    }

    /// What is wrong with a spec of this kind.
    pub fn check(self, spec: serde_json::Value) -> Vec<super::Problem> {
        match self {
            Self::RandomNumber => check::<RandomNumberSpec>(spec),
            Self::KemKeyPair => check::<KemKeyPairSpec>(spec),
            Self::EncapsulateSecret => check::<EncapsulateSecretSpec>(spec),
            Self::DecapsulateSecret => check::<DecapsulateSecretSpec>(spec),
            Self::DerivedKey => check::<DerivedKeySpec>(spec),
            Self::SignatureKeyPair => check::<SignatureKeyPairSpec>(spec),
            Self::SignMessage => check::<SignMessageSpec>(spec),
            Self::VerifySignature => check::<VerifySignatureSpec>(spec),
            Self::Certificate => check::<CertificateSpec>(spec),
        }
    }
}

fn schemas<S: Spec>(generator: &SchemaGenerator) -> (schemars::Schema, schemars::Schema) {
    (generator.clone().into_root_schema_for::<S>(), generator.clone().into_root_schema_for::<S::Status>())
}

fn check<S: Spec>(spec: serde_json::Value) -> Vec<super::Problem> {
    match super::read::<S>(spec) {
        Ok(spec) => spec.check(),
        Err(problem) => vec![problem],
    }
}
