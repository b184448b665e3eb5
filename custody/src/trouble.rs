//! What an answer of the API server means for the work that asked.

use std::time::Duration;

use crate::ledger::Unrecorded;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Somebody else was there in between: look again.
    Changed,
    /// It may not be done.
    Forbidden(String),
    /// It can never be done so.
    Refused(String),
    /// Not now.
    Busy { asked: Option<Duration>, why: String },
}

impl From<Unrecorded> for Trouble {
    fn from(error: Unrecorded) -> Self {
        Self::Busy { asked: None, why: error.to_string() }
    }
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::Busy { asked: None, why: error.to_string() };
        };
        match status.code {
            404 | 409 | 410 => Self::Changed,
            403 => Self::Forbidden(status.message.clone()),
            400 | 413 | 422 => Self::Refused(status.message.clone()),
            _ => {
                let asked = status.details.as_ref().map(|details| details.retry_after_seconds);
                let asked =
                    asked.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
                Self::Busy { asked, why: error.to_string() }
            }
        }
    }
}
