//! QuantumRandomNumber: bytes of the system's generator in a Secret.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Kind, Output, Problem, RecreatePolicy, Reference, Rotation, Spec, Standing,
    rule::{ONE_NAME, Rule, rules},
};

const ONE_LENGTH: Rule = Rule {
    rule: "!has(self.bytes) || !has(self.numBytes) || self.bytes == self.numBytes",
    message: "bytes and numBytes mean the same and differ: remove one of them",
    field: ".numBytes",
};

const LONG_SEED: Rule = Rule {
    rule: "!has(self.seed) || size(self.seed) == 0 || size(self.seed) >= 48",
    message: "a seed has at least 48 characters: write a longer one, or remove it",
    field: ".seed",
};

/// Random bytes, in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules([ONE_LENGTH, LONG_SEED, ONE_NAME])))]
pub struct RandomNumberSpec {
    /// How many bytes; 32 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub bytes: Option<i64>,
    /// Another name of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub num_bytes: Option<i64>,
    /// Either means the system's generator, as status.source says.
    #[serde(default)]
    pub provider: Provider,
    /// At least 48 characters that are mixed in. The result is not decided by them: another object with the
    /// same seed has other bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub seed: Option<String>,
    /// Accepted, and never fetched, which a condition says: a controller that fetches what users name can be
    /// sent anywhere.
    #[serde(default, rename = "seedURI", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub seed_uri: Option<String>,
    #[serde(flatten)]
    pub output: Output,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Puts this version back into the Secret; the newest where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000_000))]
    pub version: Option<i64>,
    #[serde(default)]
    pub recreate_policy: RecreatePolicy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    #[default]
    #[serde(rename = "system")]
    System,
    OpenSSL,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RandomNumberStatus {
    #[serde(flatten)]
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_number_reference: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// What the spec names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Where the bytes are really from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The strength of their generator. It is not measured from the bytes, which would say something of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

const DEFAULT_BYTES: u16 = 32;
const MOST_BYTES: i64 = 65_536;
/// The fewest characters of a seed.
const SEED: usize = 48;

impl RandomNumberSpec {
    /// How many are wished; nothing where that cannot be.
    pub fn bytes(&self) -> Option<usize> {
        let bytes = self.bytes.or(self.num_bytes).unwrap_or(DEFAULT_BYTES.into());
        usize::try_from(bytes).ok().filter(|_| (1..=MOST_BYTES).contains(&bytes))
    }

    pub fn seed(&self) -> Option<&str> {
        self.seed.as_deref().filter(|seed| !seed.is_empty())
    }
}

impl Provider {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::OpenSSL => "OpenSSL",
        }
    }
}

impl Spec for RandomNumberSpec {
    const KIND: Kind = Kind::RandomNumber;
    type Status = RandomNumberStatus;

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (field, bytes) in [("spec.bytes", self.bytes), ("spec.numBytes", self.num_bytes)] {
            if let Some(bytes) = bytes.filter(|bytes| !(1..=MOST_BYTES).contains(bytes)) {
                problems.push(Problem::new(field, bytes, format!("use a number from 1 to {MOST_BYTES}")));
            }
        }
        if let (Some(bytes), Some(other)) = (self.bytes, self.num_bytes)
            && bytes != other
        {
            let remedy =
                format!("differs from spec.bytes ({bytes}), which means the same: remove one of them");
            problems.push(Problem::new("spec.numBytes", other, remedy));
        }
        if self.seed().is_some_and(|seed| seed.chars().count() < SEED) {
            let remedy = format!("has fewer than {SEED} characters: write a longer one, or remove it");
            problems.push(Problem::new("spec.seed", "", remedy));
        }
        problems.extend(self.output.check());
        problems.extend(self.rotation.iter().flat_map(Rotation::check));
        problems.extend(super::lifecycle::check_version(self.version));
        problems
    }
}
