//! Every way in which a handshake is refused, with the reason that each end gives.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use memory::*;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::{ClientConnection, Error, ServerConnection};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::certify::Name;
use trellis_pki::clock::ManualClock;
use trellis_pki::issue::Issuer;
use trellis_pki::key::PrivateKey;
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::record::Recorder;
use trellis_pki::refusal::Refusal;
use trellis_pki::spiffe::SpiffeId;
use trellis_pki::tls::{ClientAuth, MeshTls};

/// The reason at the end that refused, the reason at the end that was told, and who the refused said
/// that it was.
#[derive(Debug, PartialEq)]
struct Outcome {
    here: Refusal,
    there: Refusal,
    claimed: Option<SpiffeId>,
}

fn outcome(here: &Error, recorder: &Recorder, there: &Error) -> Outcome {
    Outcome {
        here: Refusal::of(here, recorder),
        there: Refusal::of(there, &Recorder::default()),
        claimed: recorder.claimed().cloned(),
    }
}

/// A stranger knocks at our server.
fn as_client(stranger: &Stranger, server: &MeshTls) -> Outcome {
    let accepting = server.accept(ClientAuth::Required).unwrap();
    let meeting = Meeting::new(stranger.client(), ServerConnection::new(accepting.config).unwrap());
    let (here, there) = (meeting.server_result.unwrap_err(), meeting.client_result.unwrap_err());
    assert_eq!(accepting.recorder.posture(&meeting.server), None, "a refused peer has no posture");
    outcome(&here, &accepting.recorder, &there)
}

/// Our client calls a stranger.
fn as_server(stranger: &Stranger, client: &MeshTls) -> Outcome {
    let connecting = client.connect(vec![id("pay")], true).unwrap();
    let meeting = Meeting::new(
        ClientConnection::new(connecting.config, connecting.server_name).unwrap(),
        stranger.server(),
    );
    let (here, there) = (meeting.client_result.unwrap_err(), meeting.server_result.unwrap_err());
    assert_eq!(connecting.recorder.posture(&meeting.client), None, "a refused peer has no posture");
    outcome(&here, &connecting.recorder, &there)
}

struct Case {
    name: &'static str,
    algorithm: Algorithm,
    bend: fn(&mut CertificateParams),
    here: Refusal,
    there: Refusal,
    /// Whether the certificate could be read far enough to say whose it claims to be.
    claimed: bool,
}

impl Case {
    fn new(
        name: &'static str,
        here: Refusal,
        there: Refusal,
        claimed: bool,
        bend: fn(&mut CertificateParams),
    ) -> Self {
        Self { name, algorithm: Algorithm::MlDsa44, bend, here, there, claimed }
    }
}

