//! Handshakes between workloads: what two ends agree on, and that both say so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::Duration;

use memory::*;
use rustls::{ClientConnection, HandshakeKind, ServerConnection};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::clock::Clock;
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::posture::Class;
use trellis_pki::refusal::Refusal;
use trellis_pki::tls::{ClientAuth, InstallError, MeshTls, NotReady};

const ML_DSA: [Algorithm; 3] = [Algorithm::MlDsa44, Algorithm::MlDsa65, Algorithm::MlDsa87];

#[test]
fn two_workloads_are_post_quantum_throughout_and_both_know_it() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "pay", &clock));
    let (meeting, notes) = meet(&client, &server, vec![id("pay")]);
    assert_eq!((&meeting.client_result, &meeting.server_result), (&Ok(()), &Ok(())));

    let seen_by_client = notes.client.posture(&meeting.client).unwrap();
    let seen_by_server = notes.server.posture(&meeting.server).unwrap();
    for posture in [&seen_by_client, &seen_by_server] {
        assert_eq!(posture.tls, "1.3");
        assert_eq!(posture.group, "X25519MLKEM768");
        assert_eq!(posture.local_signature, Some(Algorithm::MlDsa65));
        assert_eq!(posture.peer_signature, Some(Algorithm::MlDsa65));
        assert!(posture.peer_issuer_post_quantum);
        assert!(!posture.resumed);
        assert_eq!(posture.class, Class::Pq);
    }
    assert_eq!(seen_by_client.peer, Some(id("pay")));
    assert_eq!(seen_by_server.peer, Some(id("cart")));
    assert_eq!(seen_by_client.peer_serial, server.current().map(|leaf| leaf.serial.clone()));
    assert_eq!(seen_by_server.peer_serial, client.current().map(|leaf| leaf.serial.clone()));
    assert_eq!(meeting.client.alpn_protocol(), Some(&b"h2"[..]));

    let offer = notes.server.offer().unwrap();
    assert_eq!(offer.groups, ["X25519MLKEM768"]);
    assert!(offer.post_quantum_group);
    assert_eq!(offer.signatures, ML_DSA);
}

#[test]
fn a_posture_is_never_read_from_an_unfinished_handshake() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let tls = strict(&root, "cart", &clock);
    let connecting = tls.connect(vec![id("pay")], true).unwrap();
    let connection = ClientConnection::new(connecting.config, connecting.server_name).unwrap();
    assert_eq!(connecting.recorder.posture(&connection), None);
}

#[test]
fn every_level_of_root_and_leaf_works_with_every_other() {
    let clock = clock();
    for root_algorithm in ML_DSA {
        let root = root(root_algorithm);
        for algorithm in ML_DSA {
            let client = workload(&root, "cart", algorithm, Policy::default(), &clock);
            let server = workload(&root, "pay", algorithm, Policy::default(), &clock);
            let (meeting, notes) = meet(&client, &server, vec![id("pay")]);
            let posture = notes.client.posture(&meeting.client).unwrap();
            assert_eq!(posture.peer_signature, Some(algorithm), "under {root_algorithm}");
            assert_eq!(posture.class, Class::Pq);
        }
    }
}

#[test]
fn the_servers_flight_fits_the_first_tcp_window() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "pay", &clock));
    let (meeting, _) = meet(&client, &server, vec![id("pay")]);
    assert!((9_000..14_600).contains(&meeting.server_flight), "{} bytes", meeting.server_flight);
}

#[test]
fn a_swapped_identity_counts_from_the_next_handshake_and_cuts_nobody_off() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "pay", &clock));
    let (mut before, old) = meet(&client, &server, vec![id("pay")]);
    let epoch = server.epoch();

    clock.advance(Duration::from_secs(20 * 3600));
    server.install(identity(&root, "pay", Algorithm::MlDsa65, clock.now()), bundle(&[&root])).unwrap();
    assert_ne!(server.epoch(), epoch);

    let (after, new) = meet(&client, &server, vec![id("pay")]);
    let serial = |notes: &Notes, end: &ClientConnection| notes.client.posture(end).unwrap().peer_serial;
    assert_ne!(serial(&old, &before.client), serial(&new, &after.client));
    assert_eq!(serial(&new, &after.client), server.current().map(|leaf| leaf.serial.clone()));
    assert_eq!(before.send_up(b"still here"), b"still here");
}

