//! Of what happens over and over, the first and then a count.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, json};
use tokio::time::Instant;
use trellis_pki::clock::rfc3339;

use super::Entry;

/// What is counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart.
const MAX_KINDS: usize = 1_024;
/// Stands for all kinds beyond that.
const OTHERS: &str = "";

#[derive(Default)]
pub struct Quiet(BTreeMap<String, Held>);

struct Held {
    /// The last one that was not recorded by itself, and how many there were.
    last: Option<(Entry, u64)>,
    since: String,
    until: Instant,
}

impl Quiet {
    /// What is to be recorded now: what happened, what was counted before it, or nothing.
    pub fn admit(&mut self, kind: &str, mut entry: Entry, now: Instant) -> Vec<Entry> {
        let kind = match self.0.contains_key(kind) || self.0.len() < MAX_KINDS {
            true => kind,
            false => {
                let reason = entry.fields.remove_entry("reason");
                entry.fields = Map::from_iter([("callers".to_owned(), json!("several"))]);
                entry.fields.extend(reason);
                OTHERS
            }
        };
        if let Some(held) = self.0.get_mut(kind).filter(|held| now < held.until) {
            let count = held.last.as_ref().map_or(0, |(_, count)| *count);
            held.last = Some((entry, count + 1));
            return Vec::new();
        }
        let since = rfc3339(entry.time);
        let before = self.0.insert(kind.to_owned(), Held { last: None, since, until: now + WINDOW });
        before.and_then(Held::count).into_iter().chain([entry]).collect()
    }

    /// What was counted and whose time is over.
    pub fn due(&mut self, now: Instant) -> Vec<Entry> {
        let due = self.0.extract_if(.., |_, held| held.until <= now);
        due.filter_map(|(_, held)| held.count()).collect()
    }

    /// All that was counted.
    pub fn all(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.0).into_values().filter_map(Held::count).collect()
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|held| held.until).min()
    }
}

impl Held {
    fn count(self) -> Option<Entry> {
        let (mut entry, count) = self.last?;
        entry.fields.insert("repeated".to_owned(), json!(count));
        entry.fields.insert("since".to_owned(), json!(self.since));
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::audit::Event;

    fn entry(source: &str) -> Entry {
        let fields = json!({ "reason": "rate_limited", "source": source });
        Entry { event: Event::Refused, fields: fields.as_object().unwrap().clone(), time: UNIX_EPOCH }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_record_at_once_and_one_every_ten_seconds() {
        let (mut quiet, began) = (Quiet::default(), Instant::now());
        let mut records = Vec::new();
        for hundredth in 0..1_000 {
            let now = began + Duration::from_millis(hundredth * 10);
            records.extend(quiet.due(now));
            records.extend(quiet.admit("10.0.0.1", entry("10.0.0.1"), now));
        }
        assert_eq!(records, [entry("10.0.0.1")]);
        assert_eq!(quiet.next(), Some(began + WINDOW));
        let counted = quiet.due(began + WINDOW);
        assert_eq!((counted.len(), &counted[0].fields["repeated"]), (1, &json!(999)));
        assert_eq!(counted[0].fields["since"], "1970-01-01T00:00:00Z");
        assert_eq!((quiet.next(), quiet.all()), (None, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_rare_is_recorded_as_it_is() {
        let (mut quiet, began) = (Quiet::default(), Instant::now());
        for nth in 0..3 {
            let now = began + WINDOW * 2 * nth;
            assert_eq!(quiet.due(now), []);
            assert_eq!(quiet.admit("a", entry("a"), now), [entry("a")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_number_share_one_count() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let mut records = 0;
        for nth in 0..10_000 {
            records += quiet.admit(&nth.to_string(), entry(&nth.to_string()), now).len();
        }
        assert_eq!(records, MAX_KINDS + 1);
        let counted = quiet.all();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].fields["callers"], "several");
        assert_eq!(counted[0].fields["repeated"], json!(10_000 - MAX_KINDS - 1));
    }
}
