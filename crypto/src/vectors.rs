//! Published vectors, for tests; `tests/vectors/README.md` says whose.

use serde_json::Value;

use crate::hex;

pub(crate) struct Vector(Value);

impl Vector {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("{name} of {}", self.case()))
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        hex::decode(self.text(name)).unwrap()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap()
    }

    pub(crate) fn case(&self) -> String {
        format!("{} case {}", self.0["algorithm"].as_str().unwrap_or_default(), self.0["case"])
    }

    pub(crate) fn cases(&self) -> Vec<Vector> {
        self.0["cases"].as_array().unwrap().iter().cloned().map(Self).collect()
    }
}

/// The vectors of one kind in a file.
pub(crate) fn all(file: &str, kind: &str) -> Vec<Vector> {
    let file: Value = serde_json::from_str(file).unwrap();
    let all: Vec<_> = file[kind].as_array().unwrap().iter().cloned().map(Vector).collect();
    assert!(!all.is_empty());
    all
}