fn bent_certificates() -> Vec<Case> {
    use Refusal::*;
    vec![
        Case::new("expired", ExpiredCertificate, PeerAlertCertificateExpired, true, |params| {
            params.not_before -= Duration::from_secs(90_000);
            params.not_after -= Duration::from_secs(90_000);
        }),
        Case::new("not begun", NotYetValid, PeerAlertCertificateExpired, true, |params| {
            params.not_before += Duration::from_secs(3_600);
            params.not_after += Duration::from_secs(3_600);
        }),
        Case::new("another trust domain", ForeignTrustDomain, PeerAlertAccessDenied, false, |params| {
            params.subject_alt_names = vec![uri("spiffe://evil.example/ns/shop/sa/pay")];
        }),
        Case::new("no SPIFFE ID", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names = vec![SanType::DnsName("pay".try_into().unwrap())];
        }),
        Case::new("two SPIFFE IDs", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/admin"));
        }),
        Case::new("no alternative names", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names.clear();
        }),
        Case::new("a SPIFFE ID of other shape", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names = vec![uri("spiffe://cluster.local/workload/pay")];
        }),
        Case::new("a SPIFFE ID with a NUL", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/pay\0.evil")];
        }),
        Case::new(
            "a SPIFFE ID with a slash at its end",
            BadIdentity,
            PeerAlertCertificateUnknown,
            false,
            |p| {
                p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/pay/")];
            },
        ),
        Case::new("a scheme in upper case", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names = vec![uri("SPIFFE://cluster.local/ns/shop/sa/pay")];
        }),
        Case::new("an escaped SPIFFE ID", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/%70ay")];
        }),
        Case::new("a SPIFFE ID and another URI", BadIdentity, PeerAlertCertificateUnknown, false, |params| {
            params.subject_alt_names.push(uri("https://cluster.local/ns/shop/sa/pay"));
        }),
        Case::new("a CA", NotALeaf, PeerAlertUnsupportedCertificate, false, |params| {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }),
        Case::new("silent about being a CA", NotALeaf, PeerAlertUnsupportedCertificate, false, |params| {
            params.is_ca = IsCa::NoCa;
        }),
        Case::new("key usage too wide", WrongUsage, PeerAlertUnsupportedCertificate, false, |params| {
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }),
        Case::new("key usage absent", WrongUsage, PeerAlertUnsupportedCertificate, false, |params| {
            params.key_usages.clear();
        }),
        Case::new("extended usage absent", WrongUsage, PeerAlertUnsupportedCertificate, true, |params| {
            params.extended_key_usages.clear();
        }),
        Case::new("another purpose", WrongUsage, PeerAlertUnsupportedCertificate, true, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        }),
        Case::new("any purpose", WrongUsage, PeerAlertUnsupportedCertificate, true, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        }),
        Case::new("too large", Oversize, PeerAlertBadCertificate, false, |params| {
            let name = |n: usize| SanType::DnsName(format!("n{n}.{}", "x".repeat(60)).try_into().unwrap());
            params.subject_alt_names.extend((0..300).map(name));
        }),
        Case::new("a critical riddle", MalformedCertificate, PeerAlertBadCertificate, true, |params| {
            let mut riddle = CustomExtension::from_oid_content(&[1, 3, 9999, 1], vec![5, 0]);
            riddle.set_criticality(true);
            params.custom_extensions.push(riddle);
        }),
        Case {
            algorithm: Algorithm::EcdsaP256,
            ..Case::new("a classical key", ClassicalKey, PeerAlertCertificateUnknown, true, |_| {})
        },
    ]
}

#[test]
fn a_bent_certificate_is_refused_in_either_role_with_its_reason_on_both_ends() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&root, "cart", &clock);
    for case in bent_certificates() {
        let key = PrivateKey::generate(case.algorithm).unwrap();
        let mut params = leaf_params("pay", start());
        (case.bend)(&mut params);
        let stranger = Stranger::new(vec![forge(&params, &key, &root)], &key, &clock);
        for found in [as_client(&stranger, &ours), as_server(&stranger, &ours)] {
            assert_eq!((found.here, found.there), (case.here, case.there), "{}", case.name);
            let claimed = match case.here {
                Refusal::ForeignTrustDomain => Some("spiffe://evil.example/ns/shop/sa/pay".parse().unwrap()),
                _ => case.claimed.then(|| id("pay")),
            };
            assert_eq!(found.claimed, claimed, "{}", case.name);
        }
    }
}

#[test]
fn an_unbent_certificate_is_accepted_in_either_role() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&root, "cart", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let leaf = forge(&leaf_params("pay", start()), &key, &root);
    let stranger = Stranger::new(vec![leaf], &key, &clock);
    let accepting = ours.accept(ClientAuth::Required).unwrap();
    let meeting = Meeting::new(stranger.client(), ServerConnection::new(accepting.config).unwrap());
    assert_eq!(meeting.server_result, Ok(()));
    assert_eq!(accepting.recorder.posture(&meeting.server).unwrap().peer, Some(id("pay")));
}

#[test]
fn a_certificate_for_one_role_is_refused_in_the_other() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&root, "cart", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let only = |purpose| {
        let mut params = leaf_params("pay", start());
        params.extended_key_usages = vec![purpose];
        Stranger::new(vec![forge(&params, &key, &root)], &key, &clock)
    };
    let client_only = as_server(&only(ExtendedKeyUsagePurpose::ClientAuth), &ours);
    let server_only = as_client(&only(ExtendedKeyUsagePurpose::ServerAuth), &ours);
    assert_eq!((client_only.here, server_only.here), (Refusal::WrongUsage, Refusal::WrongUsage));
}

