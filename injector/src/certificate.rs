//! The life of the webhook's serving certificate, as a state machine that knows no clock and no API.
//!
//! A replica must never serve a certificate that an API server cannot verify yet, and there may be
//! several of both. So a new certificate is staged beside the one that is served; its CA goes into the
//! webhook's `caBundle`; only when it has been there for a while does the new certificate take over; and
//! the old CA stays in the bundle until every replica has followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use trellis_pki::serving::{ServingCertificate, ServingError};
use zeroize::Zeroizing;

pub const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// From the publishing of a CA to the first certificate under it: API servers learn of the change in
/// their own time.
pub const SETTLING: Duration = Duration::from_secs(5 * 60);
/// From a certificate's end of service to the end of trust in its CA.
pub const RETIREMENT: Duration = Duration::from_secs(3600);
/// Nothing is left alone for longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

const CURRENT: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next.crt", "next.key", "next-ca.crt"];
const PREVIOUS_CA: &str = "previous-ca.crt";

/// Secrets are kept as named texts, wherever they are kept.
pub type Items = BTreeMap<String, Zeroizing<String>>;

/// What the replicas share.
#[derive(Clone)]
pub struct Certificates {
    /// The one that is served.
    pub current: ServingCertificate,
    /// The one that is served as soon as its CA is known everywhere.
    pub next: Option<ServingCertificate>,
    /// The CA of the one that was served before.
    pub previous_ca: Option<String>,
}

/// What has to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a first certificate, or one in the place of what cannot be used any more.
    Create,
    /// Write the bundle into the webhook's configuration.
    Publish,
    /// Make the next certificate.
    Stage,
    /// Serve the next certificate.
    Promote,
    /// Forget the previous CA.
    Retire,
    /// Nothing, until something changes or so much time is over.
    Wait(Duration),
}

/// The memory of one replica: since when it has seen things as they are.
#[derive(Debug, Default)]
pub struct Rotation {
    next_known: Since,
    previous_idle: Since,
}

#[derive(Debug, Default)]
struct Since(Option<(String, SystemTime)>);

impl Certificates {
    pub fn first(current: ServingCertificate) -> Self {
        Self { current, next: None, previous_ca: None }
    }

    #[must_use]
    pub fn staged(self, next: ServingCertificate) -> Self {
        Self { next: Some(next), ..self }
    }

    #[must_use]
    pub fn promoted(self) -> Self {
        match self.next {
            Some(next) => Self { current: next, next: None, previous_ca: Some(self.current.ca_pem) },
            None => self,
        }
    }

    #[must_use]
    pub fn retired(self) -> Self {
        Self { previous_ca: None, ..self }
    }

    /// Every CA that an API server has to know, in PEM and in an order that does not depend on which of
    /// them is in use.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| next.ca_pem.as_str());
        let all = [Some(self.current.ca_pem.as_str()), next, self.previous_ca.as_deref()];
        let all: BTreeSet<&str> = all.into_iter().flatten().map(str::trim_end).collect();
        all.into_iter().map(|pem| format!("{pem}\n")).collect()
    }

    pub fn to_items(&self) -> Items {
        let mut items = Items::new();
        let parts = [(CURRENT, Some(&self.current)), (NEXT, self.next.as_ref())];
        for ([certificate, key, ca], one) in parts {
            if let Some(one) = one {
                items.insert(certificate.to_owned(), Zeroizing::new(one.certificate_pem.clone()));
                items.insert(key.to_owned(), one.key_pem.clone());
                items.insert(ca.to_owned(), Zeroizing::new(one.ca_pem.clone()));
            }
        }
        if let Some(ca) = &self.previous_ca {
            items.insert(PREVIOUS_CA.to_owned(), Zeroizing::new(ca.clone()));
        }
        items
    }

    /// A next certificate that cannot be read is forgotten; another one will be made.
    pub fn from_items(items: &Items) -> Result<Self, ServingError> {
        let text = |name: &str| items.get(name).cloned().unwrap_or_default();
        let load = |[certificate, key, ca]: [&str; 3]| {
            ServingCertificate::load(text(certificate).to_string(), text(key), text(ca).to_string())
        };
        Ok(Self {
            current: load(CURRENT)?,
            next: load(NEXT).ok(),
            previous_ca: items.get(PREVIOUS_CA).map(|ca| ca.to_string()),
        })
    }
}

