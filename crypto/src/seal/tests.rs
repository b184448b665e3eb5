//! The format, pinned: sealing with known random bytes gives the file that is kept in `tests/vectors`,
//! which `tests/seal.rs` opens and an implementation of others' reads as well.

use super::kem::x_wing_expanded;
use super::key::SEED_LEN;
use super::*;
use crate::algorithm::KemAlgorithm;
use crate::kem as kem_keys;

const KEY: &str = include_str!("../../tests/vectors/x-wing.key.pem");
const SEALED: &[u8] = include_bytes!("../../tests/vectors/sealed-v1.bin");
const KINDS: &[u8] = include_bytes!("../../tests/vectors/sealed-kinds.bin");
const KINDS_BY_GO: &[u8] = include_bytes!("../../tests/vectors/sealed-kinds-by-go.bin");

#[test]
fn what_is_sealed_is_byte_by_byte_what_was_sealed_before() {
    let first = OpeningKey::from_pem(KEY).unwrap().recipient().clone();
    let second = OpeningKey::from_seed(&[7; 32]).unwrap().recipient().clone();
    // 32 bytes for the content key and 64 for each recipient, in this order, counted from zero.
    let mut next = 0;
    let mut count = |bytes: &mut [u8]| {
        for byte in bytes {
            *byte = next;
            next += 1;
        }
        Ok(())
    };
    let plain: Vec<u8> = (0..CHUNK_LEN + 100).map(|at| (at % 251) as u8).collect();
    let mut sealed = Vec::new();
    let length = seal_with("pinned", &[first, second], &mut &*plain, &mut sealed, &mut count).unwrap();
    assert_eq!((length, next), (plain.len() as u64, 160));
    assert_eq!(sealed.len(), SEALED.len());
    assert!(sealed == SEALED, "the format has changed; a new form needs a new name");
}

#[test]
fn without_randomness_nothing_is_sealed() {
    let recipient = OpeningKey::from_seed(&[7; 32]).unwrap().recipient().clone();
    for calls in 0..2 {
        let mut left = calls;
        let mut dry = |_: &mut [u8]| {
            left -= 1;
            if left < 0 { Err(SealError::Library("give random bytes")) } else { Ok(()) }
        };
        let mut sealed = Vec::new();
        let error =
            seal_with("pinned", std::slice::from_ref(&recipient), &mut &b"x"[..], &mut sealed, &mut dry)
                .unwrap_err();
        assert!(matches!(error, SealError::Library("give random bytes")), "{error}");
        assert!(sealed.is_empty());
    }
}

#[test]
fn content_that_only_the_holder_of_the_key_could_spell_otherwise_is_refused() {
    let key = OpeningKey::from_seed(&[7; 32]).unwrap();
    let plain = vec![3; CHUNK_LEN];
    let sealed = seal_bytes("pinned", std::slice::from_ref(key.recipient()), &plain).unwrap();
    let mut source = sealed.as_slice();
    let header = Header::read(&mut source).unwrap();
    let keys = Keys::of(&header.content_key(&key).unwrap()).unwrap();
    // The same content, with an empty last chunk behind the full one.
    let mut other = header.bytes().to_vec();
    for (index, chunk) in [(0, plain.as_slice()), (1, b"")] {
        let mut chunk = chunk.to_vec();
        let tag = keys
            .payload
            .seal_in_place_separate_tag(
                chunks::nonce(index, index == 1),
                aws_lc_rs::aead::Aad::from(header.hash()),
                &mut chunk,
            )
            .unwrap();
        other.extend_from_slice(&chunk);
        other.extend_from_slice(tag.as_ref());
    }
    let error = open_bytes("pinned", &key, &other).unwrap_err();
    assert!(matches!(error, SealError::Changed(1)), "{error}");
}

/// One key of each algorithm, the last of them X-Wing's.
fn every_kind() -> Vec<OpeningKey> {
    let of = |algorithm: KemAlgorithm, length: u8| {
        let seed: Vec<u8> = (0..length).collect();
        OpeningKey::of(kem_keys::PrivateKey::from_seed(algorithm, &seed).unwrap())
    };
    vec![
        of(KemAlgorithm::MlKem512, 64),
        of(KemAlgorithm::MlKem768, 64),
        of(KemAlgorithm::MlKem1024, 64),
        of(KemAlgorithm::X25519MlKem768, 96),
        OpeningKey::from_pem(KEY).unwrap(),
    ]
}

