//! Keeps a log readable while somebody knocks a thousand times a second.

use std::time::Duration;

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);

/// Lets a few things through per second, and counts the others.
#[derive(Debug)]
pub struct Throttle {
    per_window: u32,
    began: Option<Instant>,
    passed: u32,
    held_back: u64,
}

impl Throttle {
    pub fn per_second(per_window: u32) -> Self {
        Self { per_window, began: None, passed: 0, held_back: 0 }
    }

    /// Whether this one may pass; then with how many were held back since the last one that did.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            self.began = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.per_window {
            self.held_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_few_pass_each_second_and_the_others_are_counted() {
        let now = Instant::now();
        let mut throttle = Throttle::per_second(2);
        let passed: Vec<_> = (0..5).map(|_| throttle.pass(now)).collect();
        assert_eq!(passed, [Some(0), Some(0), None, None, None]);
        assert_eq!(throttle.pass(now + WINDOW), Some(3));
        assert_eq!(throttle.pass(now + WINDOW), Some(0));
    }
}
