//! What becomes of a request before, or instead of, its answer: tests break the API server by it.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::path::Path;

/// A request, as whoever decides over it sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
    /// Whether nothing but metadata is wanted.
    pub metadata: bool,
}

impl Asked {
    /// Whether it is a watch: these are open for long.
    pub fn watches(&self) -> bool {
        self.query.contains("watch=true")
    }

    /// Whether it reads one object, and no collection.
    pub fn gets(&self) -> bool {
        let named = || Path::of(&self.path).is_some_and(|path| path.name.is_some());
        self.method == Method::GET && !self.watches() && named()
    }

    pub fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Pass,
    /// The same, after so long.
    Wait(Duration),
    /// It is done, and answered after so long.
    Late(Duration),
    /// It is not done, and answered so.
    Refuse(StatusCode),
    /// It is done, and answered as if it had not been.
    Deny(StatusCode),
    /// Of a watch: what it wants to know was so long ago that it has to list again.
    Expire,
    /// It is not done, and never answered.
    Vanish,
    /// It is done, and never answered.
    Lose,
}

/// Decides over each request.
pub type Judge = Box<dyn Fn(&Asked) -> Fate + Send + Sync>;
