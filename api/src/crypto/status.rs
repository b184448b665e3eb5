//! What is seen of an object: what all kinds have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::trust::Condition;

/// Types of conditions.
pub mod condition {
    /// Whether what the spec wishes is there.
    pub const READY: &str = "Ready";
    /// Whether a decapsulated secret is the one that was encapsulated.
    pub const KEY_CONFIRMED: &str = "KeyConfirmed";
    /// A Secret of the wished name is somebody else's.
    pub const SECRET_CONFLICT: &str = "SecretConflict";
    /// What was there is gone, and nothing that is left can bring it back.
    pub const LOST: &str = "Lost";
    /// The controller may not keep Secrets in the namespace.
    pub const NO_ACCESS: &str = "NoAccess";
    /// Another namespace does not allow to refer to an object of it.
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    /// The key is not for the ServiceAccount that the object names.
    pub const DENIED: &str = "Denied";
    /// Whether what it is made from is there; what it made of it before stays.
    pub const SOURCE_AVAILABLE: &str = "SourceAvailable";
    /// A seed is not fetched from anywhere.
    pub const SEED_URI_DISABLED: &str = "SeedURIDisabled";
}

/// Where an object is, in a word, as scripts for QubeSec read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Word {
    #[default]
    Pending,
    Success,
    Failed,
    /// Of a verification only, as the next.
    Valid,
    Invalid,
}

/// What every status begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    #[serde(default)]
    pub status: Word,
    /// Why it is not as wished; empty when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When anything of this status changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_update_time: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the object that all this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is really in use, by its standard name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// The version that is in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// All that there are, the last destroyed ones included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<Version>,
    /// The fingerprint of the version in use in full; other fields show its first ten characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_fingerprint: Option<String>,
}

/// One version of what an object keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub version: u32,
    pub state: VersionState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// In full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When it came into use,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// went out of it,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// and was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroyed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VersionState {
    /// In use: in the Secret of the object.
    Active,
    /// Kept in a Secret of its own.
    Retired,
    /// Gone, by the end of its grace.
    Destroyed,
    /// Gone, and nobody asked for it.
    Lost,
}

impl Word {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Success => "Success",
            Self::Failed => "Failed",
            Self::Valid => "Valid",
            Self::Invalid => "Invalid",
        }
    }
}

impl Standing {
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }
}
