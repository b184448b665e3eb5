//! QuantumDerivedKey: a key that HKDF makes of a shared secret.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Keeping, Kind, Output, Problem, Reference, Spec, Standing, lifecycle, reference,
    rule::{ONE_NAME, rules},
};

/// A key derived from a shared secret, in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_NAME])))]
pub struct DerivedKeySpec {
    /// What the key is derived from. When it changes, so does the key.
    pub shared_secret_ref: SharedSecretReference,
    pub key_type: KeyType,
    /// In hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^([0-9a-fA-F]{2})*$"))]
    pub salt: Option<String>,
    /// In hex: what the key is for. Keys with different ones have nothing to do with each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^([0-9a-fA-F]{2})*$"))]
    pub info: Option<String>,
    #[serde(default)]
    pub kdf: Kdf,
    /// Plain takes info as it is. Separated puts the type of the key before it, so that keys of two types
    /// differ. Where it is left out: Plain with info, Separated without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kdf_profile: Option<KdfProfile>,
    #[serde(flatten)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Keeping>,
    /// Puts this version back into the Secret; the newest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub version: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SharedSecretReference {
    #[serde(flatten)]
    pub to: Reference,
    /// Where it is left out, the name must be that of one kind only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<SharedSecretKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SharedSecretKind {
    QuantumEncapsulateSecret,
    QuantumDecapsulateSecret,
}

/// What the key is used with, which decides its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyType {
    #[serde(rename = "AES-256")]
    Aes256,
    ChaCha20,
    #[serde(rename = "HMAC-SHA256")]
    HmacSha256,
    #[serde(rename = "HMAC-SHA384")]
    HmacSha384,
    #[serde(rename = "HMAC-SHA512")]
    HmacSha512,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kdf {
    #[default]
    #[serde(rename = "HKDF-SHA256")]
    HkdfSha256,
    #[serde(rename = "HKDF-SHA384")]
    HkdfSha384,
    #[serde(rename = "HKDF-SHA512")]
    HkdfSha512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KdfProfile {
    Plain,
    Separated,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DerivedKeyStatus {
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived_key_reference: Option<Reference>,
    /// An HMAC over the key, by which those of one cluster are compared, in full,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_fingerprint: Option<String>,
    /// and its first characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_type: Option<KeyType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_salt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_info: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kdf: Option<Kdf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kdf_profile: Option<KdfProfile>,
    /// That of the shared secret it was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_secret_fingerprint: Option<String>,
}

impl DerivedKeySpec {
    pub fn info(&self) -> Option<&str> {
        self.info.as_deref().filter(|info| !info.is_empty())
    }

    pub fn salt(&self) -> Option<&str> {
        self.salt.as_deref().filter(|salt| !salt.is_empty())
    }

    pub fn profile(&self) -> KdfProfile {
        let unless_said = if self.info().is_some() { KdfProfile::Plain } else { KdfProfile::Separated };
        self.kdf_profile.unwrap_or(unless_said)
    }
}

impl KeyType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256 => "AES-256",
            Self::ChaCha20 => "ChaCha20",
            Self::HmacSha256 => "HMAC-SHA256",
            Self::HmacSha384 => "HMAC-SHA384",
            Self::HmacSha512 => "HMAC-SHA512",
        }
    }

    /// Of the key, in bytes.
    pub fn length(self) -> usize {
        match self {
            Self::Aes256 | Self::ChaCha20 | Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

impl Kdf {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HkdfSha256 => "HKDF-SHA256",
            Self::HkdfSha384 => "HKDF-SHA384",
            Self::HkdfSha512 => "HKDF-SHA512",
        }
    }
}

impl KdfProfile {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::Separated => "Separated",
        }
    }
}

impl SharedSecretKind {
    pub fn kind(self) -> Kind {
        match self {
            Self::QuantumEncapsulateSecret => Kind::EncapsulateSecret,
            Self::QuantumDecapsulateSecret => Kind::DecapsulateSecret,
        }
    }
}

impl Spec for DerivedKeySpec {
    const KIND: Kind = Kind::DerivedKey;
    type Status = DerivedKeyStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.shared_secret_ref.to.check("spec.sharedSecretRef");
        problems.extend(reference::check_hex("spec.salt", self.salt(), 2048));
        problems.extend(reference::check_hex("spec.info", self.info(), 2048));
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Keeping::check));
        problems.extend(lifecycle::check_version(self.version));
        problems
    }
}