#[test]
fn a_migration_from_classical_to_post_quantum_needs_no_restart() {
    let (old_root, new_root, clock) = (root(Algorithm::EcdsaP256), root(Algorithm::MlDsa65), clock());
    let both = || bundle(&[&old_root, &new_root]);
    let open = policy(Ladder::Require, Ladder::Prefer);
    let client = workload(&old_root, "cart", Algorithm::EcdsaP256, open, &clock);
    let server = workload(&old_root, "pay", Algorithm::EcdsaP256, open, &clock);
    let class = |client: &MeshTls, server: &MeshTls| {
        let (meeting, notes) = meet(client, server, vec![id("pay")]);
        notes.client.posture(&meeting.client).map(|posture| posture.class)
    };
    assert_eq!(class(&client, &server), Some(Class::Hybrid));
    client.trust(both()).unwrap();
    server.trust(both()).unwrap();
    server.install(identity(&new_root, "pay", Algorithm::MlDsa65, start()), both()).unwrap();
    assert_eq!(class(&client, &server), Some(Class::Hybrid), "the client is still classical");
    client.install(identity(&new_root, "cart", Algorithm::MlDsa65, start()), both()).unwrap();
    assert_eq!(class(&client, &server), Some(Class::Pq));
}

#[test]
fn nothing_is_ever_resumed() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "pay", &clock));
    // Even a caller that kept one configuration for many connections would resume nothing.
    let connecting = client.connect(vec![id("pay")], true).unwrap();
    let accepting = server.accept(ClientAuth::Required).unwrap();
    for _ in 0..3 {
        let name = connecting.server_name.clone();
        let mut meeting = Meeting::new(
            ClientConnection::new(Arc::clone(&connecting.config), name).unwrap(),
            ServerConnection::new(Arc::clone(&accepting.config)).unwrap(),
        );
        assert_eq!(meeting.client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(meeting.send_up(b"x"), b"x");
        assert_eq!(meeting.client.tls13_tickets_received(), 0);
    }
}

#[test]
fn who_has_no_certificate_yet_can_ask_the_ca_for_one() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let ca = strict(&root, "ca", &clock);
    let newcomer = MeshTls::new(Policy::default(), DOMAIN, clock.clone());
    newcomer.trust(bundle(&[&root])).unwrap();
    assert_eq!(newcomer.connect(vec![id("ca")], true).err(), Some(NotReady::NoIdentity));

    let connecting = newcomer.connect(vec![id("ca")], false).unwrap();
    let accepting = ca.accept(ClientAuth::None).unwrap();
    let meeting = Meeting::new(
        ClientConnection::new(connecting.config, connecting.server_name).unwrap(),
        ServerConnection::new(accepting.config).unwrap(),
    );
    let seen_by_newcomer = connecting.recorder.posture(&meeting.client).unwrap();
    let seen_by_ca = accepting.recorder.posture(&meeting.server).unwrap();
    assert_eq!((seen_by_newcomer.peer, seen_by_newcomer.local_signature), (Some(id("ca")), None));
    assert_eq!((seen_by_ca.peer, seen_by_ca.peer_signature), (None, None));
    assert_eq!(seen_by_ca.local_signature, Some(Algorithm::MlDsa65));
    assert_eq!((seen_by_newcomer.class, seen_by_ca.class), (Class::Pq, Class::Pq));
}

#[test]
fn a_classical_group_is_refused_where_post_quantum_is_required() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let server = strict(&root, "pay", &clock);
    let classical = Stranger::bare(policy(Ladder::Classical, Ladder::Prefer), &clock);
    let accepting = server.accept(ClientAuth::None).unwrap();
    let meeting = Meeting::new(classical.client(), ServerConnection::new(accepting.config).unwrap());
    let error = meeting.server_result.unwrap_err();
    assert_eq!(Refusal::of(&error, &accepting.recorder), Refusal::NoCommonGroup);
    let offer = accepting.recorder.offer().unwrap();
    assert_eq!(
        (offer.groups.as_slice(), offer.post_quantum_group),
        (&["X25519", "secp256r1"].map(String::from)[..], false)
    );
}