#[test]
fn a_certificate_of_another_ca_is_refused_even_where_everything_else_fits() {
    let (home, foreign, clock) = (root(Algorithm::MlDsa65), root(Algorithm::MlDsa65), clock());
    let ours = strict(&home, "cart", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let stranger = Stranger::new(vec![forge(&leaf_params("pay", start()), &key, &foreign)], &key, &clock);
    let wanted = Outcome {
        here: Refusal::UnknownIssuer,
        there: Refusal::PeerAlertUnknownCa,
        claimed: Some(id("pay")),
    };
    assert_eq!(as_client(&stranger, &ours), wanted);
    assert_eq!(as_server(&stranger, &ours), wanted);
}

/// A CA that took over our root's name still does not have its key.
#[test]
fn a_ca_with_our_roots_name_but_another_key_is_refused() {
    let (home, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&home, "cart", &clock);
    let (key, thief) = (
        PrivateKey::generate(Algorithm::MlDsa44).unwrap(),
        PrivateKey::generate(Algorithm::MlDsa44).unwrap(),
    );
    let der = rustls_pki_types::CertificateDer::from(home.anchor().der.clone());
    let issuer = rcgen::Issuer::from_ca_cert_der(&der, thief).unwrap();
    let leaf = leaf_params("pay", start()).signed_by(key.public_key(), &issuer).unwrap();
    let stranger = Stranger::new(vec![leaf.der().to_vec()], &key, &clock);
    assert_eq!(as_client(&stranger, &ours).here, Refusal::UnknownIssuer);
    assert_eq!(as_server(&stranger, &ours).here, Refusal::UnknownIssuer);
}

#[test]
fn a_classical_issuer_is_refused_where_post_quantum_is_required() {
    let (classical, modern, clock) = (root(Algorithm::EcdsaP256), root(Algorithm::MlDsa65), clock());
    let ours = strict(&modern, "cart", &clock);
    ours.trust(bundle(&[&modern, &classical])).unwrap();
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let stranger = Stranger::new(vec![forge(&leaf_params("pay", start()), &key, &classical)], &key, &clock);
    assert_eq!(as_client(&stranger, &ours).here, Refusal::ClassicalIssuer);
    assert_eq!(as_server(&stranger, &ours).here, Refusal::ClassicalIssuer);
}

#[test]
fn more_than_one_certificate_is_refused_even_if_they_chain() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&root, "cart", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let leaf = forge(&leaf_params("pay", start()), &key, &root);
    let stranger = Stranger::new(vec![leaf, root.anchor().der.clone()], &key, &clock);
    for found in [as_client(&stranger, &ours), as_server(&stranger, &ours)] {
        assert_eq!(found.here, Refusal::IntermediateSent);
        assert_eq!(found.there, Refusal::PeerAlertCertificateUnknown);
    }
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let ours = strict(&root, "cart", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let mut trailing = forge(&leaf_params("pay", start()), &key, &root);
    trailing.push(0);
    for der in [vec![0x30, 0x03, 1, 2, 3], trailing] {
        let stranger = Stranger::new(vec![der], &key, &clock);
        for found in [as_client(&stranger, &ours), as_server(&stranger, &ours)] {
            assert_eq!(found.here, Refusal::MalformedCertificate);
            assert_eq!(found.there, Refusal::PeerAlertBadCertificate);
        }
    }
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let ours = strict(&root, "cart", &clock);
    let owner = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let thief = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let stranger = Stranger::new(vec![forge(&leaf_params("pay", start()), &owner, &root)], &thief, &clock);
    assert_eq!(as_client(&stranger, &ours).here, Refusal::BadSignature);
    assert_eq!(as_server(&stranger, &ours).here, Refusal::BadSignature);
}

#[test]
fn the_wrong_workload_is_refused_by_the_caller() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "intruder", &clock));
    let (meeting, notes) = meet(&client, &server, vec![id("pay"), id("pay-canary")]);
    let error = meeting.client_result.unwrap_err();
    assert_eq!(Refusal::of(&error, &notes.client), Refusal::WrongIdentity);
    let detail = notes.client.rejection().unwrap().to_string();
    assert!(detail.contains("sa/intruder, not spiffe://cluster.local/ns/shop/sa/pay or"), "{detail}");
    let told = Refusal::of(&meeting.server_result.unwrap_err(), &notes.server);
    assert_eq!(told, Refusal::PeerAlertAccessDenied);
}

#[test]
fn nobody_expected_means_nobody_accepted() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let (client, server) = (strict(&root, "cart", &clock), strict(&root, "pay", &clock));
    let (meeting, notes) = meet(&client, &server, Vec::new());
    assert_eq!(Refusal::of(&meeting.client_result.unwrap_err(), &notes.client), Refusal::WrongIdentity);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let server = strict(&root, "pay", &clock);
    let stranger = Stranger::bare(Policy::default(), &clock);
    let found = as_client(&stranger, &server);
    assert_eq!(found.here, Refusal::NoCertificate);
    assert_eq!(found.there, Refusal::PeerAlertCertificateRequired);
}

