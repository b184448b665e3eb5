//! TLS with the outside: which certificate a client gets to see, whom a listener lets in, and how an
//! application that speaks TLS itself is known.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;

use memory::*;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ML_DSA_65, SanType, SignatureAlgorithm,
};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use trellis_pki::clock::Clock;
use trellis_pki::posture::Class;
use trellis_pki::provider;
use trellis_pki::public::{Call, Certificate, Clients, Front, KeyExchange, Name, Notes, PublicError};

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[derive(Debug)]
struct At;

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(start().duration_since(std::time::UNIX_EPOCH).ok()?))
    }
}

/// An authority of the web, and what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, PEM.
struct Issued {
    chain: String,
    key: String,
}

fn dated(mut params: CertificateParams) -> CertificateParams {
    (params.not_before, params.not_after) = ((start() - DAY).into(), (start() + DAY).into());
    params
}

impl Authority {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        let mut params = dated(CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, algorithm: &'static SignatureAlgorithm, names: &[&str]) -> Issued {
        let mut params = dated(CertificateParams::default());
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Issued { chain, key: key.serialize_pem() }
    }
}

impl Issued {
    fn read(&self, source: &str) -> Arc<Certificate> {
        Arc::new(Certificate::read(source, self.chain.as_bytes(), self.key.as_bytes()).unwrap())
    }
}

fn groups(all: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    let base = provider::public(KeyExchange::Prefer);
    Arc::new(CryptoProvider { kx_groups: all.to_vec(), ..(*base).clone() })
}

/// A client of the web that believes `authorities`, and what it has to show.
fn client(
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    authorities: &[&Authority],
    shows: Option<&Issued>,
) -> (ClientConfig, bool) {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_details(provider, Arc::new(At))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match shows {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    (config, versions.len() > 1)
}

fn meet(front: &Front, (config, modern): (ClientConfig, bool), name: &str) -> (Meeting, Notes) {
    let clock: Arc<dyn Clock> = clock();
    let accepting = front.accept(&clock, modern).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let server = ServerConnection::new(accepting.config).unwrap();
    (Meeting::new(client, server), accepting.notes)
}

fn shown(meeting: &Meeting) -> CertificateDer<'static> {
    meeting.client.peer_certificates().unwrap()[0].clone()
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()
}

fn plain() -> Arc<CryptoProvider> {
    provider::public(KeyExchange::Prefer)
}

/// As OpenSSL 3.0 and most of the web today: no ML-DSA.
fn without_ml_dsa() -> Arc<CryptoProvider> {
    let base = provider::public(KeyExchange::Prefer);
    let all = base.signature_verification_algorithms;
    let classical: Vec<_> =
        all.mapping.iter().filter(|(scheme, _)| !format!("{scheme:?}").contains("ML_DSA")).copied().collect();
    let signature_verification_algorithms =
        rustls::crypto::WebPkiSupportedAlgorithms { all: all.all, mapping: Vec::leak(classical) };
    Arc::new(CryptoProvider { signature_verification_algorithms, ..(*base).clone() })
}

#[test]
fn a_client_sees_the_certificate_that_names_its_host_most_precisely() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let other = authority.issue(&PKCS_ECDSA_P256_SHA256, &["other.example"]);
    let wild = authority.issue(&PKCS_ECDSA_P256_SHA256, &["*.shop.example"]);
    let exact = authority.issue(&PKCS_ECDSA_P384_SHA384, &["web.shop.example"]);
    let all = vec![other.read("a/other"), wild.read("a/wild"), exact.read("a/exact")];
    let front = Front::new(all, KeyExchange::Prefer, None, &[b"h2"]);
    for (name, expected) in [
        ("web.shop.example", &exact),
        ("WEB.shop.example", &exact),
        ("api.shop.example", &wild),
        ("other.example", &other),
        // What nobody names gets the first, and finds that it is another's.
        ("a.b.shop.example", &other),
    ] {
        let (meeting, notes) = meet(&front, client(plain(), BOTH, &[&authority], None), name);
        assert_eq!(meeting.client_result.is_ok(), !std::ptr::eq(expected, &other) || name == "other.example");
        if meeting.client_result.is_ok() {
            assert_eq!(shown(&meeting), der(expected), "{name}");
            let negotiated = notes.negotiated(&meeting.server).unwrap();
            assert_eq!((negotiated.tls, negotiated.class), ("1.3", Class::Hybrid));
        }
    }
}

