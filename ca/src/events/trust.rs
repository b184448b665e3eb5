//! What there is to say about the trust domain: told its status before and after, in words of the status.

use tokio::sync::watch;
use trellis_api::trust::{Condition, Part, Phase, RotationStatus, TrustDomainStatus};
use trellis_telemetry::shutdown::{Shutdown, requested};

use super::{About, Events, Tone};
use crate::trust::status::{DENIALS, NONE, SETTLED};
use trellis_election::Role;

const ACTION: &str = "Rotate";

/// Follows the status, while this replica leads.
pub struct TrustEvents {
    pub events: Events,
    pub namespace: String,
    pub status: watch::Receiver<TrustDomainStatus>,
    pub roles: watch::Receiver<Role>,
}

impl TrustEvents {
    pub async fn run(mut self, shutdown: Shutdown) {
        let about = About::trust_domain(&self.namespace);
        let stop = requested(shutdown);
        tokio::pin!(stop);
        let mut before = self.status.borrow_and_update().clone();
        loop {
            tokio::select! {
                () = &mut stop => return,
                changed = self.status.changed() => if changed.is_err() { return },
            }
            let status = self.status.borrow_and_update().clone();
            let leads = matches!(*self.roles.borrow(), Role::Leader { .. });
            // What was there when the process began is no news.
            if leads && before.revision > 0 {
                for (tone, reason, note) in news(&before, &status) {
                    self.events.say(&about, tone, reason, ACTION, &note);
                }
            }
            before = status;
        }
    }
}