#[test]
fn a_server_that_has_only_a_classical_certificate_finds_nothing_in_common() {
    let (root, clock) = (root(Algorithm::EcdsaP256), clock());
    let client = strict(&self::root(Algorithm::MlDsa65), "cart", &clock);
    let open = policy(Ladder::Require, Ladder::Prefer);
    let server = workload(&root, "pay", Algorithm::EcdsaP256, open, &clock);
    let (meeting, notes) = meet(&client, &server, vec![id("pay")]);
    let here = Refusal::of(&meeting.server_result.unwrap_err(), &notes.server);
    let there = Refusal::of(&meeting.client_result.unwrap_err(), &notes.client);
    assert_eq!((here, there), (Refusal::NoCommonSignature, Refusal::PeerAlertHandshakeFailure));
}

#[test]
fn a_post_quantum_peer_is_refused_by_a_classical_policy_without_calling_it_classical() {
    let (root, clock) = (root(Algorithm::MlDsa65), clock());
    let old = policy(Ladder::Require, Ladder::Classical);
    let ecdsa = self::root(Algorithm::EcdsaP256);
    let ours = workload(&ecdsa, "cart", Algorithm::EcdsaP256, old, &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let stranger = Stranger::new(vec![forge(&leaf_params("pay", start()), &key, &root)], &key, &clock);
    assert_eq!(as_client(&stranger, &ours).here, Refusal::UnsupportedAlgorithm);
}

#[test]
fn time_is_the_injected_clocks_on_both_sides() {
    let (root, ours_clock, theirs_clock) = (root(Algorithm::MlDsa44), clock(), clock());
    let (client, server) = (strict(&root, "cart", &ours_clock), strict(&root, "pay", &theirs_clock));
    let refusal = |client: &MeshTls, server: &MeshTls| {
        let (meeting, notes) = meet(client, server, vec![id("pay")]);
        meeting.client_result.err().map(|error| Refusal::of(&error, &notes.client))
    };
    assert_eq!(refusal(&client, &server), None);
    // The server's clock stands; for the client a day passes, in which it renewed and the server not.
    ours_clock.advance(DAY);
    let renewed = identity(&root, "cart", Algorithm::MlDsa44, start() + DAY);
    client.install(renewed, bundle(&[&root])).unwrap();
    assert_eq!(refusal(&client, &server), Some(Refusal::ExpiredCertificate));
}

#[test]
fn an_anchor_that_has_ended_vouches_for_nobody() {
    let clock: Arc<ManualClock> = clock();
    let short = Duration::from_secs(3_600);
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let ending = Issuer::new_root(DOMAIN, key, start(), short).unwrap();
    let home = root(Algorithm::MlDsa44);
    let ours = strict(&home, "cart", &clock);
    ours.trust(bundle(&[&home, &ending])).unwrap();
    let key = PrivateKey::generate(Algorithm::MlDsa44).unwrap();
    let leaf = forge(&leaf_params("pay", start()), &key, &ending);
    let stranger = Stranger::new(vec![leaf], &key, &clock);
    let accepted = |ours: &MeshTls| {
        let accepting = ours.accept(ClientAuth::Required).unwrap();
        let meeting = Meeting::new(stranger.client(), ServerConnection::new(accepting.config).unwrap());
        meeting.server_result.map_err(|error| Refusal::of(&error, &accepting.recorder))
    };
    assert_eq!(accepted(&ours), Ok(()));
    clock.advance(short);
    assert_eq!(accepted(&ours), Err(Refusal::UnknownIssuer));
}

#[test]
fn a_removed_anchor_counts_from_the_next_handshake() {
    let (old, new, clock) = (root(Algorithm::MlDsa44), root(Algorithm::MlDsa44), clock());
    let ours = strict(&new, "cart", &clock);
    ours.trust(bundle(&[&old, &new])).unwrap();
    let left_behind = strict(&old, "pay", &clock);
    left_behind.trust(bundle(&[&old, &new])).unwrap();
    let (meeting, _) = meet(&ours, &left_behind, vec![id("pay")]);
    assert_eq!(meeting.client_result, Ok(()));
    ours.trust(bundle(&[&new])).unwrap();
    let (meeting, notes) = meet(&ours, &left_behind, vec![id("pay")]);
    assert_eq!(Refusal::of(&meeting.client_result.unwrap_err(), &notes.client), Refusal::UnknownIssuer);
}

/// What a server makes of `bytes` as the first thing that a client says.
fn first_words(bytes: &[u8]) -> Refusal {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let accepting = strict(&root, "pay", &clock).accept(ClientAuth::Required).unwrap();
    let mut server = ServerConnection::new(accepting.config).unwrap();
    server.read_tls(&mut &bytes[..]).unwrap();
    let error = server.process_new_packets().unwrap_err();
    let wrapped = io::Error::new(io::ErrorKind::InvalidData, error.clone());
    let refusal = Refusal::of(&error, &accepting.recorder);
    assert_eq!(Refusal::of_io(&wrapped, &accepting.recorder), refusal);
    refusal
}

#[test]
fn what_is_not_tls_is_told_apart_from_tls_that_is_too_old() {
    assert_eq!(first_words(b"GET / HTTP/1.1\r\nHost: pay\r\n\r\n"), Refusal::NotTls);
    assert_eq!(first_words(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), Refusal::NotTls);
    assert_eq!(first_words(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Refusal::NotTls);
    assert_eq!(first_words(&tls12_hello()), Refusal::NoCommonVersion);
}

/// A ClientHello that offers TLS 1.2 and nothing newer.
fn tls12_hello() -> Vec<u8> {
    let mut extensions = Vec::new();
    extensions.extend_from_slice(&[0x00, 0x0a, 0, 4, 0, 2, 0, 0x17]); // supported_groups: secp256r1
    extensions.extend_from_slice(&[0x00, 0x0d, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ECDSA
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend_from_slice(&[0, extensions.len() as u8]);
    hello.extend_from_slice(&extensions);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend_from_slice(&hello);
    let mut record = vec![0x16, 3, 1, 0, message.len() as u8];
    record.extend_from_slice(&message);
    record
}

#[test]
fn a_broken_connection_is_no_refusal_of_the_peers() {
    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
    assert_eq!(Refusal::of_io(&broken, &Recorder::default()), Refusal::Io);
    let late = io::Error::from(io::ErrorKind::TimedOut);
    assert_eq!(Refusal::of_io(&late, &Recorder::default()), Refusal::TimedOut);
}

#[test]
fn every_reason_is_a_word_of_its_own() {
    let mut words: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.as_str()).collect();
    assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')), "{words:?}");
    let all = words.len();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all);
}

#[test]
fn what_peers_say_is_counted_under_few_words() {
    use rustls::AlertDescription as Alert;
    for (alert, word) in [
        (Alert::HandshakeFailure, "peer_alert_handshake_failure"),
        (Alert::BadCertificate, "peer_alert_bad_certificate"),
        (Alert::UnsupportedCertificate, "peer_alert_unsupported_certificate"),
        (Alert::CertificateExpired, "peer_alert_certificate_expired"),
        (Alert::CertificateUnknown, "peer_alert_certificate_unknown"),
        (Alert::CertificateRequired, "peer_alert_certificate_required"),
        (Alert::UnknownCA, "peer_alert_unknown_ca"),
        (Alert::AccessDenied, "peer_alert_access_denied"),
        (Alert::ProtocolVersion, "peer_alert_protocol_version"),
        (Alert::InternalError, "peer_alert_other"),
        (Alert::Unknown(77), "peer_alert_other"),
    ] {
        let refusal = Refusal::of(&Error::AlertReceived(alert), &Recorder::default());
        assert_eq!(refusal.as_str(), word);
    }
}

#[test]
fn what_the_mesh_certifies_for_servers_opens_no_door_of_the_mesh() {
    let (clock, root) = (clock(), root(Algorithm::MlDsa65));
    let ours = strict(&root, "web", &clock);
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let names = [Name::dns("pay.shop.svc.cluster.local").unwrap()];
    let der = root.issue_server(&names, key.public_key(), DAY, start()).unwrap();
    let stranger = Stranger::new(vec![der], &key, &clock);
    assert_eq!(as_server(&stranger, &ours).here, Refusal::BadIdentity);
    assert_eq!(as_client(&stranger, &ours).here, Refusal::BadIdentity);
}
