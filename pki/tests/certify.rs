//! Certificates that people asked for, used as they use them: a server shows one, and a client verifies it by
//! its CA, with hybrid key exchange.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::Arc;
use std::time::SystemTime;

use memory::*;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::certify::{Key, KeyKind, Name, Parent, Role, Subject, Usage, Usages, Wanted};
use trellis_pki::clock::Clock;
use trellis_pki::posture::Class;
use trellis_pki::provider;
use trellis_pki::public::{Certificate, Front, KeyExchange, Negotiated};
use trellis_pki::x509_pem;

const HOST: &str = "web.shop.example";

#[derive(Debug)]
struct At(SystemTime);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(std::time::UNIX_EPOCH).ok()?))
    }
}

/// A root, an intermediate CA and a server below it, all with keys of one kind.
struct Chain {
    root: Vec<u8>,
    middle: Vec<u8>,
    leaf: Vec<u8>,
    key: Key,
}

fn wanted(name: &str, role: Role) -> Wanted {
    Wanted {
        subject: Subject { common_name: Some(name.to_owned()), ..Subject::default() },
        names: if role == Role::Leaf { vec![Name::dns(name).unwrap()] } else { Vec::new() },
        usages: match role {
            Role::Leaf => Usages::new([Usage::DigitalSignature, Usage::ServerAuth]),
            Role::Ca { .. } => Usages::default(),
        },
        role,
        life: DAY * 30,
    }
}

fn chain(kind: KeyKind) -> Chain {
    let ca = Role::Ca { path_length: Some(1) };
    let [root_key, middle_key, key] = [(); 3].map(|()| Key::generate(kind).unwrap());
    let root = wanted("Root", ca).self_signed(&root_key, start()).unwrap();
    let read = |der: &[u8], key: &Key| {
        Parent::read(x509_pem("CERTIFICATE", der).as_bytes(), key.pem().unwrap().as_bytes())
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let above = read(&root, &root_key);
    let middle =
        above.issue(&wanted("Middle", Role::Ca { path_length: None }), &middle_key, start()).unwrap();
    let leaf = read(&middle, &middle_key).issue(&wanted(HOST, Role::Leaf), &key, start()).unwrap();
    Chain { root, middle, leaf, key }
}

impl Chain {
    fn certificate(&self) -> Arc<Certificate> {
        let pem = x509_pem("CERTIFICATE", &self.leaf) + &x509_pem("CERTIFICATE", &self.middle);
        Arc::new(Certificate::read("shop/web", pem.as_bytes(), self.key.pem().unwrap().as_bytes()).unwrap())
    }
}

fn without_ml_dsa() -> Arc<CryptoProvider> {
    let base = provider::public(KeyExchange::Prefer);
    let all = base.signature_verification_algorithms;
    let mapping = all.mapping.iter().filter(|(scheme, _)| !format!("{scheme:?}").contains("ML_DSA"));
    let mapping = Vec::leak(mapping.copied().collect());
    let signature_verification_algorithms = WebPkiSupportedAlgorithms { all: all.all, mapping };
    Arc::new(CryptoProvider { signature_verification_algorithms, ..(*base).clone() })
}

/// What a client that believes `roots` negotiates, at a time.
fn visit(
    front: &Front,
    provider: Arc<CryptoProvider>,
    roots: &[&[u8]],
    name: &str,
    at: SystemTime,
) -> Result<Negotiated, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.to_vec())).unwrap();
    }
    let config = ClientConfig::builder_with_details(provider, Arc::new(At(at)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let clock: Arc<dyn Clock> = clock();
    let accepting = front.accept(&clock, true).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let meeting = Meeting::new(client, ServerConnection::new(accepting.config).unwrap());
    meeting.client_result.as_ref().map_err(|error| format!("{error:?}"))?;
    accepting.notes.negotiated(&meeting.server).ok_or_else(|| "no handshake".to_owned())
}

#[test]
fn servers_show_what_was_issued_and_clients_verify_it_by_the_root() {
    for kind in KeyKind::ALL {
        let chain = chain(kind);
        let front = Front::new(vec![chain.certificate()], KeyExchange::Require, None, &[]);
        let plain = || provider::public(KeyExchange::Prefer);
        let seen = visit(&front, plain(), &[&chain.root], HOST, start()).unwrap();
        let class = if kind.is_post_quantum() { Class::Pq } else { Class::Hybrid };
        assert_eq!((seen.tls, seen.group.as_str(), seen.class), ("1.3", "X25519MLKEM768", class), "{kind}");
        assert_eq!(seen.server_signature, Some(kind.name()));
        let refused = |roots: &[&[u8]], name, at, why: &str| {
            let said = visit(&front, plain(), roots, name, at).unwrap_err();
            assert!(said.contains(why), "{kind}: {said}");
        };
        refused(&[&chain.root], "api.shop.example", start(), "NotValidForName");
        refused(&[&chain.root], HOST, start() + DAY * 31, "Expired");
        refused(&[&chain.root], HOST, start() - DAY, "NotValidYet");
        // One of the same name, with another key.
        refused(&[&self::chain(kind).root], HOST, start(), "BadSignature");
    }
}

#[test]
fn of_a_hybrid_each_client_sees_what_it_can_verify() {
    let new = chain(KeyKind::Mesh(Algorithm::MlDsa65));
    for classical in [KeyKind::Mesh(Algorithm::EcdsaP256), KeyKind::EcdsaP384] {
        let old = chain(classical);
        let front = Front::new(vec![new.certificate(), old.certificate()], KeyExchange::Prefer, None, &[]);
        let roots = [new.root.as_slice(), old.root.as_slice()];
        let seen = visit(&front, provider::public(KeyExchange::Prefer), &roots, HOST, start()).unwrap();
        assert_eq!((seen.server_signature, seen.class), (Some("ML-DSA-65"), Class::Pq));
        let seen = visit(&front, without_ml_dsa(), &roots, HOST, start()).unwrap();
        assert_eq!((seen.server_signature, seen.class), (Some(classical.name()), Class::Hybrid));
    }
}

#[test]
fn a_ca_says_nothing_of_those_that_it_does_not_stand_above() {
    // The leaf's own key, in the place of a CA's: every verifier has to see that it may not issue.
    let chain = chain(KeyKind::Mesh(Algorithm::MlDsa44));
    let pem = x509_pem("CERTIFICATE", &chain.leaf) + &x509_pem("CERTIFICATE", &chain.middle);
    let posing =
        Parent::read(pem.as_bytes(), chain.key.pem().unwrap().as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let error = posing.issue(&wanted("bank.example", Role::Leaf), &chain.key, start()).unwrap_err();
    assert!(error.to_string().contains("is no CA"), "{error}");
}
