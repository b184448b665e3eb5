//! Machines whose clocks differ: how far apart a CA and two members may be, and what is said beyond.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memory::*;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::clock::{Clock, ManualClock};
use trellis_pki::identity::{Identity, IdentityError};
use trellis_pki::issue::{BACKDATE, Issuer, LeafRequest, Purposes, backdate, issued_at};
use trellis_pki::key::PrivateKey;
use trellis_pki::policy::Policy;
use trellis_pki::posture::Class;
use trellis_pki::refusal::Refusal;
use trellis_pki::renewal::{Renewal, Step};
use trellis_pki::tls::MeshTls;

/// Certificates begin in whole ones.
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const TOLERATED: i64 = 10;

fn shifted(minutes: i64) -> SystemTime {
    let by = MINUTE * u32::try_from(minutes.abs()).unwrap();
    if minutes < 0 { start() - by } else { start() + by }
}

/// An anchor that was made this moment by a CA with its clock.
fn made(now: SystemTime) -> Issuer {
    Issuer::new_root(DOMAIN, PrivateKey::generate(Algorithm::MlDsa65).unwrap(), now, YEARS).unwrap()
}

/// A workload with its clock, and the leaf that `issuer` makes for it by the CA's.
fn member(
    issuer: &Issuer,
    account: &str,
    validity: Duration,
    ca: SystemTime,
    here: SystemTime,
) -> Result<MeshTls, IdentityError> {
    let algorithm = Algorithm::MlDsa65;
    let key = PrivateKey::generate(algorithm).unwrap();
    let identity = id(account);
    let request =
        LeafRequest { public_key: key.public_key(), identity: &identity, dns_names: &[], now: ca, validity };
    let leaf = issuer.issue(&request).unwrap();
    let identity = Identity::new(key, leaf.der, &bundle(&[issuer]), algorithm, here)?;
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(here));
    let tls = MeshTls::new(Policy::default(), DOMAIN, clock);
    tls.install(identity, bundle(&[issuer])).unwrap();
    Ok(tls)
}

#[test]
fn any_two_of_three_machines_may_be_ten_minutes_apart_from_the_first_second_on() {
    // The CA at 0, the client and the server anywhere within ten minutes of it and of one another.
    for (client, server) in
        [(0, 0), (TOLERATED, 0), (-TOLERATED, 0), (0, -TOLERATED), (TOLERATED, TOLERATED), (-5, 5), (5, -5)]
    {
        for validity in [DAY, 2 * HOUR] {
            let ca = shifted(0);
            let issuer = made(ca);
            let client = member(&issuer, "client", validity, ca, shifted(client)).unwrap();
            let server = member(&issuer, "server", validity, ca, shifted(server)).unwrap();
            let (meeting, notes) = meet(&client, &server, vec![id("server")]);
            assert_eq!((meeting.client_result.clone(), meeting.server_result.clone()), (Ok(()), Ok(())));
            assert_eq!(notes.client.posture(&meeting.client).unwrap().class, Class::Pq);
        }
    }
}

#[test]
fn what_is_further_behind_is_told_by_how_much_and_what_to_do() {
    let ca = start();
    let issuer = made(ca);
    let Err(error) = member(&issuer, "pay", DAY, ca, ca - 2 * HOUR - SECOND) else { panic!("it was taken") };
    let error = error.to_string();
    let expected = "this clock is at least 1 h 45 min behind that of the CA which issued it; set both by NTP";
    assert!(error.contains(expected) && error.contains("spiffe://cluster.local/ns/shop/sa/pay"), "{error}");
    let Err(error) = member(&issuer, "pay", DAY, ca, ca + 48 * HOUR) else { panic!("it was taken") };
    assert!(error.to_string().contains("at least 1 d 0 h ahead"), "{error}");

    // A member that has its own certificate for long refuses the new one of another, by the same words.
    let behind = member(&issuer, "client", DAY, ca, ca).unwrap();
    let ahead = member(&issuer, "server", DAY, ca + 2 * HOUR + SECOND, ca + 2 * HOUR + SECOND).unwrap();
    let (meeting, notes) = meet(&behind, &ahead, vec![id("server")]);
    assert!(meeting.client_result.is_err());
    let rejection = notes.client.rejection().unwrap();
    assert_eq!(rejection.refusal, Refusal::NotYetValid);
    assert!(rejection.detail.contains(expected), "{}", rejection.detail);
}

#[test]
fn an_anchor_of_an_outside_ca_may_begin_at_this_moment() {
    // It is dated as the outside CA pleases: here, not back at all.
    let ca = start();
    let issuer = made(ca + BACKDATE);
    assert!(issuer.anchor().not_before > ca - Duration::from_secs(1));
    for minutes in [-TOLERATED, 0, TOLERATED] {
        assert!(member(&issuer, "pay", DAY, ca, shifted(minutes)).is_ok(), "{minutes}");
    }
    let trust = |now| bundle(&[&issuer]).anchors().iter().any(|anchor| anchor.is_valid_at(now));
    assert!(!trust(ca - BACKDATE - Duration::from_secs(1)) && trust(ca - BACKDATE + Duration::from_secs(1)));
}

#[test]
fn short_lives_begin_early_by_an_eighth_and_are_not_due_when_they_come() {
    for (validity, early) in [
        (DAY, 15 * MINUTE),
        (2 * HOUR, 15 * MINUTE),
        (HOUR, MINUTE * 15 / 2),
        (10 * MINUTE, Duration::from_secs(75)),
        (5 * MINUTE, Duration::from_secs(37)),
        (Duration::from_secs(2), Duration::ZERO),
    ] {
        assert_eq!(backdate(validity), early, "{validity:?}");
        let (begins, ends) = (start() - early, start() - early + validity);
        assert_eq!(issued_at(begins, ends), (early == BACKDATE).then(start));
        // By whichever clock within ten minutes it is looked at, it is renewed once, later, and in time.
        for here in [-TOLERATED, 0, TOLERATED].map(shifted) {
            if !(begins..ends).contains(&here) {
                continue;
            }
            for jitter in [0.0, 1.0] {
                let mut renewal = Renewal::new(jitter);
                assert_eq!(renewal.poll(here), Step::Renew);
                renewal.issued(begins, ends, here);
                let mut now = here;
                while let step = renewal.poll(now)
                    && step != Step::Renew
                {
                    if let Step::Sleep(pause) = step {
                        now += pause;
                    }
                }
                assert!(now >= here + validity / 24, "{validity:?}: not at once");
                assert!(now <= ends || here > start(), "{validity:?}: renewed after its end");
                if here == start() {
                    let left = ends.duration_since(now).unwrap();
                    assert!(left >= validity / 24, "{validity:?}: {left:?} left for a CA that is away");
                }
            }
        }
    }
}

#[test]
fn who_asks_for_others_may_have_it_begin_later() {
    let issuer = made(start());
    let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
    let identity = id("pay");
    let request = LeafRequest {
        public_key: key.public_key(),
        identity: &identity,
        dns_names: &[],
        now: start(),
        validity: DAY,
    };
    let leaf = issuer.issue_for(&request, Purposes::BOTH, Duration::from_secs(150)).unwrap();
    let early = start().duration_since(leaf.not_before).unwrap();
    assert!((150..151).contains(&early.as_secs()), "{early:?}");
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), DAY);
}