type News = (Tone, &'static str, String);

fn news(before: &TrustDomainStatus, now: &TrustDomainStatus) -> Vec<News> {
    let mut news = Vec::new();
    let place = |rotation: &RotationStatus| (rotation.number, rotation.phase, rotation.rolling_back);
    if let Some(rotation) = &now.rotation
        && before.rotation.as_ref().map(place) != Some(place(rotation))
    {
        news.push(step(rotation));
    }
    let known = before.past.iter().map(|past| past.number).max().unwrap_or_default();
    for past in now.past.iter().filter(|past| past.number > known) {
        let word = if past.rolled_back { "rolled back" } else { "ended" };
        let reason = if past.rolled_back { "RotationRolledBack" } else { "RotationEnded" };
        let note = match (past.of, past.to.as_str(), past.from.as_str()) {
            (Part::Companion, NONE, from) => format!("the companion {from} is gone"),
            (Part::Companion, to, NONE) => format!("companions come from {to}"),
            (_, to, from) => format!("{to} has taken the place of {from}"),
        };
        let note = format!("rotation {} {word}: {note}", past.number);
        news.push((Tone::Normal, reason, note));
        if !past.cut_off.is_empty() {
            let note = format!("rotation {} was forced and cut off {}", past.number, past.cut_off.join(", "));
            news.push((Tone::Warning, "PeersCutOff", note));
        }
    }
    if let Some(settled) = changed(before, now, SETTLED, |one| one.reason.as_str()) {
        match settled.reason.as_str() {
            "WouldCutOff" => news.push((Tone::Warning, "StepRefused", settled.message.clone())),
            "Refused" => news.push((Tone::Warning, "WishRefused", settled.message.clone())),
            "Paused" => news.push((Tone::Normal, "RotationPaused", settled.message.clone())),
            _ => {}
        }
    }
    if let Some(denials) = changed(before, now, DENIALS, |one| one.message.as_str()) {
        match denials.status.as_str() {
            "True" => news.push((Tone::Normal, "DenialsApplied", denials.message.clone())),
            _ => news.push((Tone::Warning, "DenialsUnreadable", denials.message.clone())),
        }
    }
    news
}

fn step(rotation: &RotationStatus) -> News {
    let RotationStatus { number, from, to, .. } = rotation;
    let certificates = match rotation.of {
        Part::Issuing => "certificates",
        Part::Companion => "companions",
    };
    // A companion that goes leaves none behind.
    let come = match to.as_str() {
        NONE => format!("{certificates} come from {from} no longer"),
        to => format!("{certificates} come from {to}"),
    };
    if rotation.rolling_back {
        let note = format!("rotation {number} goes back: {come}");
        return (Tone::Normal, "RotationRollingBack", note);
    }
    let by_itself = if rotation.renewal.is_some() { ", a renewal" } else { "" };
    match rotation.phase {
        Phase::Distributing => (
            Tone::Normal,
            "RotationBegan",
            match from.as_str() {
                NONE => format!("rotation {number}: members learn to trust {to} as well"),
                from => format!("rotation {number}{by_itself}: members learn to trust {to} beside {from}"),
            },
        ),
        Phase::Issuing => (Tone::Normal, "RotationIssuing", format!("rotation {number}: {come}")),
        Phase::Removing => {
            (Tone::Normal, "RotationRemoving", format!("rotation {number}: {from} is no longer trusted"))
        }
    }
}

/// The condition, if what matters of it is new. What was not there before was not wished either.
fn changed<'a>(
    before: &TrustDomainStatus,
    now: &'a TrustDomainStatus,
    type_: &str,
    matters: impl Fn(&Condition) -> &str,
) -> Option<&'a Condition> {
    let find = |status: &'a TrustDomainStatus| status.conditions.iter().find(|one| one.type_ == type_);
    let now = find(now)?;
    let before = before.conditions.iter().find(|one| one.type_ == type_)?;
    (matters(before) != matters(now)).then_some(now)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(change: &[(&str, Value)]) -> TrustDomainStatus {
        let condition = |type_: &str, status: &str, reason: &str, message: &str| {
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
            })
        };
        let mut value =
            serde_json::to_value(TrustDomainStatus { revision: 1, ..Default::default() }).unwrap();
        value["conditions"] = json!([
            condition(SETTLED, "True", "AsWished", "certificates are issued as wished"),
            condition(DENIALS, "True", "Applied", "0 denied"),
        ]);
        for (pointer, new) in change {
            match pointer.rsplit_once('/') {
                Some((parent, key)) if !parent.is_empty() => {
                    value.pointer_mut(parent).unwrap()[key] = new.clone();
                }
                _ => value[pointer.trim_start_matches('/')] = new.clone(),
            }
        }
        serde_json::from_value(value).unwrap()
    }

    fn rotation(phase: &str, back: bool) -> Value {
        json!({
            "number": 3, "phase": phase, "from": "old", "to": "new",
            "fromKind": { "algorithm": "ecdsa-p256", "generation": 1 },
            "started": "", "since": "", "rollingBack": back, "paused": false, "waiting": 0, "waitingFor": [],
        })
    }

    fn reasons(before: &TrustDomainStatus, now: &TrustDomainStatus) -> Vec<&'static str> {
        news(before, now).into_iter().map(|(_, reason, _)| reason).collect()
    }

    #[test]
    fn each_step_is_news_once() {
        let rests = status(&[]);
        let at = |phase, back| status(&[("/rotation", rotation(phase, back))]);
        assert_eq!(reasons(&rests, &at("Distributing", false)), ["RotationBegan"]);
        assert_eq!(reasons(&at("Distributing", false), &at("Distributing", false)), [""; 0]);
        assert_eq!(reasons(&at("Distributing", false), &at("Issuing", false)), ["RotationIssuing"]);
        assert_eq!(reasons(&at("Issuing", false), &at("Issuing", true)), ["RotationRollingBack"]);
        assert_eq!(reasons(&at("Issuing", false), &at("Removing", false)), ["RotationRemoving"]);
        let past = json!([{
            "number": 3, "from": "old", "to": "new", "rolledBack": false, "started": "", "ended": "",
            "phases": [], "cutOff": ["shop/a"],
        }]);
        let ended = status(&[("/past", past)]);
        assert_eq!(reasons(&at("Removing", false), &ended), ["RotationEnded", "PeersCutOff"]);
    }

    #[test]
    fn a_rotation_that_nobody_asked_for_says_so() {
        let mut renewal = rotation("Distributing", false);
        let kind = json!({ "algorithm": "ml-dsa-65", "generation": 2 });
        renewal["renewal"] = json!({ "of": "Issuing", "kind": kind });
        let [(tone, reason, note)] =
            news(&status(&[]), &status(&[("/rotation", renewal)])).try_into().unwrap();
        assert_eq!((tone, reason), (Tone::Normal, "RotationBegan"));
        assert_eq!(note, "rotation 3, a renewal: members learn to trust new beside old");
    }

    #[test]
    fn a_companion_that_comes_or_goes_is_called_one() {
        let of = |phase: &str, from: &str, to: &str, back: bool| {
            let mut rotation = rotation(phase, back);
            (rotation["of"], rotation["from"], rotation["to"]) = (json!("Companion"), from.into(), to.into());
            rotation["fromKind"] = Value::Null;
            status(&[("/rotation", rotation)])
        };
        let past = |from: &str, to: &str| {
            status(&[(
                "/past",
                json!([{
                    "number": 3, "of": "Companion", "from": from, "to": to, "rolledBack": false,
                    "started": "", "ended": "", "phases": [], "cutOff": [],
                }]),
            )])
        };
        for (now, expected) in [
            (of("Distributing", NONE, "new", false), "rotation 3: members learn to trust new as well"),
            (past(NONE, "new"), "rotation 3 ended: companions come from new"),
            (of("Issuing", "old", "new", false), "rotation 3: companions come from new"),
            (of("Issuing", "old", NONE, false), "rotation 3: companions come from old no longer"),
            (of("Issuing", "old", NONE, true), "rotation 3 goes back: companions come from old no longer"),
            (past("old", NONE), "rotation 3 ended: the companion old is gone"),
            (past("old", "new"), "rotation 3 ended: new has taken the place of old"),
        ] {
            let [(tone, _, note)] = news(&status(&[]), &now).try_into().unwrap();
            assert_eq!((tone, note.as_str()), (Tone::Normal, expected));
        }
    }

    #[test]
    fn a_refusal_and_a_denial_are_news_when_they_change() {
        let rests = status(&[]);
        let refused = status(&[
            ("/conditions/0/reason", json!("WouldCutOff")),
            ("/conditions/0/message", json!("refused for the sake of shop/a")),
        ]);
        let [(tone, reason, note)] = news(&rests, &refused).try_into().unwrap();
        assert_eq!((tone, reason), (Tone::Warning, "StepRefused"));
        assert!(note.contains("shop/a"), "{note}");
        assert_eq!(reasons(&refused, &refused), [""; 0]);
        let denied = status(&[("/conditions/1/message", json!("1 denied"))]);
        assert_eq!(reasons(&rests, &denied), ["DenialsApplied"]);
    }
}