impl Rotation {
    /// `published` is the bundle that API servers are told to trust, or nothing where there is no place
    /// to publish it yet.
    pub fn step(&mut self, kept: Option<&Certificates>, published: Option<&str>, now: SystemTime) -> Step {
        let Some(kept) = kept else { return Step::Create };
        let has_ended = |certificate: &ServingCertificate| certificate.not_after <= now;
        if kept.next.as_ref().is_some_and(has_ended) || (has_ended(&kept.current) && kept.next.is_none()) {
            return Step::Create;
        }
        if published != Some(kept.bundle().as_str()) {
            self.next_known = Since::default();
            return match published {
                Some(_) => Step::Publish,
                None => Step::Wait(LONGEST_WAIT),
            };
        }
        if let Some(next) = &kept.next {
            // With nothing valid to serve meanwhile there is nothing to wait for.
            let settled = self.next_known.remaining(&next.ca_pem, SETTLING, now);
            return match settled {
                Some(wait) if !has_ended(&kept.current) => Step::Wait(wait),
                _ => Step::Promote,
            };
        }
        if let Some(previous) = &kept.previous_ca {
            return match self.previous_idle.remaining(previous, RETIREMENT, now) {
                Some(wait) => Step::Wait(wait),
                None => Step::Retire,
            };
        }
        match renewal(&kept.current).duration_since(now) {
            Ok(wait) if !wait.is_zero() => Step::Wait(wait.min(LONGEST_WAIT)),
            _ => Step::Stage,
        }
    }
}

impl Since {
    /// How much of the time is left since this was seen first, or nothing when it is over.
    fn remaining(&mut self, what: &str, time: Duration, now: SystemTime) -> Option<Duration> {
        let since = match &self.0 {
            // A clock that was set back begins anew.
            Some((known, since)) if known == what && *since <= now => *since,
            _ => {
                self.0 = Some((what.to_owned(), now));
                now
            }
        };
        let over = now.duration_since(since).unwrap_or_default();
        time.checked_sub(over).filter(|left| !left.is_zero())
    }
}