#[test]
fn a_classical_group_is_counted_as_classical_where_post_quantum_is_preferred() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let open = policy(Ladder::Prefer, Ladder::Require);
    let server = workload(&root, "pay", Algorithm::MlDsa65, open, &clock);
    let old = workload(&root, "cart", Algorithm::MlDsa65, policy(Ladder::Classical, Ladder::Require), &clock);
    let (meeting, notes) = meet(&old, &server, vec![id("pay")]);
    let posture = notes.server.posture(&meeting.server).unwrap();
    assert_eq!((posture.group.as_str(), posture.class), ("X25519", Class::Classical));
    assert_eq!(posture.peer_signature, Some(Algorithm::MlDsa65), "its signature alone helps nobody");

    let new = workload(&root, "cart", Algorithm::MlDsa65, open, &clock);
    let (meeting, notes) = meet(&new, &server, vec![id("pay")]);
    assert_eq!(notes.server.posture(&meeting.server).unwrap().class, Class::Pq);
}

#[test]
fn a_classical_signature_makes_a_hybrid_connection() {
    let clock = clock();
    let open = policy(Ladder::Require, Ladder::Prefer);
    let cases = [
        // One classical end, or a classical issuer of post-quantum leaves, is enough.
        (Algorithm::MlDsa65, Algorithm::EcdsaP256, Algorithm::MlDsa65, Class::Hybrid),
        (Algorithm::MlDsa65, Algorithm::MlDsa65, Algorithm::EcdsaP256, Class::Hybrid),
        (Algorithm::EcdsaP256, Algorithm::MlDsa65, Algorithm::MlDsa65, Class::Hybrid),
        (Algorithm::EcdsaP256, Algorithm::EcdsaP256, Algorithm::EcdsaP256, Class::Hybrid),
        (Algorithm::MlDsa44, Algorithm::MlDsa44, Algorithm::MlDsa44, Class::Pq),
    ];
    for (root_algorithm, of_client, of_server, class) in cases {
        let root = root(root_algorithm);
        let client = workload(&root, "cart", of_client, open, &clock);
        let server = workload(&root, "pay", of_server, open, &clock);
        let (meeting, notes) = meet(&client, &server, vec![id("pay")]);
        let seen_by_client = notes.client.posture(&meeting.client).unwrap();
        let seen_by_server = notes.server.posture(&meeting.server).unwrap();
        let case = format!("{root_algorithm} {of_client} {of_server}");
        assert_eq!((seen_by_client.class, seen_by_server.class), (class, class), "{case}");
        assert_eq!(seen_by_client.peer_signature, Some(of_server), "{case}");
        assert_eq!(seen_by_server.peer_signature, Some(of_client), "{case}");
        assert_eq!(seen_by_client.peer_issuer_post_quantum, root_algorithm.is_post_quantum(), "{case}");
    }
}

#[test]
fn a_wholly_classical_mesh_still_works_for_comparison() {
    let (root, clock) = (root(Algorithm::EcdsaP256), clock());
    let old = policy(Ladder::Classical, Ladder::Classical);
    let client = workload(&root, "cart", Algorithm::EcdsaP256, old, &clock);
    let server = workload(&root, "pay", Algorithm::EcdsaP256, old, &clock);
    let (meeting, notes) = meet(&client, &server, vec![id("pay")]);
    let posture = notes.client.posture(&meeting.client).unwrap();
    assert_eq!((posture.group.as_str(), posture.class), ("X25519", Class::Classical));
}

