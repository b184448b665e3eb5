//! One candidate's view of an election: told what the Lease shows and when, it says what to do. It knows
//! no API.

use std::time::Duration;

use tokio::time::Instant;

/// How long a leader is believed without a sign of it.
pub const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long steps down: sooner than anybody else may take over.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
pub const PERIOD: Duration = Duration::from_secs(2);

/// What a Lease shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Nobody when empty.
    pub holder: String,
    pub transitions: u64,
    /// Changes with each renewal; compared only with itself.
    pub renewed: String,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bid {
    /// Write the Lease with these contents, over what was shown.
    Write {
        transitions: u64,
    },
    Wait,
}

pub struct Election {
    own: String,
    seen: Option<(Shown, Instant)>,
    /// When this candidate last wrote the Lease as its holder.
    renewed: Option<Instant>,
    term: u64,
}

impl Election {
    pub fn new(own: &str) -> Self {
        Self { own: own.to_owned(), seen: None, renewed: None, term: 0 }
    }

    /// The term that is being led, if it still is.
    pub fn leads(&self, now: Instant) -> Option<u64> {
        let renewed = self.renewed?;
        (now.saturating_duration_since(renewed) < RENEW_DEADLINE).then_some(self.term)
    }

    /// Who leads, as far as the Lease shows.
    pub fn leader(&self) -> Option<&str> {
        let (shown, _) = self.seen.as_ref()?;
        Some(shown.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// Judges what the Lease shows; none if there is no Lease.
    pub fn shown(&mut self, shown: Option<Shown>, now: Instant) -> Bid {
        let Some(shown) = shown else {
            self.seen = None;
            return Bid::Write { transitions: self.term };
        };
        let since = match &self.seen {
            Some((before, since)) if *before == shown => *since,
            _ => now,
        };
        let (holder, transitions) = (shown.holder.clone(), shown.transitions);
        self.seen = Some((shown, since));
        if holder == self.own {
            return Bid::Write { transitions };
        }
        // Somebody else holds it, whatever this candidate believed of itself.
        self.renewed = None;
        match holder.is_empty() || now.saturating_duration_since(since) >= DURATION {
            true => Bid::Write { transitions: transitions + 1 },
            false => Bid::Wait,
        }
    }

    /// The Lease was written as bid; `asked` is from before the request went out.
    pub fn won(&mut self, written: Shown, asked: Instant) {
        self.term = written.transitions;
        self.renewed = Some(asked);
        self.seen = Some((written, asked));
    }

    /// Gives up what is led.
    pub fn resign(&mut self) {
        self.renewed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, transitions: u64, renewed: &str) -> Option<Shown> {
        Some(Shown { holder: by.to_owned(), transitions, renewed: renewed.to_owned() })
    }

    #[test]
    fn a_candidate_takes_over_only_after_it_has_itself_seen_silence() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut election = Election::new("b");
        assert_eq!(election.shown(held("a", 3, "x"), at(100)), Bid::Wait, "however old the Lease may be");
        assert_eq!(election.shown(held("a", 3, "x"), at(114)), Bid::Wait);
        assert_eq!(election.shown(held("a", 3, "y"), at(115)), Bid::Wait, "it was renewed");
        assert_eq!(election.shown(held("a", 3, "y"), at(129)), Bid::Wait);
        assert_eq!(election.leader(), Some("a"));
        assert_eq!(election.shown(held("a", 3, "y"), at(130)), Bid::Write { transitions: 4 });
        assert_eq!(election.leads(at(130)), None, "a bid is no victory");
        election.won(Shown { holder: "b".to_owned(), transitions: 4, renewed: "z".to_owned() }, at(130));
        assert_eq!(election.leads(at(131)), Some(4));
    }

    #[test]
    fn a_leader_that_cannot_renew_steps_down_before_anybody_may_take_over() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut election = Election::new("a");
        assert_eq!(election.shown(None, at(0)), Bid::Write { transitions: 0 });
        election.won(held("a", 0, "1").unwrap(), at(0));
        assert_eq!(election.leads(at(9)), Some(0));
        assert_eq!(election.leads(at(10)), None);
        assert!(RENEW_DEADLINE + PERIOD < DURATION);
    }

    #[test]
    fn a_free_lease_is_taken_at_once_and_a_lost_one_is_given_up_at_once() {
        let now = Instant::now();
        let mut election = Election::new("a");
        assert_eq!(election.shown(held("", 7, "x"), now), Bid::Write { transitions: 8 });
        election.won(held("a", 8, "y").unwrap(), now);
        assert_eq!(election.shown(held("a", 8, "y"), now), Bid::Write { transitions: 8 }, "renewed");
        assert_eq!(election.shown(held("b", 9, "z"), now), Bid::Wait);
        assert_eq!(election.leads(now), None);
    }
}
