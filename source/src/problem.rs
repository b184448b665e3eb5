//! What is wrong with a source, in the words that an operator needs to repair it.

use std::{fmt, path::PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong, and what to do.
    pub message: String,
    pub severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something is not in force that was meant to be.
    Error,
    /// Everything else is in force; this has no effect.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File {
        path: PathBuf,
        /// Both from 1.
        position: Option<(u64, u64)>,
    },
    /// The watch of one kind at the API server.
    Watch { api_version: String, kind: String },
}

impl Problem {
    /// Logs it, once: whoever holds it says when it is new.
    pub(crate) fn log(&self) {
        match self.severity {
            Severity::Error => tracing::error!("{self}"),
            Severity::Warning => tracing::warn!("{self}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, position: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::File { path, position: None } => write!(f, "{}", path.display()),
            Self::Watch { api_version, kind } => write!(f, "watch of {api_version} {kind}"),
        }
    }
}
