//! How many requests may be repeated. Repeating helps against a failure here and there; against one that is
//! everywhere it only adds load. So repeats are a share of requests, and a few more for those who send few.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::decay;

/// Repeats for each request.
const SHARE: f64 = 0.2;
/// Repeats for each second, whatever is sent.
const PER_SECOND: f64 = 10.0;
/// Requests older than this are of no account.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Budget(Mutex<Account>);

#[derive(Debug)]
struct Account {
    left: f64,
    since: Instant,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Account { left: PER_SECOND * WINDOW.as_secs_f64(), since: now }))
    }

    /// A request was sent for the first time.
    pub fn sent(&self, now: Instant) {
        let mut account = self.0.lock();
        account.settle(now);
        account.left += SHARE;
    }

    /// Whether one may be repeated, which is then taken for done.
    pub fn allows(&self, now: Instant) -> bool {
        let mut account = self.0.lock();
        account.settle(now);
        let allowed = account.left >= 1.0;
        if allowed {
            account.left -= 1.0;
        }
        allowed
    }
}

impl Account {
    /// What was not used fades, down to what anybody has; what was overdrawn fills up to it.
    fn settle(&mut self, now: Instant) {
        let base = PER_SECOND * WINDOW.as_secs_f64();
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = match self.left > base {
            true => base + (self.left - base) * decay::left(passed / WINDOW.as_secs_f64()),
            false => (self.left + PER_SECOND * passed).min(base),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(budget: &Budget) -> usize {
        (0..10_000).take_while(|_| budget.allows(Instant::now())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn repeats_are_a_share_of_requests() {
        let budget = Budget::new(Instant::now());
        allowed(&budget);
        (0..1_000).for_each(|_| budget.sent(Instant::now()));
        assert!((199..=200).contains(&allowed(&budget)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_little_has_a_few_a_second() {
        let budget = Budget::new(Instant::now());
        assert_eq!(allowed(&budget), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowed(&budget), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_earned_long_ago_is_gone() {
        let budget = Budget::new(Instant::now());
        (0..10_000).for_each(|_| budget.sent(Instant::now()));
        tokio::time::advance(Duration::from_secs(120)).await;
        assert_eq!(allowed(&budget), 100);
    }
}