/// Two thirds of its life.
fn renewal(certificate: &ServingCertificate) -> SystemTime {
    let life = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    certificate.not_before + life * 2 / 3
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use trellis_pki::serving::serving_certificate;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn make(now: SystemTime) -> ServingCertificate {
        serving_certificate(&["trellis-injector.trellis-system.svc".to_owned()], now, VALIDITY).unwrap()
    }

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// Several replicas over one store, and API servers that learn of a bundle with a delay.
    struct World {
        now: SystemTime,
        kept: Option<Certificates>,
        published: Vec<(SystemTime, String)>,
        replicas: Vec<Rotation>,
        log: Vec<(Duration, Step)>,
    }

    impl World {
        fn new(replicas: usize) -> Self {
            let replicas = (0..replicas).map(|_| Rotation::default()).collect();
            let published = vec![(start(), String::new())];
            Self { now: start(), kept: None, published, replicas, log: Vec::new() }
        }

        /// One replica acts until it has nothing to do; returns when it wants to be asked again.
        fn act(&mut self, replica: usize) -> Duration {
            for _ in 0..10 {
                let published = self.published.last().map(|(_, bundle)| bundle.clone());
                let rotation = &mut self.replicas[replica];
                let step = rotation.step(self.kept.as_ref(), published.as_deref(), self.now);
                if let Step::Wait(wait) = step {
                    return wait;
                }
                self.log.push((self.now.duration_since(start()).unwrap(), step));
                let kept = self.kept.take();
                self.kept = match (step, kept) {
                    (Step::Create, _) => Some(Certificates::first(make(self.now))),
                    (Step::Stage, Some(kept)) => Some(kept.staged(make(self.now))),
                    (Step::Promote, Some(kept)) => Some(kept.promoted()),
                    (Step::Retire, Some(kept)) => Some(kept.retired()),
                    (_, kept) => kept,
                };
                if step == Step::Publish {
                    let bundle = self.kept.as_ref().unwrap().bundle();
                    self.published.push((self.now, bundle));
                }
            }
            panic!("it does not come to rest: {:?}", self.log);
        }

        /// Whether an API server that is `delay` behind verifies what is served now.
        fn is_trusted_after(&self, delay: Duration) -> bool {
            let seen = self.published.iter().rev().find(|(at, _)| *at + delay <= self.now);
            let ca = self.kept.as_ref().unwrap().current.ca_pem.trim_end();
            seen.is_some_and(|(_, bundle)| bundle.contains(ca))
        }
    }

    #[test]
    fn a_new_certificate_is_served_only_when_every_api_server_can_know_it() {
        let mut world = World::new(2);
        while world.now < start() + 200 * DAY {
            let wait = world.act(0).min(world.act(1));
            let kept = world.kept.as_ref().unwrap();
            assert!(world.now < kept.current.not_after);
            if world.now > start() + SETTLING {
                assert!(world.is_trusted_after(SETTLING - Duration::from_secs(1)), "{:?}", world.log);
            }
            world.now += wait;
        }
        // Three rotations within 200 days, each in this order.
        let steps: Vec<Step> = world.log.iter().map(|(_, step)| *step).collect();
        let rotation = [Step::Stage, Step::Publish, Step::Promote, Step::Retire, Step::Publish];
        assert_eq!(steps[..2], [Step::Create, Step::Publish]);
        assert_eq!(steps[2..].chunks(5).collect::<Vec<_>>(), [rotation; 3]);
        for (index, rotated) in world.log[2..].chunks(5).enumerate() {
            let [staged, published, promoted, retired, _] = rotated else { unreachable!() };
            let due = Duration::from_secs(60 * 24 * 3600) * (u32::try_from(index).unwrap() + 1);
            assert!(staged.0.abs_diff(due) < DAY, "{:?}", staged.0);
            assert!(promoted.0 - published.0 >= SETTLING && retired.0 - promoted.0 >= RETIREMENT);
        }
    }

    #[test]
    fn a_bundle_that_somebody_changed_is_repaired_and_the_settling_begins_anew() {
        let mut world = World::new(1);
        world.act(0);
        world.now += 60 * DAY;
        assert_eq!(world.act(0), SETTLING);
        world.now += SETTLING / 2;
        let own = world.kept.as_ref().unwrap().bundle();
        world.published.push((world.now, "somebody else's".to_owned()));
        assert_eq!(world.act(0), SETTLING);
        assert_eq!(world.published.last().unwrap().1, own);
        assert!(world.kept.as_ref().unwrap().next.is_some());
    }

    #[test]
    fn without_a_place_to_publish_nothing_is_promoted() {
        let kept = Certificates::first(make(start())).staged(make(start()));
        let mut rotation = Rotation::default();
        for days in 0..80 {
            let step = rotation.step(Some(&kept), None, start() + days * DAY);
            assert_eq!(step, Step::Wait(LONGEST_WAIT));
        }
    }

    #[test]
    fn what_has_ended_is_replaced_at_once() {
        let kept = Certificates::first(make(start()));
        let bundle = kept.bundle();
        let mut rotation = Rotation::default();
        let end = kept.current.not_after;
        assert_eq!(rotation.step(Some(&kept), Some(&bundle), end), Step::Create);
        // A next certificate that is known already takes over without settling.
        let kept = kept.staged(make(end - DAY));
        let bundle = kept.bundle();
        assert_eq!(rotation.step(Some(&kept), Some(&bundle), end), Step::Promote);
        assert_eq!(rotation.step(None, None, end), Step::Create);
    }

    #[test]
    fn what_is_kept_is_read_back() {
        let kept = Certificates::first(make(start())).staged(make(start())).promoted().staged(make(start()));
        let read = Certificates::from_items(&kept.to_items()).unwrap();
        assert_eq!(read.bundle(), kept.bundle());
        assert_eq!(read.bundle().matches("BEGIN CERTIFICATE").count(), 3);
        assert_eq!(*read.current.key_pem, *kept.current.key_pem);
        assert_eq!(read.next.map(|next| next.not_after), kept.next.as_ref().map(|next| next.not_after));

        let mut items = kept.to_items();
        items.insert("next.key".to_owned(), Zeroizing::new("spoilt".to_owned()));
        assert!(Certificates::from_items(&items).unwrap().next.is_none());
        items.remove("tls.key");
        assert!(Certificates::from_items(&items).is_err());
    }
}
