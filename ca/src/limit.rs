//! How often somebody may ask: a bucket of tokens per key that fills up as time goes by.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Keys that are remembered at once. A bucket that is full again is forgotten first, for it says nothing.
const MAX_KEYS: usize = 10_000;

/// A rate limit per key.
#[derive(Debug)]
pub struct Limit<K> {
    burst: u32,
    /// The time in which one token comes back.
    refill: Duration,
    buckets: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When the bucket will be full, if nobody asks.
    full_at: Instant,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    pub fn new(burst: u32, refill: Duration) -> Self {
        Self { burst: burst.max(1), refill, buckets: HashMap::new() }
    }

    /// Takes a token. Without one left: how long until there is.
    pub fn take(&mut self, key: &K, now: Instant) -> Result<(), Duration> {
        self.check(key, now)?;
        if self.buckets.len() >= MAX_KEYS && !self.buckets.contains_key(key) {
            self.buckets.retain(|_, bucket| bucket.full_at > now);
            if self.buckets.len() >= MAX_KEYS {
                // So many at once are a flood: nobody new until some buckets are full again.
                return Err(self.refill);
            }
        }
        let refill = self.refill;
        let bucket = self.buckets.entry(key.clone()).or_insert(Bucket { full_at: now });
        bucket.full_at = bucket.full_at.max(now) + refill;
        Ok(())
    }

    /// Whether there is a token, without taking it.
    pub fn check(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let Some(bucket) = self.buckets.get(key) else { return Ok(()) };
        let missing = bucket.full_at.saturating_duration_since(now);
        let room = self.refill * (self.burst - 1);
        match missing.checked_sub(room) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_burst_is_allowed_and_then_one_per_refill() {
        let now = Instant::now();
        let mut limit = Limit::new(3, SECOND);
        assert!((0..3).all(|_| limit.take(&"a", now).is_ok()));
        assert_eq!(limit.take(&"a", now), Err(SECOND));
        assert_eq!(limit.take(&"b", now), Ok(()), "others have buckets of their own");
        assert_eq!(limit.take(&"a", now + SECOND), Ok(()));
        assert!(limit.take(&"a", now + SECOND).is_err());
        let later = now + SECOND * 60;
        assert!((0..3).all(|_| limit.take(&"a", later).is_ok()));
        assert!(limit.take(&"a", later).is_err(), "a bucket never holds more than the burst");
    }

    #[tokio::test]
    async fn asking_takes_nothing() {
        let now = Instant::now();
        let mut limit = Limit::new(1, SECOND);
        assert!((0..10).all(|_| limit.check(&"a", now).is_ok()));
        assert_eq!(limit.take(&"a", now), Ok(()));
        assert!(limit.check(&"a", now).is_err());
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut limit = Limit::new(1, SECOND);
        for key in 0..MAX_KEYS {
            assert_eq!(limit.take(&key, now), Ok(()));
        }
        assert!(limit.take(&MAX_KEYS, now).is_err());
        assert_eq!(limit.take(&MAX_KEYS, now + SECOND), Ok(()), "full buckets make room");
        assert_eq!(limit.buckets.len(), 1);
    }
}
