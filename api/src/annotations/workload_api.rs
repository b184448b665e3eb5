//! Whether the application is given a certificate of its own, and of which algorithm.

use std::{fmt, str::FromStr};

use super::NEAR;
use crate::{names, trust::KeyAlgorithm};

/// The value of `trellis.dev/workload-api`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadApi {
    #[default]
    Disabled,
    /// With the algorithm that the workload's certificates have anyway.
    Enabled,
    /// For an application whose TLS library cannot verify what the mesh uses.
    Of(KeyAlgorithm),
}

impl WorkloadApi {
    const ALL: [Self; 6] = [
        Self::Disabled,
        Self::Enabled,
        Self::Of(KeyAlgorithm::MlDsa44),
        Self::Of(KeyAlgorithm::MlDsa65),
        Self::Of(KeyAlgorithm::MlDsa87),
        Self::Of(KeyAlgorithm::EcdsaP256),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => names::DISABLED,
            Self::Enabled => names::ENABLED,
            Self::Of(algorithm) => algorithm.as_str(),
        }
    }

    pub fn is_enabled(self) -> bool {
        self != Self::Disabled
    }
}

impl FromStr for WorkloadApi {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(known) = Self::ALL.into_iter().find(|one| one.as_str() == text) {
            return Ok(known);
        }
        let near = Self::ALL
            .into_iter()
            .map(|known| (strsim::jaro_winkler(known.as_str(), text), known))
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        Err(match near {
            Some((likeness, known)) if likeness >= NEAR => {
                format!("there is no such choice, the nearest is `{known}`")
            }
            _ => format!("there is no such choice among {}", Self::ALL.map(Self::as_str).join(", ")),
        })
    }
}

impl fmt::Display for WorkloadApi {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}
