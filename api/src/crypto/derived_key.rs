//! QuantumDerivedKey: a key that HKDF makes of a shared secret.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Keeping, Kind, Output, Problem, Reference, Spec, Standing, lifecycle, reference,
    rule::{ONE_NAME, Rule, rules},
};

const RIGHT_LENGTH: Rule = Rule {
    rule: "!has(self.keyLength) || self.keyLength == 32 || self.keyType == 'HMAC-SHA256'",
    message: "a key of this type has 32 bytes: remove keyLength",
    field: ".keyLength",
};

/// A key derived from a shared secret, in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_NAME, RIGHT_LENGTH])))]
pub struct DerivedKeySpec {
    /// What the key is derived from. When it changes, so does the key.
    pub shared_secret_ref: SharedSecretReference,
    pub key_type: KeyType,
    /// In bytes; 32 where it is left out, which alone is right but for HMAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 64))]
    pub key_length: Option<i64>,
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

/// What the key is used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyType {
    #[serde(rename = "AES-256")]
    Aes256,
    ChaCha20,
    #[serde(rename = "HMAC-SHA256")]
    HmacSha256,
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

/// Bytes of a key, and the most that one for HMAC can have.
const LENGTH: i64 = 32;
const LONGEST: i64 = 64;

impl DerivedKeySpec {
    pub fn info(&self) -> Option<&str> {
        self.info.as_deref().filter(|info| !info.is_empty())
    }

    pub fn salt(&self) -> Option<&str> {
        self.salt.as_deref().filter(|salt| !salt.is_empty())
    }

    /// Of the key, in bytes; nothing where it cannot be.
    pub fn length(&self) -> Option<usize> {
        let most = if self.key_type == KeyType::HmacSha256 { LONGEST } else { LENGTH };
        let length = self.key_length.unwrap_or(LENGTH);
        usize::try_from(length).ok().filter(|_| (LENGTH..=most).contains(&length))
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
        if let (None, Some(length)) = (self.length(), self.key_length) {
            let remedy = match self.key_type {
                KeyType::HmacSha256 => "use a number from 32 to 64",
                _ => "a key of this type has 32 bytes: remove the field",
            };
            problems.push(Problem::new("spec.keyLength", length, remedy));
        }
        problems.extend(reference::check_hex("spec.salt", self.salt(), 2048));
        problems.extend(reference::check_hex("spec.info", self.info(), 2048));
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Keeping::check));
        problems.extend(lifecycle::check_version(self.version));
        problems
    }
}
