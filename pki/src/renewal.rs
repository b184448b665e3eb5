//! When a workload's certificate is renewed: a state machine that is told the time and answers what to
//! do. It opens nothing and sleeps nowhere.
//!
//! A 24-hour certificate is renewed 20 to 22 hours after it came, the exact moment drawn once per
//! workload so that a mesh that started together does not renew together. A failed renewal leaves the
//! certificate in use and is tried again; only a workload that never got one gives up.

use std::time::{Duration, SystemTime};

/// Attempts at start-up before giving up.
pub const STARTUP_ATTEMPTS: u32 = 5;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(5 * 60);
const CHECK_EVERY: Duration = Duration::from_secs(60 * 60);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for a certificate once, and report with `issued` or `failed`. Not answered again before.
    Renew,
    /// The hourly look at the certificate, to be logged. Zero when it has ended.
    Check { expires_in: Duration },
    /// Nothing is due for so long.
    Sleep(Duration),
    /// Start-up failed for good.
    GiveUp,
}

/// The life of one workload's certificate.
#[derive(Clone, Debug)]
pub struct Renewal {
    jitter: f64,
    gives_up: bool,
    held: Option<Held>,
    attempt: Attempt,
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    not_after: SystemTime,
    check_every: Duration,
    next_check: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    Due(Option<SystemTime>),
    InFlight,
    GivenUp,
}

impl Renewal {
    /// `jitter` in 0..1 is this workload's place in every window.
    pub fn new(jitter: f64) -> Self {
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
        Self { jitter, gives_up: true, held: None, attempt: Attempt::Due(None), failures: 0 }
    }

    /// For a certificate that its workload can live without: it is asked for until it comes.
    pub fn patient(jitter: f64) -> Self {
        Self { gives_up: false, ..Self::new(jitter) }
    }

    pub fn poll(&mut self, now: SystemTime) -> Step {
        if let Attempt::Due(at) = self.attempt
            && at.is_none_or(|at| at <= now)
        {
            self.attempt = Attempt::InFlight;
            return Step::Renew;
        }
        if self.attempt == Attempt::GivenUp {
            return Step::GiveUp;
        }
        let mut wait = CHECK_EVERY;
        if let Some(held) = &mut self.held {
            // A clock that was set back must not silence the checks.
            held.next_check = held.next_check.min(now + held.check_every);
            if held.next_check <= now {
                held.next_check = now + held.check_every;
                return Step::Check { expires_in: held.not_after.duration_since(now).unwrap_or_default() };
            }
            wait = held.next_check.duration_since(now).unwrap_or_default();
        }
        if let Attempt::Due(Some(at)) = self.attempt {
            wait = wait.min(at.duration_since(now).unwrap_or_default());
        }
        Step::Sleep(wait)
    }

    /// A certificate came and is in use.
    pub fn issued(&mut self, not_before: SystemTime, not_after: SystemTime, now: SystemTime) {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        let hour = life / 24;
        // The window opens at 5/6 of a life that begins with the arrival. Clocks that disagree with the
        // issuer's by more than a 24th of the life are not believed.
        let began = now.clamp(not_before, not_before + hour);
        let due = began + hour * 20 + (hour * 2).mul_f64(self.jitter);
        // However far the clocks are apart, renewals do not chase each other.
        self.attempt = Attempt::Due(Some(due.max(now + hour)));
        self.failures = 0;
        let check_every = hour.clamp(Duration::from_secs(1), CHECK_EVERY);
        // The first look is at what came; a renewal does not disturb the rhythm.
        let next_check = self.held.map_or(now, |held| held.next_check);
        self.held = Some(Held { not_after, check_every, next_check });
    }

    /// The attempt came to nothing.
    pub fn failed(&mut self, now: SystemTime) {
        self.failures = self.failures.saturating_add(1);
        self.attempt = if self.gives_up && self.held.is_none() && self.failures >= STARTUP_ATTEMPTS {
            Attempt::GivenUp
        } else {
            Attempt::Due(Some(now + self.delay()))
        };
    }

    /// Renews at the next poll, unless an attempt is under way or start-up has failed.
    pub fn renew_now(&mut self) {
        if let Attempt::Due(_) = self.attempt {
            self.attempt = Attempt::Due(None);
        }
    }

    /// Renews at this workload's place in `earliest..=latest` from now, unless it is to be sooner anyway.
    pub fn renew_between(&mut self, earliest: Duration, latest: Duration, now: SystemTime) {
        if let Attempt::Due(due) = self.attempt {
            let at = now + earliest + latest.saturating_sub(earliest).mul_f64(self.jitter);
            self.attempt = Attempt::Due(due.map(|due| due.min(at)));
        }
    }

    /// 1 s doubling to 5 min, of which the upper half is this workload's jitter.
    fn delay(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let longest = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
        longest.mul_f64(0.5 + 0.5 * self.jitter)
    }
}
