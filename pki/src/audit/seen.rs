//! What is known of one chain while its trail is read.

use super::{Fault, Hash, MAX_UNSIGNED, Wrong};

/// Gaps of one chain that are remembered, to tell what was moved from what was removed.
const MAX_GAPS: usize = 16;

pub(super) struct Seen {
    pub first: u64,
    pub next: u64,
    pub head: Hash,
    pub unsigned: u64,
    pub signed: Option<String>,
    /// Whether a signature must have been seen by now.
    signed_once: bool,
    last: Place,
    /// The record before the last one, if the last one does not name its hash: one of the two was changed,
    /// and the next record tells which.
    suspect: Option<Place>,
    gaps: Vec<Gap>,
}

#[derive(Clone, Copy)]
pub(super) struct Place {
    pub line: u64,
    pub seq: u64,
}

struct Gap {
    from: u64,
    to: u64,
    behind: Place,
}

/// How a record stands to its chain.
pub(super) enum Order {
    /// It is the next one.
    Next,
    /// It came too late, and the record at this place was in its place.
    Moved(Place),
    Repeated,
}

impl Seen {
    /// A chain that is first seen with this record.
    pub fn new(place: Place, head: Hash) -> Self {
        let mut gaps = Vec::new();
        if place.seq > 0 {
            gaps.push(Gap { from: 0, to: place.seq - 1, behind: place });
        }
        Self {
            first: place.seq,
            next: place.seq + 1,
            head,
            unsigned: 1,
            signed: None,
            // What was before is not known.
            signed_once: place.seq > 0,
            last: place,
            suspect: None,
            gaps,
        }
    }

    pub fn order(&self, seq: u64) -> Order {
        if seq >= self.next {
            return Order::Next;
        }
        match self.gaps.iter().find(|gap| (gap.from..=gap.to).contains(&seq)) {
            Some(gap) => Order::Moved(gap.behind),
            None => Order::Repeated,
        }
    }

    /// Takes the record at `place` as the chain's newest, and names what is wrong about it or before it.
    /// `authentic`: that its own signature is good, so that `previous` is what was written.
    pub fn follow(
        &mut self,
        place: Place,
        previous: Option<Hash>,
        head: Hash,
        authentic: bool,
    ) -> Option<(Place, Wrong)> {
        let wrong = if place.seq > self.next {
            let (from, to) = (self.next, place.seq - 1);
            if self.gaps.len() < MAX_GAPS {
                self.gaps.push(Gap { from, to, behind: place });
            }
            self.suspect = None;
            Some((place, Wrong::Removed { from, to }))
        } else {
            let named = previous == Some(self.head);
            match (self.suspect.take(), named) {
                (Some(before), true) => Some((before, Wrong::Changed)),
                (Some(_), false) => Some((self.last, Wrong::Changed)),
                (None, false) if authentic => Some((self.last, Wrong::Changed)),
                (None, false) => {
                    self.suspect = Some(self.last);
                    None
                }
                (None, true) => None,
            }
        };
        self.next = place.seq + 1;
        self.head = head;
        self.last = place;
        wrong
    }

    /// Counts a record that is no signature; true where one should have come before it.
    pub fn goes_unsigned(&mut self) -> bool {
        self.unsigned += 1;
        let limit = if self.signed_once { MAX_UNSIGNED } else { 1 };
        self.unsigned == limit + 1
    }

    /// A signature was seen, good or not: a bad one is named for itself.
    pub fn is_signed(&mut self, at: String) {
        self.unsigned = 0;
        self.signed_once = true;
        self.signed = Some(at);
    }

    /// What can only be said once there is no more to come.
    pub fn end(&self, chain: &str) -> Vec<Fault> {
        let fault =
            |place: Place, what| Fault { line: place.line, chain: chain.to_owned(), seq: place.seq, what };
        let suspect = self.suspect.map(|place| fault(place, Wrong::ChangedOrNext));
        let never = self.signed.is_none().then(|| fault(self.last, Wrong::NeverSigned));
        suspect.into_iter().chain(never).collect()
    }
}
