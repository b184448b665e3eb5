//! The format, pinned: sealing with known random bytes gives the file that is kept in `tests/vectors`,
//! which `tests/seal.rs` opens and an implementation of others' reads as well.

use super::*;

const KEY: &str = include_str!("../../tests/vectors/x-wing.key.pem");
const SEALED: &[u8] = include_bytes!("../../tests/vectors/sealed-v1.bin");

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
