//! When each bundle is fetched again. It is told the time and how attempts went.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{SELDOM, USUAL};

/// Between two attempts on an endpoint that fails.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// Renewals of one hint are spread over this part of it.
const SPREAD: f64 = 0.2;
/// Without a success for this many intervals a bundle is stale.
const MISSED: u32 = 3;

/// All partners, by trust domain.
#[derive(Debug, Default)]
pub struct Schedule {
    floor: Duration,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// What it depends on; another one is tried at once.
    terms: String,
    due: Instant,
    interval: Duration,
    failures: u32,
    /// The last success, or the beginning.
    since: Instant,
}

impl Schedule {
    /// `floor`: the shortest time between two fetches of one bundle.
    pub fn new(floor: Duration) -> Self {
        Self { floor, entries: BTreeMap::new() }
    }

    /// These and no others, each with the terms of its fetching. Who is new, or has new terms, is due at
    /// once.
    pub fn keep(&mut self, partners: &BTreeMap<String, String>, now: Instant) {
        self.entries.retain(|domain, entry| partners.get(domain).is_some_and(|terms| *terms == entry.terms));
        for (domain, terms) in partners {
            self.entries.entry(domain.clone()).or_insert_with(|| Entry {
                terms: terms.clone(),
                due: now,
                interval: USUAL,
                failures: 0,
                since: now,
            });
        }
    }

    pub fn due(&self, now: Instant) -> Vec<String> {
        self.entries.iter().filter(|(_, entry)| entry.due <= now).map(|(domain, _)| domain.clone()).collect()
    }

    pub fn next(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.due).min()
    }

    /// `jitter` in `0..1`.
    pub fn succeeded(&mut self, domain: &str, hint: Option<Duration>, jitter: f64, now: Instant) {
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(domain) else { return };
        entry.interval = hint.unwrap_or(USUAL).clamp(floor, SELDOM.max(floor));
        entry.failures = 0;
        entry.since = now;
        entry.due = now + entry.interval.mul_f64(1.0 - SPREAD * jitter.clamp(0.0, 1.0)).max(floor);
    }

    pub fn failed(&mut self, domain: &str, jitter: f64, now: Instant) {
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(domain) else { return };
        let factor = 1_u32.checked_shl(entry.failures.min(20)).unwrap_or(u32::MAX);
        let pause = floor.saturating_mul(factor).min(LONGEST_BACKOFF.max(floor));
        entry.failures = entry.failures.saturating_add(1);
        entry.due = now + pause.mul_f64(1.0 + SPREAD * jitter.clamp(0.0, 1.0));
    }

    /// Each domain, and whether its bundle has not been fetched for too long.
    pub fn stale(&self, now: Instant) -> impl Iterator<Item = (&str, bool)> {
        self.entries.iter().map(move |(domain, entry)| {
            let late = now.duration_since(entry.since) > entry.interval.saturating_mul(MISSED);
            (domain.as_str(), entry.failures > 0 && late)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: &str = "b.example";
    const MINUTE: Duration = Duration::from_secs(60);

    fn schedule(now: Instant) -> Schedule {
        let mut schedule = Schedule::new(MINUTE);
        schedule.keep(&BTreeMap::from([(B.to_owned(), "terms".to_owned())]), now);
        schedule
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_followed_within_bounds() {
        let now = Instant::now();
        for (hint, from, to) in [
            (None, 4 * MINUTE, 5 * MINUTE),
            (Some(Duration::ZERO), MINUTE, MINUTE),
            (Some(10 * MINUTE), 8 * MINUTE, 10 * MINUTE),
            (Some(Duration::MAX), SELDOM.mul_f64(0.8), SELDOM),
        ] {
            for jitter in [0.0, 0.5, 1.0] {
                let mut schedule = schedule(now);
                assert_eq!(schedule.due(now), [B], "who is new is due at once");
                schedule.succeeded(B, hint, jitter, now);
                let wait = schedule.next().unwrap() - now;
                assert!((from..=to).contains(&wait), "{hint:?} {jitter}: {wait:?}");
                assert!(schedule.due(now).is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_is_tried_less_and_less_often_and_becomes_stale() {
        let mut now = Instant::now();
        let mut schedule = schedule(now);
        schedule.succeeded(B, Some(2 * MINUTE), 0.0, now);
        let mut waits = Vec::new();
        for _ in 0..30 {
            now = schedule.next().unwrap();
            schedule.failed(B, 0.0, now);
            waits.push((schedule.next().unwrap() - now).as_secs() / 60);
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 15, 15]);
        assert!(waits[6..].iter().all(|wait| *wait == 15));
        assert_eq!(schedule.stale(now).collect::<Vec<_>>(), [(B, true)]);
        schedule.succeeded(B, None, 0.0, now);
        assert_eq!(schedule.stale(now).collect::<Vec<_>>(), [(B, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn new_terms_are_tried_at_once_and_who_is_gone_is_forgotten() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        schedule.succeeded(B, None, 0.0, now);
        schedule.keep(&BTreeMap::from([(B.to_owned(), "other terms".to_owned())]), now);
        assert_eq!(schedule.due(now), [B]);
        schedule.keep(&BTreeMap::new(), now);
        assert_eq!(schedule.next(), None);
    }
}
