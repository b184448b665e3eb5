//! Two identities of one workload: which of them a peer is shown, and that the weaker one goes only to
//! those who can verify nothing better.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::Duration;

use memory::*;
use rustls::{ServerConnection, SignatureScheme};
use trellis_pki::algorithm::Algorithm::{self, EcdsaP256, MlDsa44, MlDsa65, MlDsa87};
use trellis_pki::clock::{Clock, ManualClock};
use trellis_pki::issue::Issuer;
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::posture::{Class, Fallback};
use trellis_pki::refusal::Refusal;
use trellis_pki::tls::{Accepting, ClientAuth, InstallError, MeshTls};

const OPEN: Policy = Policy { key_exchange: Ladder::Require, signatures: Ladder::Prefer };

/// Two anchors that everybody here trusts.
struct Domain {
    primary: Issuer,
    companion: Issuer,
    clock: Arc<ManualClock>,
}

impl Domain {
    fn new() -> Self {
        Self { primary: root(MlDsa65), companion: root(EcdsaP256), clock: clock() }
    }

    fn workload(&self, account: &str, dual: bool, policy: Policy) -> MeshTls {
        let tls = workload(&self.primary, account, MlDsa65, policy, &self.clock);
        tls.trust(bundle(&[&self.primary, &self.companion])).unwrap();
        if dual {
            tls.install_companion(identity(&self.companion, account, EcdsaP256, start())).unwrap();
        }
        tls
    }
}

/// A client that says to be able to verify exactly this.
fn call(server: &MeshTls, verifies: &[SignatureScheme]) -> (Meeting, Accepting) {
    let client = Stranger { verifies: verifies.to_vec(), ..Stranger::bare(OPEN, &clock()) };
    let accepting = server.accept(ClientAuth::None).unwrap();
    let server = ServerConnection::new(Arc::clone(&accepting.config)).unwrap();
    (Meeting::new(client.client(), server), accepting)
}

#[test]
fn a_server_shows_the_weaker_identity_only_to_who_can_verify_nothing_better() {
    let domain = Domain::new();
    let (single, dual) = (domain.workload("pay", false, OPEN), domain.workload("pay", true, OPEN));
    let ed25519 = SignatureScheme::ED25519;
    let schemes = |algorithms: &[Algorithm]| algorithms.iter().map(|one| one.scheme()).collect::<Vec<_>>();
    // What the client can verify, and what it is shown by who has one identity, and by who has two.
    for (verifies, by_single, by_dual) in [
        (schemes(&[MlDsa65]), Some(MlDsa65), Some(MlDsa65)),
        (schemes(&[EcdsaP256]), None, Some(EcdsaP256)),
        (schemes(&[MlDsa65, EcdsaP256]), Some(MlDsa65), Some(MlDsa65)),
        (schemes(&[EcdsaP256, MlDsa65]), Some(MlDsa65), Some(MlDsa65)),
        // Whoever can do ML-DSA at another level than ours is refused, not weakened.
        (schemes(&[MlDsa87, EcdsaP256]), None, None),
        (schemes(&[MlDsa44]), None, None),
        (vec![ed25519], None, None),
        (vec![ed25519, EcdsaP256.scheme()], None, Some(EcdsaP256)),
    ] {
        for (server, shown) in [(&single, by_single), (&dual, by_dual)] {
            let (meeting, accepting) = call(server, &verifies);
            let posture = accepting.recorder.posture(&meeting.server);
            match (shown, posture) {
                (None, posture) => {
                    assert!(posture.is_none(), "{verifies:?}");
                    let error = meeting.server_result.unwrap_err();
                    assert_eq!(Refusal::of(&error, &accepting.recorder), Refusal::NoCommonSignature);
                }
                (Some(shown), posture) => {
                    let posture = posture.unwrap();
                    let weaker = shown == EcdsaP256;
                    let fallback = weaker.then_some(Fallback::PeerCannotVerifyMlDsa);
                    let class = if weaker { Class::Hybrid } else { Class::Pq };
                    assert_eq!(posture.local_signature, Some(shown), "{verifies:?}");
                    assert_eq!((posture.fallback, posture.class), (fallback, class), "{verifies:?}");
                    let issuer = if weaker { &domain.companion } else { &domain.primary };
                    assert_eq!(posture.own_anchor.as_ref(), Some(issuer.anchor().fingerprint()));
                }
            }
        }
    }
}

