//! What is wrong with a spec, in words that say what to do about it.

use std::fmt;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its path, from `spec` on.
    pub field: String,
    /// What stands there; nothing where that must not be repeated.
    pub value: String,
    /// Why that cannot be, and what can.
    pub remedy: String,
}

/// The most of a value that is repeated.
const SHOWN: usize = 80;

impl Problem {
    pub fn new(field: impl Into<String>, value: impl fmt::Display, remedy: impl Into<String>) -> Self {
        let value = value.to_string();
        let shown: String = value.chars().take(SHOWN).collect();
        let value = if shown.len() < value.len() { format!("{shown}...") } else { shown };
        Self { field: field.into(), value, remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "" => write!(f, "{}: {}", self.field, self.remedy),
            value => write!(f, "{}: {value:?}: {}", self.field, self.remedy),
        }
    }
}