#[test]
fn ml_dsa_is_shown_to_those_who_can_verify_it_and_nobody_else_is_lost() {
    let [classical, quantum] = [&PKCS_ECDSA_P256_SHA256, &PKCS_ML_DSA_65].map(Authority::new);
    let old = classical.issue(&PKCS_ECDSA_P256_SHA256, &["web.example"]);
    let new = quantum.issue(&PKCS_ML_DSA_65, &["web.example"]);
    let front = Front::new(vec![old.read("a/old"), new.read("a/new")], KeyExchange::Prefer, None, &[]);
    let both = [&classical, &quantum];
    let (meeting, notes) = meet(&front, client(plain(), BOTH, &both, None), "web.example");
    assert_eq!(shown(&meeting), der(&new));
    let negotiated = notes.negotiated(&meeting.server).unwrap();
    assert_eq!((negotiated.class, negotiated.server_signature), (Class::Pq, Some("ML-DSA-65")));
    let (meeting, notes) = meet(&front, client(without_ml_dsa(), BOTH, &both, None), "web.example");
    assert_eq!(shown(&meeting), der(&old));
    assert_eq!(notes.negotiated(&meeting.server).unwrap().class, Class::Hybrid);
    // TLS 1.2 has no ML-DSA, and such clients are served as well.
    let (meeting, notes) = meet(&front, client(plain(), TLS12, &both, None), "web.example");
    assert_eq!(shown(&meeting), der(&old));
    let negotiated = notes.negotiated(&meeting.server).unwrap();
    assert_eq!((negotiated.tls, negotiated.class), ("1.2", Class::Classical));
}

#[test]
fn a_listener_that_requires_hybrid_key_exchange_serves_nobody_without() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let issued = authority.issue(&PKCS_ECDSA_P256_SHA256, &["web.example"]);
    let x25519 = || groups(&[rustls::crypto::aws_lc_rs::kx_group::X25519]);
    let front = |kx| Front::new(vec![issued.read("a/web")], kx, None, &[]);
    let config = |provider, versions| client(provider, versions, &[&authority], None);
    let (meeting, notes) = meet(&front(KeyExchange::Require), config(x25519(), BOTH), "web.example");
    assert!(meeting.server_result.is_err() && notes.negotiated(&meeting.server).is_none());
    let (meeting, _) = meet(&front(KeyExchange::Require), config(plain(), TLS12), "web.example");
    assert!(meeting.server_result.is_err());
    let (meeting, notes) = meet(&front(KeyExchange::Require), config(plain(), BOTH), "web.example");
    let negotiated = notes.negotiated(&meeting.server).unwrap();
    assert_eq!((negotiated.group.as_str(), negotiated.class), ("X25519MLKEM768", Class::Hybrid));
    // One that prefers it serves the others, and knows that they lack it.
    let (meeting, notes) = meet(&front(KeyExchange::Prefer), config(x25519(), BOTH), "web.example");
    assert_eq!(notes.negotiated(&meeting.server).unwrap().class, Class::Classical);
    assert_eq!(notes.offered_hybrid(), Some(false));
    let (meeting, notes) = meet(&front(KeyExchange::Classical), config(plain(), BOTH), "web.example");
    assert_eq!(notes.negotiated(&meeting.server).unwrap().class, Class::Classical);
}

