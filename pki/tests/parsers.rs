//! What comes from outside is read without ever panicking, and a bent certificate is never believed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

mod memory;

use std::sync::OnceLock;

use memory::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use trellis_pki::algorithm::Algorithm;
use trellis_pki::bundle::{Anchor, Bundle};
use trellis_pki::csr;
use trellis_pki::identity::Identity;
use trellis_pki::issue::{Issuer, LeafRequest};
use trellis_pki::key::PrivateKey;
use trellis_pki::leaf::Leaf;
use trellis_pki::spiffe::SpiffeId;

const SEED: [u8; 32] = [9; 32];

struct Samples {
    root: Issuer,
    leaf: Vec<u8>,
    request: Vec<u8>,
    pem: String,
    key: Vec<u8>,
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(Algorithm::MlDsa44, &SEED).unwrap()
}

fn samples() -> &'static Samples {
    static SAMPLES: OnceLock<Samples> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let (root, owner) = (root(Algorithm::MlDsa44), key());
        let request = LeafRequest {
            public_key: owner.public_key(),
            identity: &id("pay"),
            dns_names: &dns_names("pay"),
            now: start(),
            validity: DAY,
        };
        let leaf = root.issue(&request).unwrap().der;
        let pem = bundle(&[&root]).to_pem();
        let key = owner.pkcs8().unwrap().to_vec();
        Samples { root, leaf, request: csr::make(&owner).unwrap(), pem, key }
    })
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    FlipAt(usize, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), vec(any::<u8>(), 1..40)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<Index>(), 1..40usize).prop_map(|(at, count)| Damage::Remove(at, count)),
    ]
}

/// Most of a certificate is key and signature; damage of the first bytes reaches the structure.
fn near_the_front() -> impl Strategy<Value = Damage> {
    (0..400usize, 1..=255u8).prop_map(|(at, bits)| Damage::FlipAt(at, bits))
}

fn damaged(bytes: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damage {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Damage::FlipAt(at, bits) => {
                let at = at % bytes.len();
                bytes[at] ^= bits;
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = at.index(bytes.len());
                let end = (at + count).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_break_no_parser(bytes in vec(any::<u8>(), 0..600)) {
        let _ = Leaf::parse(&bytes);
        let _ = Anchor::parse(&bytes);
        let _ = csr::check(&bytes, &Algorithm::ALL);
        let _ = csr::names(&bytes);
        let _ = PrivateKey::from_pkcs8(&bytes);
        let _ = Bundle::from_pem(DOMAIN, &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_damaged_leaf_is_never_believed(
        damage in prop_oneof![vec(damage(), 1..4), vec(near_the_front(), 1..3)],
    ) {
        let samples = samples();
        let der = damaged(&samples.leaf, &damage);
        let _ = Leaf::parse(&der);
        if der != samples.leaf {
            let believed = Identity::new(key(), der, &bundle(&[&samples.root]), Algorithm::MlDsa44, start());
            prop_assert!(believed.is_err());
        }
    }

    #[test]
    fn a_damaged_request_is_never_accepted(
        damage in prop_oneof![vec(damage(), 1..4), vec(near_the_front(), 1..3)],
    ) {
        let samples = samples();
        let der = damaged(&samples.request, &damage);
        let _ = csr::names(&der);
        if der != samples.request {
            prop_assert!(csr::check(&der, &Algorithm::ALL).is_err());
        }
    }

    #[test]
    fn a_damaged_anchor_or_bundle_or_key_breaks_nothing(damage in vec(damage(), 1..4)) {
        let samples = samples();
        let _ = Anchor::parse(&damaged(&samples.root.anchor().der, &damage));
        let pem = damaged(samples.pem.as_bytes(), &damage);
        let _ = Bundle::from_pem(DOMAIN, &String::from_utf8_lossy(&pem));
        let _ = PrivateKey::from_pkcs8(&damaged(&samples.key, &damage));
    }

    #[test]
    fn whatever_parses_as_a_spiffe_id_is_written_the_same_way(text in "\\PC{0,80}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn a_spiffe_id_is_read_back_part_by_part(
        domain in "[a-z0-9._-]{1,40}",
        namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        account in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,9})?",
    ) {
        let id = SpiffeId::new(&domain, &namespace, &account).unwrap();
        prop_assert_eq!(id.trust_domain(), &domain);
        prop_assert_eq!(id.namespace(), &namespace);
        prop_assert_eq!(id.service_account(), &account);
        prop_assert_eq!(&id.to_string().parse::<SpiffeId>().unwrap(), &id);
    }
}

/// What stands around what is signed is no part of it: there, no bit may be other than it was.
#[test]
fn a_request_has_one_form() {
    let request = csr::make(&PrivateKey::generate(Algorithm::MlDsa65).unwrap()).unwrap();
    // Headers of four bytes: of the whole, and of what is signed. Behind that come the algorithm, and the
    // header of the signature with the number of bits that it does not use.
    let signed = 8 + usize::from(u16::from_be_bytes([request[6], request[7]]));
    for at in (0..4).chain(signed..signed + 13 + 5) {
        for bits in 1..=255u8 {
            let mut other = request.clone();
            other[at] ^= bits;
            assert!(csr::check(&other, &Algorithm::ALL).is_err(), "byte {at}, {bits:#x}");
        }
    }
    assert!(csr::check(&request, &Algorithm::ALL).is_ok());
}
