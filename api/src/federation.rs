//! The part of the TrustDomain by which operators name other trust domains whose workloads may be peers,
//! and where their anchors are to be had.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One other trust domain, and the SPIFFE bundle endpoint that tells its anchors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Federation {
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: String,
    /// https://HOST:PORT/PATH.
    #[schemars(length(min = 9, max = 2048))]
    pub endpoint: String,
    pub profile: Profile,
    /// With profile spiffe: who answers at the endpoint, spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub server_identity: Option<String>,
    /// With profile spiffe: the bundle to begin with, as SPIFFE's JSON or as PEM. It counts until the
    /// first fetch; giving another one begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub bootstrap: Option<String>,
}

/// How the endpoint proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Profile {
    /// By an identity of its own trust domain, verified with the bundle that is already there.
    Spiffe,
    /// By a certificate for its host name, of an authority that the CA was told to believe.
    Web,
}

/// What is known of one other trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederationStatus {
    pub trust_domain: String,
    /// The sequence number of its bundle, where it tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// SHA-256 of each of its anchors in use. Without any, none of its workloads is believed.
    #[serde(default)]
    pub anchors: Vec<String>,
    /// When its bundle was last fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    /// What is wrong with the last attempt, or with the entry itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Profile {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spiffe => "spiffe",
            Self::Web => "web",
        }
    }
}
