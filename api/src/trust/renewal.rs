//! Anchors that give way to a fresh key of the same kind by themselves, after a time or near their end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Issuing, Part, TrustDomainSpec};

/// When an anchor gives way without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// Age in days at which an anchor gives way. Absent: only near its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36_500))]
    pub every_days: Option<u32>,
    /// Whether an anchor in the last tenth of its life gives way.
    #[serde(default = "yes")]
    pub at_end: bool,
    /// A fresh key that is not wanted: how a renewal is rolled back. It comes when this is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declined: Option<Declined>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Declined {
    pub of: Part,
    pub generation: u32,
}

/// A fresh key that renewal has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Renewed {
    pub of: Part,
    pub kind: Issuing,
}

fn yes() -> bool {
    true
}

impl Default for Renewal {
    fn default() -> Self {
        Self { every_days: None, at_end: true, declined: None }
    }
}

impl Renewal {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub fn declines(&self, of: Part, generation: u32) -> bool {
        self.declined == Some(Declined { of, generation })
    }
}

impl TrustDomainSpec {
    /// What is wished, with the fresh keys that renewal has come to in the place of older ones of their kind.
    #[must_use]
    pub fn renewed(&self, renewed: &[Renewed]) -> Self {
        let mut spec = self.clone();
        for Renewed { of, kind } in renewed {
            let wished = match of {
                Part::Issuing => Some(&mut spec.issuing),
                Part::Companion => spec.companion.as_mut(),
            };
            let older = |wished: &Issuing| {
                Issuing { generation: kind.generation, ..*wished } == *kind
                    && wished.generation < kind.generation
            };
            if let Some(wished) = wished.filter(|wished| older(wished))
                && !self.renewal.declines(*of, kind.generation)
            {
                *wished = *kind;
            }
        }
        spec
    }
}