fn lines(sealed: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(sealed);
    let to = text.lines().filter_map(|line| line.strip_prefix("to: "));
    to.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn keys_of_every_kind_open_what_is_sealed_to_all_of_them() {
    let keys = every_kind();
    let recipients: Vec<_> = keys.iter().map(|key| key.recipient().clone()).collect();
    let sealed = seal_bytes("kinds", &recipients, b"for all").unwrap();
    for key in &keys {
        assert_eq!(open_bytes("kinds", key, &sealed).unwrap().as_slice(), b"for all");
        let (private, public) = (key.pem().unwrap(), key.recipient().pem());
        assert_eq!(OpeningKey::from_pem(&private).unwrap().recipient(), key.recipient());
        assert_eq!(Recipient::from_pem(&public).unwrap(), *key.recipient());
    }
    let lines = lines(&sealed);
    let marks: Vec<_> = lines.iter().map(|words| words.get(3).map(String::as_str)).collect();
    assert_eq!(marks, [Some("ML-KEM-512"), Some("ML-KEM-768"), Some("ML-KEM-1024"), None, None]);
    for (words, recipient) in lines.iter().zip(&recipients) {
        assert_eq!(words[0], recipient.fingerprint());
    }
    // A line whose mark is another's, or nobody's, is no line.
    let header = sealed.windows(11).position(|window| window == b" ML-KEM-768").unwrap();
    for mark in [b" ML-KEM-512", b" ML-KEM-76 ", b" ml-kem-768"] {
        let mut changed = sealed.clone();
        changed[header..header + 11].copy_from_slice(mark);
        let error = open_bytes("kinds", &keys[0], &changed).unwrap_err();
        assert!(matches!(error, SealError::Header { line: 4, .. }), "{error}");
    }
}

/// What is sealed by hpke of RustCrypto is opened here, and the other way round.
#[test]
fn hpke_is_that_of_another_implementation() {
    use hpke::aead::AesGcm256;
    use hpke::kdf::HkdfSha256;
    use hpke::{Deserializable, Kem, OpModeR, single_shot_open};

    fn open<K: Kem>(private: &[u8], info: &[u8], words: &[String]) -> Vec<u8> {
        use base64::Engine;
        let bytes = |at: usize| base64::engine::general_purpose::STANDARD.decode(&words[at]).unwrap();
        let private = K::PrivateKey::from_bytes(private).ok().unwrap();
        let encapsulated = K::EncappedKey::from_bytes(&bytes(1)).ok().unwrap();
        single_shot_open::<AesGcm256, HkdfSha256, K>(
            &OpModeR::Base,
            &private,
            &encapsulated,
            info,
            &bytes(2),
            b"",
        )
        .unwrap()
    }
    // The hybrid key that X-Wing makes of a seed, as a key of X25519MLKEM768.
    let seed = [9; SEED_LEN];
    let expanded = x_wing_expanded(&seed);
    let hybrid = kem_keys::PrivateKey::from_seed(KemAlgorithm::X25519MlKem768, expanded.as_bytes()).unwrap();
    let mut recipients: Vec<_> = every_kind().iter().map(|key| key.recipient().clone()).collect();
    recipients[3] = Recipient::of(hybrid.public_key().clone());
    let mut drawn = Vec::new();
    let mut draw = |bytes: &mut [u8]| {
        bytes.fill(0x5a);
        drawn.push(bytes.len());
        Ok(())
    };
    let mut sealed = Vec::new();
    seal_with("other", &recipients, &mut &b"x"[..], &mut sealed, &mut draw).unwrap();
    assert_eq!(drawn, [32, 32, 32, 32, 64, 64]);

    let (info, lines) = (b"trellis.dev/sealed/v1\npurpose: other\n", lines(&sealed));
    let ml_kem: Vec<u8> = (0..64).collect();
    assert_eq!(open::<hpke::kem::MlKem768>(&ml_kem, info, &lines[1]), [0x5a; 32]);
    assert_eq!(open::<hpke::kem::MlKem1024>(&ml_kem, info, &lines[2]), [0x5a; 32]);
    assert_eq!(open::<hpke::kem::XWing>(&seed, info, &lines[3]), [0x5a; 32]);
    let x_wing: Vec<u8> = (0..32).collect();
    assert_eq!(open::<hpke::kem::XWing>(&x_wing, info, &lines[4]), [0x5a; 32]);
}

#[test]
fn what_is_sealed_to_every_kind_is_what_was_sealed_before_and_what_go_seals_opens() {
    let keys = every_kind();
    let recipients: Vec<_> = keys.iter().map(|key| key.recipient().clone()).collect();
    let mut next: u8 = 0;
    let mut count = |bytes: &mut [u8]| {
        bytes.fill_with(|| {
            next = next.wrapping_add(1);
            next
        });
        Ok(())
    };
    let mut sealed = Vec::new();
    seal_with("pinned", &recipients, &mut &b"for all"[..], &mut sealed, &mut count).unwrap();
    assert!(sealed == KINDS, "the format has changed; a new form needs a new name");
    for at in [1, 2, 4] {
        assert_eq!(open_bytes("pinned by Go", &keys[at], KINDS_BY_GO).unwrap().as_slice(), b"for all");
    }
}

#[test]
fn a_key_that_signs_is_no_recipient() {
    let key = crate::PrivateKey::generate(crate::Algorithm::parse("ML-DSA-44").unwrap().algorithm).unwrap();
    let error = OpeningKey::from_pem(&key.pem().unwrap()).err().unwrap().to_string();
    assert!(error.starts_with("a key of ML-DSA-44 signs"), "{error}");
    assert!(Recipient::from_pem(&key.public_key().pem()).unwrap_err().to_string().contains("signs"));
}
