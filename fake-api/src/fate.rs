//! What becomes of a request before, or instead of, its answer: tests break the API server by it.

use std::time::Duration;

use http::{Method, StatusCode};

/// A request, as whoever decides over it sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
}

impl Asked {
    /// Whether it is a watch: these are open for long.
    pub fn watches(&self) -> bool {
        self.query.contains("watch=true")
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