#[test]
fn a_client_shows_the_weaker_identity_only_where_nothing_better_is_asked_for() {
    let domain = Domain::new();
    let require = Policy::default();
    let classical = Policy { signatures: Ladder::Classical, ..Policy::default() };
    // A server from before: its own certificate is of ECDSA, and it asks for nothing else.
    let old = workload(&domain.companion, "old", EcdsaP256, classical, &domain.clock);
    for (server, dual, shown) in [
        (domain.workload("pay", false, require), true, Some(MlDsa65)),
        (domain.workload("pay", true, OPEN), true, Some(MlDsa65)),
        (old.under(classical), true, Some(EcdsaP256)),
        (old.under(classical), false, None),
    ] {
        let client = domain.workload("cart", dual, OPEN);
        let expected = vec![server.current().unwrap().identity.clone()];
        let (meeting, notes) = meet(&client, &server, expected);
        let posture = notes.client.posture(&meeting.client).unwrap();
        assert_eq!(posture.local_signature, shown);
        let weaker = shown == Some(EcdsaP256);
        assert_eq!(posture.fallback, weaker.then_some(Fallback::PeerCannotVerifyMlDsa));
        let seen =
            notes.server.posture(&meeting.server).map(|posture| (posture.peer, posture.peer_signature));
        match shown {
            Some(shown) => assert_eq!(seen, Some((Some(id("cart")), Some(shown)))),
            None => assert_eq!(
                Refusal::of(&meeting.server_result.unwrap_err(), &notes.server),
                Refusal::NoCertificate
            ),
        }
    }
}

#[test]
fn a_policy_that_wants_classical_signatures_shows_them_to_whoever_verifies_them() {
    let domain = Domain::new();
    let dual = domain.workload("pay", true, OPEN);
    let classical = Policy { signatures: Ladder::Classical, ..OPEN };
    let schemes = [MlDsa65.scheme(), EcdsaP256.scheme()];
    let shown = |server: &MeshTls, schemes: &[SignatureScheme]| {
        let (meeting, accepting) = call(server, schemes);
        let posture = accepting.recorder.posture(&meeting.server).unwrap();
        (posture.local_signature, posture.weakness())
    };
    let server = dual.under(OPEN);
    assert_eq!(shown(&server, &schemes), (Some(MlDsa65), None));
    // From the very next handshake on.
    server.demand(classical);
    assert_eq!(shown(&server, &schemes), (Some(EcdsaP256), Some("policy_is_classical")));
    assert_eq!(
        shown(&server, &[MlDsa65.scheme()]),
        (Some(MlDsa65), None),
        "it has nothing else for this one"
    );
    server.demand(OPEN);
    assert_eq!(shown(&server, &schemes), (Some(MlDsa65), None));
}

#[test]
fn each_direction_says_what_it_was_signed_with() {
    let domain = Domain::new();
    let classical = Policy { signatures: Ladder::Classical, ..Policy::default() };
    let old = workload(&domain.companion, "old", EcdsaP256, classical, &domain.clock);
    let server = domain.workload("pay", true, OPEN);
    let (meeting, notes) = meet(&old, &server, vec![id("pay")]);
    let posture = notes.server.posture(&meeting.server).unwrap();
    assert_eq!((posture.local_signature, posture.peer_signature), (Some(EcdsaP256), Some(EcdsaP256)));
    assert_eq!((posture.class, posture.peer), (Class::Hybrid, Some(id("old"))));
    assert_eq!(posture.fallback.map(Fallback::as_str), Some("peer_cannot_verify_ml_dsa"));
    assert_eq!(notes.client.posture(&meeting.client).unwrap().fallback, None, "it showed all it has");
    assert_eq!(notes.server.presented().unwrap().algorithm, EcdsaP256);
}

