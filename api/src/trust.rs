//! The custom resource by which operators steer trust: which kind of anchor certificates are issued
//! from, the algorithm of leaves, and who is denied. Whatever differs from what is there, the CA makes so
//! step by step, and says in the status what it waits for.

mod renewal;
mod status;

use std::{fmt, str::FromStr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    renewal::{Declined, Renewal, Renewed},
    status::{
        AnchorStatus, Condition, PastPhase, PastRotation, PendingStatus, RotationStatus, TrustDomainStatus,
        WaitingFor,
    },
};
pub use crate::federation::{Federation, FederationStatus, Profile};

/// The one object that counts, in the control plane's namespace.
pub const TRUST_DOMAIN: &str = "mesh";

/// How trust shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "policy.trellis.dev",
    version = "v1",
    kind = "TrustDomain",
    plural = "trustdomains",
    namespaced,
    status = "TrustDomainStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Issuing","type":"string","jsonPath":".status.issuing"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.rotation.to"}"#,
    printcolumn = r#"{"name":"Waiting","type":"integer","jsonPath":".status.rotation.waiting"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrustDomainSpec {
    /// The anchor that certificates are issued from. Changing it begins a rotation; changing it back
    /// before the old anchor is removed rolls the rotation back.
    pub issuing: Issuing,
    /// A second, classical anchor, from which workloads with a dual identity get the certificate for peers
    /// that cannot verify ML-DSA. Absent: there is none, and one that is there is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub companion: Option<Issuing>,
    #[serde(default)]
    pub leaf: Leaves,
    /// Rotations to a fresh key that nobody has to ask for.
    #[serde(default, skip_serializing_if = "Renewal::is_default")]
    pub renewal: Renewal,
    /// Holds a rotation where it is.
    #[serde(default)]
    pub paused: bool,
    /// Takes one step of one rotation although some would be cut off by it. Who that was is recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Force>,
    /// Who is turned away at once, everywhere, whatever their certificates say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub denied: Vec<Denial>,
    /// Other trust domains whose workloads may be peers. Their anchors are fetched from their bundle
    /// endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub federation: Vec<Federation>,
    /// With issuing.signedBy import: the certificate over the request that the status shows, and below it
    /// those of the CAs above it, as PEM.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 262_144))]
    pub imported: String,
    /// Lets an outside CA sign an ML-DSA issuing key with what a quantum computer breaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_classical_parents: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuing {
    pub algorithm: KeyAlgorithm,
    /// Raise it to rotate to a fresh key of the same algorithm.
    #[serde(default = "first")]
    #[schemars(range(min = 1))]
    pub generation: u32,
    /// Who signs the issuing certificate. Changing it is a rotation to a fresh key. A companion signs itself.
    #[serde(default, skip_serializing_if = "SignedBy::is_self")]
    pub signed_by: SignedBy,
}

/// Who signs an issuing certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SignedBy {
    /// Its own key.
    #[default]
    #[serde(rename = "self")]
    Itself,
    /// An outside CA, by hand: the request is in the status, the answer goes into imported.
    #[serde(rename = "import")]
    Import,
    /// The OpenBao server that the CA is set up with.
    #[serde(rename = "openbao")]
    OpenBao,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Leaves {
    /// For workloads that name none themselves. Absent: what they were started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<KeyAlgorithm>,
    /// Whether workloads that do not say so themselves hold a certificate of the companion as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dual: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Force {
    /// Number of the rotation, as its status shows it: a force never outlives what it was meant for.
    pub rotation: u32,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// identity=spiffe://…, serial=HEX or key=SHA-256 in hex.
    #[schemars(length(min = 5, max = 512))]
    pub what: String,
    /// For those who read it later.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub reason: String,
}

/// Algorithms of anchors and leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyAlgorithm {
    #[serde(rename = "ml-dsa-44")]
    MlDsa44,
    #[default]
    #[serde(rename = "ml-dsa-65")]
    MlDsa65,
    #[serde(rename = "ml-dsa-87")]
    MlDsa87,
    #[serde(rename = "ecdsa-p256")]
    EcdsaP256,
}

/// Which of the two anchors that issue a rotation is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Part {
    #[default]
    Issuing,
    Companion,
}

/// Where a rotation is. Every phase ends when all whom it concerns have confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// The new anchor goes to everybody, beside the old one.
    Distributing,
    /// Certificates are issued from the new anchor; those of the old one are being renewed.
    Issuing,
    /// The old anchor is being taken from everybody, and connections that rest on it are drained.
    Removing,
}

fn first() -> u32 {
    1
}

impl TrustDomainSpec {
    /// Wishes for this anchor, and for nothing else.
    pub fn of(issuing: Issuing) -> Self {
        Self {
            issuing,
            companion: None,
            leaf: Leaves::default(),
            renewal: Renewal::default(),
            paused: false,
            force: None,
            denied: Vec::new(),
            federation: Vec::new(),
            imported: String::new(),
            allow_classical_parents: false,
        }
    }
}

impl Issuing {
    /// An anchor that signs itself.
    pub fn own(algorithm: KeyAlgorithm, generation: u32) -> Self {
        Self { algorithm, generation, signed_by: SignedBy::Itself }
    }
}

impl SignedBy {
    /// As users type it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "self",
            Self::Import => "import",
            Self::OpenBao => "openbao",
        }
    }

    pub fn is_self(&self) -> bool {
        *self == Self::Itself
    }
}

impl FromStr for SignedBy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Itself, Self::Import, Self::OpenBao].into_iter().find(|one| one.as_str() == text);
        known.ok_or("use self, import or openbao")
    }
}

impl fmt::Display for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl KeyAlgorithm {
    pub const ALL: [Self; 4] = [Self::MlDsa44, Self::MlDsa65, Self::MlDsa87, Self::EcdsaP256];

    /// As users type it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ml-dsa-44",
            Self::MlDsa65 => "ml-dsa-65",
            Self::MlDsa87 => "ml-dsa-87",
            Self::EcdsaP256 => "ecdsa-p256",
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        known.ok_or("leaves are not made with this algorithm")
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Issuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} generation {}", self.algorithm, self.generation)?;
        match self.signed_by {
            SignedBy::Itself => Ok(()),
            outside => write!(f, " signed by {outside}"),
        }
    }
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distributing => "Distributing",
            Self::Issuing => "Issuing",
            Self::Removing => "Removing",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
