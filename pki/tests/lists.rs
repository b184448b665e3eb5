//! The algorithms on offer, pinned: an upgrade that adds, drops or reorders one fails here first.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use memory::*;
use rustls::crypto::CryptoProvider;
use rustls::server::Acceptor;
use rustls::{ClientConnection, SignatureScheme};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::policy::{Ladder, Policy};
use trellis_pki::provider;
use trellis_pki::tls::MeshTls;

fn groups(provider: &CryptoProvider) -> Vec<String> {
    provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect()
}

fn signatures(provider: &CryptoProvider) -> Vec<String> {
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    schemes.iter().map(|scheme| format!("{scheme:?}")).collect()
}

fn suites(provider: &CryptoProvider) -> Vec<String> {
    provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect()
}

#[test]
fn the_mesh_offers_exactly_these_groups() {
    let offered = |ladder| groups(&provider::mesh(policy(ladder, Ladder::Require)));
    assert_eq!(offered(Ladder::Require), ["X25519MLKEM768"]);
    assert_eq!(offered(Ladder::Prefer), ["X25519MLKEM768", "X25519", "secp256r1"]);
    assert_eq!(offered(Ladder::Classical), ["X25519", "secp256r1"]);
}

#[test]
fn the_mesh_verifies_exactly_these_signatures_post_quantum_first() {
    let offered = |ladder| signatures(&provider::mesh(policy(Ladder::Require, ladder)));
    assert_eq!(offered(Ladder::Require), ["ML_DSA_65", "ML_DSA_87", "ML_DSA_44"]);
    assert_eq!(offered(Ladder::Prefer), ["ML_DSA_65", "ML_DSA_87", "ML_DSA_44", "ECDSA_NISTP256_SHA256"]);
    assert_eq!(offered(Ladder::Classical), ["ECDSA_NISTP256_SHA256"]);
    for (ladder, count) in [(Ladder::Require, 3), (Ladder::Prefer, 4), (Ladder::Classical, 1)] {
        let provider = provider::mesh(policy(Ladder::Require, ladder));
        assert_eq!(provider.signature_verification_algorithms.all.len(), count, "in chains, {ladder}");
    }
}

#[test]
fn every_provider_offers_exactly_these_cipher_suites() {
    for provider in [provider::mesh(Policy::default()), provider::webhook(), provider::outside()] {
        assert_eq!(
            suites(&provider),
            ["TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256", "TLS13_AES_128_GCM_SHA256"]
        );
    }
}

#[test]
fn the_outside_is_offered_hybrid_first_and_what_it_may_need_behind_it() {
    for provider in [provider::webhook(), provider::outside()] {
        assert_eq!(groups(&provider), ["X25519MLKEM768", "X25519", "secp256r1", "secp384r1"]);
    }
}

#[test]
fn the_cryptographic_library_offers_exactly_what_it_did_when_this_was_written() {
    let all: Vec<_> =
        rustls::crypto::aws_lc_rs::ALL_KX_GROUPS.iter().map(|group| format!("{:?}", group.name())).collect();
    assert_eq!(
        all,
        ["X25519MLKEM768", "secp256r1MLKEM768", "X25519", "secp256r1", "secp384r1", "MLKEM768", "MLKEM1024"]
    );
    assert_eq!(
        signatures(&rustls::crypto::aws_lc_rs::default_provider()),
        [
            "ECDSA_NISTP384_SHA384",
            "ECDSA_NISTP256_SHA256",
            "ECDSA_NISTP521_SHA512",
            "ED25519",
            "RSA_PSS_SHA512",
            "RSA_PSS_SHA384",
            "RSA_PSS_SHA256",
            "RSA_PKCS1_SHA512",
            "RSA_PKCS1_SHA384",
            "RSA_PKCS1_SHA256",
            "ML_DSA_44",
            "ML_DSA_65",
            "ML_DSA_87"
        ]
    );
}

#[test]
fn a_client_hello_carries_our_lists_and_no_name() {
    let (root, clock) = (root(Algorithm::MlDsa44), clock());
    let connecting = strict(&root, "cart", &clock).connect(vec![id("pay")], true).unwrap();
    let mut client = ClientConnection::new(connecting.config, connecting.server_name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut bytes.as_slice()).unwrap();
    let accepted = acceptor.accept().ok().flatten().unwrap();
    let hello = accepted.client_hello();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.named_groups().unwrap(), [rustls::NamedGroup::X25519MLKEM768]);
    assert_eq!(
        hello.signature_schemes(),
        [SignatureScheme::ML_DSA_65, SignatureScheme::ML_DSA_87, SignatureScheme::ML_DSA_44]
    );
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"h2"]);
}

#[test]
fn configurations_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<MeshTls>();
    shared::<trellis_pki::record::Recorder>();
    shared::<trellis_pki::issue::Issuer>();
}

#[test]
fn the_public_is_offered_tls_1_2_behind_1_3_and_hybrid_groups_first() {
    use trellis_pki::public::KeyExchange;
    let offered = |key_exchange| groups(&provider::public(key_exchange));
    assert_eq!(offered(KeyExchange::Require), ["X25519MLKEM768"]);
    assert_eq!(offered(KeyExchange::Prefer), ["X25519MLKEM768", "X25519", "secp256r1", "secp384r1"]);
    assert_eq!(offered(KeyExchange::Classical), ["X25519", "secp256r1", "secp384r1"]);
    assert_eq!(
        suites(&provider::public(KeyExchange::Prefer)),
        [
            "TLS13_AES_256_GCM_SHA384",
            "TLS13_CHACHA20_POLY1305_SHA256",
            "TLS13_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        ]
    );
}
