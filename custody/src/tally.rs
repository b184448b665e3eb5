//! How the objects stand, in numbers: for whoever watches them without looking at each.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use serde::Deserialize;
use trellis_api::crypto::{Kind, Word};

use crate::kept::moment;

/// How an object stands: the word of its status, or that what it had is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    Is(Word),
    Lost,
}

/// What of a status is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub standing: Standing,
    /// When its certificate is due.
    pub renewal: Option<SystemTime>,
}

#[derive(Default)]
pub(crate) struct Tally {
    counts: HashMap<(Kind, Standing), usize>,
    renewals: BTreeMap<SystemTime, usize>,
}

impl Standing {
    pub const ALL: [Self; 6] = [
        Self::Is(Word::Pending),
        Self::Is(Word::Success),
        Self::Is(Word::Failed),
        Self::Is(Word::Valid),
        Self::Is(Word::Invalid),
        Self::Lost,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Is(word) => word.as_str(),
            Self::Lost => "Lost",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Brief {
    status: Word,
    renewal_time: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Shown {
    /// Of a status, as text. One that somebody else has written, and that is none, is to be written anew.
    pub fn of(status: &str) -> Self {
        let brief: Brief = serde_json::from_str::<Option<Brief>>(status).ok().flatten().unwrap_or_default();
        let lost = brief.conditions.iter().any(|one| one.kind == "Lost" && one.status == "True");
        let standing = if lost { Standing::Lost } else { Standing::Is(brief.status) };
        Self { standing, renewal: brief.renewal_time.and_then(|text| moment(&text)) }
    }
}

impl Tally {
    pub fn add(&mut self, kind: Kind, shown: Shown) {
        *self.counts.entry((kind, shown.standing)).or_default() += 1;
        if let Some(at) = shown.renewal {
            *self.renewals.entry(at).or_default() += 1;
        }
    }

    pub fn remove(&mut self, kind: Kind, shown: Shown) {
        if let Some(count) = self.counts.get_mut(&(kind, shown.standing)) {
            *count = count.saturating_sub(1);
        }
        if let Some(at) = shown.renewal
            && let Some(count) = self.renewals.get_mut(&at)
        {
            *count -= 1;
            if *count == 0 {
                self.renewals.remove(&at);
            }
        }
    }

    pub fn count(&self, kind: Kind, standing: Standing) -> usize {
        self.counts.get(&(kind, standing)).copied().unwrap_or_default()
    }

    /// When the first of all certificates is due.
    pub fn first_renewal(&self) -> Option<SystemTime> {
        self.renewals.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_is_lost_counts_as_that_and_the_first_renewal_is_known() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let due = Shown::of(r#"{"status":"Success","renewalTime":"1970-01-01T00:00:07Z"}"#);
        assert_eq!(due, Shown { standing: Standing::Is(Word::Success), renewal: Some(at(7)) });
        let lost = Shown::of(r#"{"status":"Failed","conditions":[{"type":"Lost","status":"True"}]}"#);
        assert_eq!(lost.standing, Standing::Lost);
        for none in ["null", "{}", r#"{"status":7}"#] {
            assert_eq!(Shown::of(none).standing, Standing::Is(Word::Pending), "{none}");
        }
        let later = Shown { renewal: Some(at(9)), ..due };
        let mut tally = Tally::default();
        for shown in [due, later, later, lost] {
            tally.add(Kind::Certificate, shown);
        }
        assert_eq!(tally.first_renewal(), Some(at(7)));
        assert_eq!(tally.count(Kind::Certificate, Standing::Is(Word::Success)), 3);
        assert_eq!(tally.count(Kind::Certificate, Standing::Lost), 1);
        tally.remove(Kind::Certificate, due);
        tally.remove(Kind::Certificate, later);
        assert_eq!((tally.first_renewal(), tally.count(Kind::Certificate, due.standing)), (Some(at(9)), 1));
    }
}
