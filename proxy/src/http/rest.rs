//! When a connection of a client is at rest: whatever was asked is answered and written, and nothing was
//! read since. What a server of HTTP keeps for a connection is then not worth its memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
};

use super::body::{End, Watcher};

/// What is known of one connection.
#[derive(Debug, Default)]
pub struct Rest {
    /// Requests, and bodies of requests, that are not over.
    under_way: AtomicUsize,
    /// Something was read that belongs to no request yet.
    unread: AtomicBool,
    /// The client does not take what is written.
    blocked: AtomicBool,
    /// A body was not read to its end: where the next request begins is not known.
    lost: AtomicBool,
    moves: AtomicU32,
}

/// A request, or its body, until it is over.
pub struct UnderWay(Arc<Rest>);

impl Rest {
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(self.clone())
    }

    pub fn read(&self) {
        self.unread.store(true, Relaxed);
        self.moves.fetch_add(1, Relaxed);
    }

    pub fn wrote(&self, all: bool) {
        self.blocked.store(!all, Relaxed);
    }

    /// Changes whenever something happens.
    pub fn moves(&self) -> u32 {
        self.moves.load(Relaxed)
    }

    pub fn is_at_rest(&self) -> bool {
        self.under_way.load(Relaxed) == 0
            && ![&self.unread, &self.blocked, &self.lost].into_iter().any(|flag| flag.load(Relaxed))
    }
}

impl Watcher for UnderWay {
    fn passed(&mut self, _: usize) {}

    fn ended(&mut self, end: End) {
        if end != End::Complete {
            self.0.lost.store(true, Relaxed);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // What was read for it was used; if more came along with it, that is handed on.
        self.0.unread.store(false, Relaxed);
        self.0.moves.fetch_add(1, Relaxed);
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_rests_when_all_is_answered_written_and_used() {
        let rest = Arc::new(Rest::default());
        assert!(rest.is_at_rest());
        rest.read();
        assert!(!rest.is_at_rest(), "a head may have begun");
        let (request, mut body) = (rest.begin(), rest.begin());
        drop(request);
        assert!(!rest.is_at_rest(), "the body is still coming");
        body.ended(End::Complete);
        drop(body);
        assert!(rest.is_at_rest());
        rest.wrote(false);
        assert!(!rest.is_at_rest());
        rest.wrote(true);
        assert!(rest.is_at_rest());
        rest.begin().ended(End::Abandoned);
        assert!(!rest.is_at_rest(), "what follows would be read as a request");
    }
}