#[test]
fn no_handshake_begins_without_a_certificate_that_is_valid_now() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let tls = MeshTls::new(Policy::default(), DOMAIN, clock.clone());
    assert_eq!(tls.accept(ClientAuth::Required).err(), Some(NotReady::NoIdentity));
    assert_eq!(tls.connect(vec![id("pay")], false).err(), Some(NotReady::NoBundle));
    assert!(tls.current().is_none() && tls.bundle().is_none());

    tls.install(identity(&root, "pay", Algorithm::MlDsa65, start()), bundle(&[&root])).unwrap();
    let not_after = tls.current().unwrap().not_after;
    clock.set(not_after);
    assert!(tls.accept(ClientAuth::Required).is_ok(), "the last second is a valid one");
    clock.set(not_after + Duration::from_secs(1));
    let error = tls.accept(ClientAuth::Required).err().unwrap();
    assert!(matches!(error, NotReady::Expired(_)), "{error}");
    assert_eq!(tls.connect(vec![id("pay")], true).err(), Some(error));
    clock.set(start() - Duration::from_secs(3600));
    assert!(matches!(tls.accept(ClientAuth::Required).err(), Some(NotReady::NotYetValid(_))));
}

#[test]
fn what_belongs_to_another_trust_domain_is_not_installed() {
    let clock = clock();
    let home = root(Algorithm::MlDsa44);
    let tls = MeshTls::new(Policy::default(), "other.example", clock.clone());
    let error = tls.trust(bundle(&[&home])).unwrap_err();
    assert!(matches!(error, InstallError::TrustDomain { what: "trust bundle", .. }), "{error}");
    let identity = identity(&home, "pay", Algorithm::MlDsa44, clock.now());
    assert!(tls.install(identity, bundle(&[&home])).is_err());
    assert_eq!((tls.epoch(), tls.bundle().is_none()), (0, true));
}

#[test]
fn a_certificate_that_peers_would_refuse_is_not_installed() {
    let (classical, clock) = (root(Algorithm::EcdsaP256), clock());
    let tls = MeshTls::new(Policy::default(), DOMAIN, clock);
    for (algorithm, refusal) in
        [(Algorithm::MlDsa65, Refusal::ClassicalIssuer), (Algorithm::EcdsaP256, Refusal::ClassicalKey)]
    {
        let identity = identity(&classical, "pay", algorithm, start());
        match tls.install(identity, bundle(&[&classical])) {
            Err(InstallError::Policy(rejection)) => assert_eq!(rejection.refusal, refusal),
            other => panic!("{other:?}"),
        }
    }
    assert!(tls.current().is_none());
}

#[test]
fn another_protocol_above_tls_is_chosen_by_both_or_refused() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let echo = |account| strict(&root, account, &clock).with_alpn(&[b"echo"]);
    let (meeting, _) = meet(&echo("cart"), &echo("pay"), vec![id("pay")]);
    assert_eq!(meeting.server.alpn_protocol(), Some(&b"echo"[..]));
    let (meeting, notes) = meet(&echo("cart"), &strict(&root, "pay", &clock), vec![id("pay")]);
    let error = meeting.server_result.unwrap_err();
    assert_eq!(Refusal::of(&error, &notes.server), Refusal::NoCommonProtocol);
}

#[test]
fn one_identity_serves_under_several_policies_and_is_swapped_under_all() {
    let (modern, classical, clock) = (root(Algorithm::MlDsa65), root(Algorithm::EcdsaP256), clock());
    let both = || bundle(&[&modern, &classical]);
    let strict_server = strict(&modern, "pay", &clock);
    strict_server.trust(both()).unwrap();
    let open_server = strict_server.under(policy(Ladder::Require, Ladder::Prefer));
    let old =
        workload(&classical, "cart", Algorithm::EcdsaP256, policy(Ladder::Require, Ladder::Prefer), &clock);
    old.trust(both()).unwrap();

    let (meeting, notes) = meet(&old, &open_server, vec![id("pay")]);
    assert_eq!(notes.server.posture(&meeting.server).unwrap().class, Class::Hybrid);
    let (meeting, notes) = meet(&old, &strict_server, vec![id("pay")]);
    let error = meeting.server_result.unwrap_err();
    // The old client finds none of its signatures among those asked for, and shows nothing.
    assert_eq!(Refusal::of(&error, &notes.server), Refusal::NoCertificate);

    strict_server.install(identity(&modern, "pay", Algorithm::MlDsa65, start()), both()).unwrap();
    assert_eq!(open_server.current(), strict_server.current());
    assert_eq!(open_server.epoch(), strict_server.epoch());
}