#[test]
fn clients_prove_who_they_are_where_they_must_and_may_where_they_need_not() {
    let [authority, stranger] = [(); 2].map(|()| Authority::new(&PKCS_ECDSA_P256_SHA256));
    let issued = authority.issue(&PKCS_ECDSA_P256_SHA256, &["web.example"]);
    let good = authority.issue(&PKCS_ECDSA_P256_SHA256, &["alice.example"]);
    let bad = stranger.issue(&PKCS_ECDSA_P256_SHA256, &["alice.example"]);
    for versions in [BOTH, TLS12] {
        for (optional, shows, served, name) in [
            (false, Some(&good), true, Some("alice.example")),
            (false, Some(&bad), false, None),
            (false, None, false, None),
            (true, Some(&good), true, Some("alice.example")),
            (true, Some(&bad), true, None),
            (true, None, true, None),
        ] {
            let clients = Clients::new(std::slice::from_ref(&authority.pem), optional).unwrap();
            let front = Front::new(vec![issued.read("a/web")], KeyExchange::Prefer, Some(clients), &[]);
            let config = client(plain(), versions, &[&authority], shows);
            let (meeting, notes) = meet(&front, config, "web.example");
            assert_eq!(meeting.server_result.is_ok(), served, "optional {optional}, name {name:?}");
            assert_eq!(notes.client(), name);
        }
    }
    assert_eq!(Clients::new(&["nonsense".to_owned()], true).unwrap_err(), PublicError::NoAuthority);
}

#[test]
fn what_is_no_certificate_is_named_and_a_key_of_another_is_refused() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let [one, other] = [(); 2].map(|()| authority.issue(&PKCS_ECDSA_P256_SHA256, &["web.example"]));
    let read =
        |chain: &str, key: &str| Certificate::read("a/b", chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(read("", &one.key), PublicError::Chain);
    assert_eq!(read(&one.chain, "-----BEGIN"), PublicError::Key);
    assert!(matches!(read(&one.chain, &other.key), PublicError::Unusable(_)));
    let certificate = one.read("a/b");
    assert!(certificate.is_of("a/b", one.chain.as_bytes(), one.key.as_bytes()));
    assert!(!certificate.is_of("a/b", other.chain.as_bytes(), other.key.as_bytes()));
    assert!(!format!("{certificate:?}").contains("PRIVATE"));
}

#[test]
fn an_application_is_known_by_its_authority_and_by_one_of_its_names() {
    let [authority, stranger] = [(); 2].map(|()| Authority::new(&PKCS_ECDSA_P256_SHA256));
    const ID: &str = "spiffe://other.example/ns/a/sa/b";
    let issued = authority.issue(&PKCS_ECDSA_P256_SHA256, &["web.example", ID]);
    let front = Front::new(vec![issued.read("a/web")], KeyExchange::Prefer, None, &[b"h2", b"http/1.1"]);
    let host = |name: &str| Name::Host(name.into());
    for (trusted, hostname, names, good) in [
        (&authority, "web.example", vec![], true),
        (&stranger, "web.example", vec![], false),
        (&authority, "else.example", vec![], false),
        // With alternatives, the hostname is for SNI alone.
        (&authority, "else.example", vec![host("web.example")], true),
        (&authority, "web.example", vec![host("else.example")], false),
        (&authority, "else.example", vec![host("no.example"), Name::Uri(ID.into())], true),
        (&authority, "web.example", vec![Name::Uri(format!("{ID}c"))], false),
    ] {
        let call = Call::new(hostname, [trusted.pem.as_bytes()], &names, clock()).unwrap();
        let config = call.config(&[b"http/1.1"], None).unwrap();
        let accepting = front.accept(&(clock() as Arc<dyn Clock>), true).unwrap();
        let meeting = Meeting::new(
            ClientConnection::new(config, call.server_name.clone()).unwrap(),
            ServerConnection::new(accepting.config).unwrap(),
        );
        assert_eq!(meeting.client_result.is_ok(), good, "{hostname} {names:?}");
        if good {
            assert_eq!(meeting.server.server_name(), Some(hostname));
            assert_eq!(meeting.server.alpn_protocol(), Some(&b"http/1.1"[..]));
            let negotiated = Call::negotiated(&meeting.client).unwrap();
            assert_eq!((negotiated.class, negotiated.server_signature), (Class::Hybrid, Some("ECDSA-P256")));
        }
    }
    let unnamed = Call::new("not a name", [authority.pem.as_bytes()], &[], clock());
    assert!(matches!(unnamed, Err(PublicError::Hostname(_))));
}
