//! The keys of sealed files: X-Wing as its draft has it, in the encodings that others read.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::convert::Infallible;

use hpke::kem::XWing;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, Serializable};
use serde_json::Value;
use trellis_crypto::seal::{OpeningKey, OpeningKeyError, Recipient};

const PRIVATE: &str = include_str!("vectors/x-wing.key.pem");
const PUBLIC: &str = include_str!("vectors/x-wing.pub.pem");

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Gives the draft's `eseed`.
struct Fixed(Vec<u8>);

impl TryRng for Fixed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("an encapsulation takes bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("an encapsulation takes bytes")
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.split_off(wanted.len());
        wanted.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(())
    }
}

impl TryCryptoRng for Fixed {}

#[test]
fn x_wing_is_the_one_of_the_draft() {
    let all: Value = serde_json::from_str(include_str!("vectors/x-wing.json")).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    for one in all {
        let seed: [u8; 32] = bytes(&one["seed"]).try_into().unwrap();
        let (public, secret) = (bytes(&one["pk"]), bytes(&one["ss"]));
        // Ours, by way of its encoding.
        let pem = OpeningKey::from_seed(&seed).unwrap().recipient().pem();
        let der = trellis_crypto::pem::blocks(&pem).unwrap().remove(0).content;
        assert!(der.ends_with(&public) && der.len() == public.len() + 24);
        // The library's, below that.
        let private = <XWing as Kem>::PrivateKey::from_bytes(&seed).unwrap();
        let public = <XWing as Kem>::PublicKey::from_bytes(&public).unwrap();
        let mut random = Fixed(bytes(&one["eseed"]));
        let (made, encapsulated) = XWing::encap_with_rng(&public, None, &mut random).unwrap();
        assert_eq!(encapsulated.to_bytes().as_slice(), bytes(&one["ct"]));
        let found = XWing::decap(&private, None, &encapsulated).unwrap();
        assert_eq!((made.0.as_slice(), found.0.as_slice()), (secret.as_slice(), secret.as_slice()));
    }
    assert_eq!(XWing::KEM_ID, 0x647a);
}

#[test]
fn keys_are_encoded_as_the_draft_shows() {
    let seed: [u8; 32] = std::array::from_fn(|at| at as u8);
    let key = OpeningKey::from_seed(&seed).unwrap();
    assert_eq!(key.pem().unwrap().as_str(), PRIVATE);
    assert_eq!(key.recipient().pem(), PUBLIC);
    assert_eq!(Recipient::from_pem(PUBLIC).unwrap(), *key.recipient());
    assert_eq!(OpeningKey::from_pem(PRIVATE).unwrap().recipient(), key.recipient());
}

#[test]
fn every_key_made_is_another_one_and_is_read_back() {
    let keys = [(); 3].map(|()| OpeningKey::generate().unwrap());
    for key in &keys {
        assert_eq!(OpeningKey::from_pem(&key.pem().unwrap()).unwrap().recipient(), key.recipient());
        assert_eq!(Recipient::from_pem(&key.recipient().pem()).unwrap(), *key.recipient());
        let same = keys.iter().filter(|other| other.recipient() == key.recipient());
        assert_eq!(same.count(), 1);
        assert_eq!(key.recipient().fingerprint().len(), 64);
    }
}

#[test]
fn a_key_may_stand_among_other_text_but_not_beside_another() {
    let windows = PRIVATE.replace('\n', "\r\n");
    let both = format!("# to open backups\n\n{PUBLIC}{PRIVATE}kept by nobody");
    for text in [windows, both] {
        assert!(OpeningKey::from_pem(&text).is_ok(), "{text}");
    }
    let twice = format!("{PRIVATE}{PRIVATE}");
    assert!(matches!(OpeningKey::from_pem(&twice), Err(OpeningKeyError::Private(_))));
    let twice = format!("{PUBLIC}{PUBLIC}");
    assert!(matches!(Recipient::from_pem(&twice), Err(OpeningKeyError::Recipient(_))));
}

#[test]
fn what_is_no_key_is_refused() {
    let cases = [
        ("nothing", String::new()),
        ("the other key", PUBLIC.to_owned()),
        ("no end", PRIVATE.replace("-----END", "----END")),
        ("another label", PRIVATE.replace("PRIVATE", "EC PRIVATE")),
        ("a byte less", PRIVATE.replace("GhscHR4f", "GhscHR4=")),
        ("a byte more", PRIVATE.replace("GhscHR4f", "GhscHR4fAA==")),
        // The last arc of the OID: no key of X-Wing.
        ("another algorithm", PRIVATE.replace("yHoEIA", "yHsEIA")),
        ("no base64", PRIVATE.replace("MDQC", "MD?C")),
        ("two spellings", PRIVATE.replace("GhscHR4f", "Ghsc HR4f")),
        ("endless", format!("{}{PRIVATE}", "#\n".repeat(64 * 1024))),
    ];
    for (what, text) in cases {
        assert!(matches!(OpeningKey::from_pem(&text), Err(OpeningKeyError::Private(_))), "{what}");
    }
    let cases = [
        ("nothing", String::new()),
        ("the other key", PRIVATE.to_owned()),
        ("bytes less", PUBLIC.replace("+vfx+9B12rNE6dfRRmRygfu6ezxWyv1YM7epMOxCBufDptd2T+gdeg==\n", "")),
        ("a byte more", PUBLIC.replace("gdeg==", "gdegA=")),
        // Twelve bits above the modulus of ML-KEM.
        ("no number of the field", PUBLIC.replace("AMEAb1QJ", "AMEA////").replace("BMEAb1QJ", "BMEA////")),
    ];
    for (what, text) in cases {
        assert_ne!(text, PUBLIC, "{what}");
        assert!(matches!(Recipient::from_pem(&text), Err(OpeningKeyError::Recipient(_))), "{what}");
    }
}