#[test]
fn a_strict_workload_holds_and_accepts_nothing_classical() {
    let domain = Domain::new();
    let strict = domain.workload("pay", false, Policy::default());
    let refused = strict.install_companion(identity(&domain.companion, "pay", EcdsaP256, start()));
    assert!(matches!(refused, Err(InstallError::Policy(_))), "{refused:?}");
    assert!(strict.companion().is_none());
    // Nor does it show what another policy of the same process may.
    let open = domain.workload("pay", true, OPEN);
    let (meeting, accepting) = call(&open.under(Policy::default()), &[EcdsaP256.scheme()]);
    assert!(accepting.recorder.posture(&meeting.server).is_none());
}

#[test]
fn only_a_classical_identity_of_the_same_workload_is_a_companion() {
    let domain = Domain::new();
    let tls = domain.workload("pay", false, OPEN);
    let epoch = tls.epoch();
    let wrong = tls.install_companion(identity(&domain.companion, "cart", EcdsaP256, start()));
    assert!(matches!(wrong, Err(InstallError::OtherIdentity { .. })), "{wrong:?}");
    let wrong = tls.install_companion(identity(&domain.companion, "pay", MlDsa65, start()));
    assert!(matches!(wrong, Err(InstallError::NotClassical { what: "key", .. })), "{wrong:?}");
    let wrong = tls.install_companion(identity(&domain.primary, "pay", EcdsaP256, start()));
    assert!(matches!(wrong, Err(InstallError::NotClassical { what: "issuer's signature", .. })), "{wrong:?}");
    let wrong = tls.install_companion(identity(&root(EcdsaP256), "pay", EcdsaP256, start()));
    assert!(matches!(wrong, Err(InstallError::AnchorUnknown(_))), "{wrong:?}");
    let classical = workload(&domain.companion, "pay", EcdsaP256, OPEN, &domain.clock);
    let wrong = classical.install_companion(identity(&domain.companion, "pay", EcdsaP256, start()));
    assert_eq!(wrong, Err(InstallError::NoIdentity));
    assert_eq!(tls.epoch(), epoch);
}

#[test]
fn a_companion_goes_with_its_anchor_when_it_is_told_to_and_when_it_ends() {
    let domain = Domain::new();
    let shown = |tls: &MeshTls| {
        let (meeting, accepting) = call(tls, &[EcdsaP256.scheme()]);
        accepting.recorder.posture(&meeting.server).and_then(|posture| posture.local_signature)
    };
    let tls = domain.workload("pay", true, OPEN);
    assert_eq!(shown(&tls), Some(EcdsaP256));
    tls.trust(bundle(&[&domain.primary])).unwrap();
    assert_eq!((shown(&tls), tls.companion()), (None, None));

    let tls = domain.workload("pay", true, OPEN);
    let serial = tls.companion().unwrap().serial.clone();
    tls.install_companion(identity(&domain.companion, "pay", EcdsaP256, start())).unwrap();
    assert_ne!(tls.companion().unwrap().serial, serial, "swapped under those who are served");
    tls.drop_companion();
    assert_eq!((shown(&tls), tls.companion_anchor()), (None, None));

    let tls = domain.workload("pay", true, OPEN);
    let both = bundle(&[&domain.primary, &domain.companion]);
    tls.install(identity(&domain.companion, "pay", EcdsaP256, start()), both).unwrap();
    assert_eq!(tls.companion(), None, "beside a classical identity there is nothing to stand in for");

    let tls = domain.workload("pay", true, OPEN);
    domain.clock.advance(Duration::from_secs(20 * 3600));
    let both = bundle(&[&domain.primary, &domain.companion]);
    tls.install(identity(&domain.primary, "pay", MlDsa65, domain.clock.now()), both).unwrap();
    assert_eq!(shown(&tls), Some(EcdsaP256));
    domain.clock.advance(Duration::from_secs(5 * 3600));
    assert_eq!(shown(&tls), None, "its day is over, that of the identity is not");
}
