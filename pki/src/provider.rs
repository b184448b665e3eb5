//! The lists of algorithms that Trellis offers, each pinned by a test so that an upgrade which changes
//! one is seen.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms};
use rustls_pki_types::SignatureVerificationAlgorithm;
use rustls_post_quantum::X25519MLKEM768;
use webpki::aws_lc_rs as verifying;

use crate::policy::{Ladder, Policy};
use crate::public::KeyExchange;

type Mapping = (SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm]);

const ML_DSA_65: Mapping = (SignatureScheme::ML_DSA_65, &[verifying::ML_DSA_65]);
const ML_DSA_87: Mapping = (SignatureScheme::ML_DSA_87, &[verifying::ML_DSA_87]);
const ML_DSA_44: Mapping = (SignatureScheme::ML_DSA_44, &[verifying::ML_DSA_44]);
const ECDSA_P256: Mapping = (SignatureScheme::ECDSA_NISTP256_SHA256, &[verifying::ECDSA_P256_SHA256]);

// Peers with two certificates answer with the first that we list: ML-DSA goes first.
static POST_QUANTUM: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[verifying::ML_DSA_65, verifying::ML_DSA_87, verifying::ML_DSA_44],
    mapping: &[ML_DSA_65, ML_DSA_87, ML_DSA_44],
};
static POST_QUANTUM_FIRST: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[verifying::ML_DSA_65, verifying::ML_DSA_87, verifying::ML_DSA_44, verifying::ECDSA_P256_SHA256],
    mapping: &[ML_DSA_65, ML_DSA_87, ML_DSA_44, ECDSA_P256],
};
static CLASSICAL: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: &[verifying::ECDSA_P256_SHA256], mapping: &[ECDSA_P256] };

/// What two parts of the mesh offer each other under `policy`.
pub fn mesh(policy: Policy) -> Arc<CryptoProvider> {
    let groups: &[&'static dyn SupportedKxGroup] = match policy.key_exchange {
        Ladder::Require => &[X25519MLKEM768],
        Ladder::Prefer => &[X25519MLKEM768, X25519, SECP256R1],
        Ladder::Classical => &[X25519, SECP256R1],
    };
    Arc::new(CryptoProvider {
        kx_groups: groups.to_vec(),
        signature_verification_algorithms: signatures(policy.signatures),
        ..base()
    })
}

/// What the admission webhook offers to the API server, which cannot verify ML-DSA: hybrid key exchange
/// first, a classical one behind it, and certificates of ECDSA.
pub fn webhook() -> Arc<CryptoProvider> {
    outside()
}

/// What we offer to a server that is not ours, such as the Kubernetes API: hybrid key exchange first,
/// every classical group and signature that it may need behind it.
pub fn outside() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1], ..base() })
}

/// What is offered to clients of a gateway and to applications that speak TLS themselves: TLS 1.2 behind 1.3,
/// and certificates of whatever the web uses.
pub fn public(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    let groups: &[&'static dyn SupportedKxGroup] = match key_exchange {
        KeyExchange::Require => &[X25519MLKEM768],
        KeyExchange::Prefer => &[X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        KeyExchange::Classical => &[X25519, SECP256R1, SECP384R1],
    };
    let mut cipher_suites = base().cipher_suites;
    cipher_suites.extend([
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ]);
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), cipher_suites, ..base() })
}

pub(crate) fn signatures(ladder: Ladder) -> WebPkiSupportedAlgorithms {
    match ladder {
        Ladder::Require => POST_QUANTUM,
        Ladder::Prefer => POST_QUANTUM_FIRST,
        Ladder::Classical => CLASSICAL,
    }
}

fn base() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_128_GCM_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}
