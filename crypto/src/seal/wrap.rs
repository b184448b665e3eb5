//! One content key, sealed to one recipient by HPKE (RFC 9180): base mode, HKDF-SHA256, AES-256-GCM, and the KEM
//! that the recipient's key is of.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::hmac::{self, HMAC_SHA256};

use super::kem::SealingKem;
use super::{ContentKey, Draw, KEY_LEN, OpeningKey, Recipient, SealError};
use crate::random::Length;
use crate::secret::Secret;

pub(super) const WRAPPED_LEN: usize = KEY_LEN + 16;

const NONCE_LEN: usize = 12;
const VERSION: &[u8] = b"HPKE-v1";
const MODE_BASE: u8 = 0;
const KDF_HKDF_SHA256: [u8; 2] = [0, 1];
const AEAD_AES_256_GCM: [u8; 2] = [0, 2];

/// The encapsulated key, and the content key under what it encapsulates.
pub(super) fn wrap(
    content_key: &ContentKey,
    recipient: &Recipient,
    info: &[u8],
    draw: Draw<'_>,
) -> Result<(Vec<u8>, Vec<u8>), SealError> {
    let kem = recipient.kem();
    let mut randomness = Secret::new(vec![0; kem.randomness_len()]);
    draw(randomness.as_mut_bytes())?;
    let made = recipient.key().encapsulate_with(randomness.as_bytes());
    let made = made.map_err(|_| SealError::Library("encapsulate a key"))?;
    let secret = kem.secret(&made.shared_secret, &made.ciphertext, recipient.key());
    let sealing = Once::of(kem, &secret, info).ok_or(SealError::Library("take an AES key"))?;
    let wrapped = sealing.seal(content_key).ok_or(SealError::Library("seal a key"))?;
    Ok((made.ciphertext, wrapped))
}

/// `None` if it was not wrapped for this key, with this `info`, or was changed since.
pub(super) fn unwrap(
    key: &OpeningKey,
    info: &[u8],
    encapsulated: &[u8],
    wrapped: &[u8],
) -> Option<ContentKey> {
    let kem = key.recipient().kem();
    let secret = key.key().decapsulate(encapsulated).ok()?;
    let secret = kem.secret(&secret, encapsulated, key.recipient().key());
    Once::of(kem, &secret, info)?.open(wrapped)
}

/// What HPKE calls a context, for the only message in it.
struct Once {
    key: LessSafeKey,
    nonce: [u8; NONCE_LEN],
}

impl Once {
    /// The key schedule, without a pre-shared key.
    fn of(kem: SealingKem, secret: &Secret, info: &[u8]) -> Option<Self> {
        let suite = [b"HPKE".as_slice(), &kem.id(), &KDF_HKDF_SHA256, &AEAD_AES_256_GCM].concat();
        let hash = |label: &[u8], ikm: &[u8]| {
            let no_salt = hmac::Key::new(HMAC_SHA256, &[0; 32]);
            hmac::sign(&no_salt, &[VERSION, &suite, label, ikm].concat())
        };
        let (psk_id, info) = (hash(b"psk_id_hash", b""), hash(b"info_hash", info));
        let context = [&[MODE_BASE], psk_id.as_ref(), info.as_ref()].concat();
        let prk = Salt::new(HKDF_SHA256, secret.as_bytes()).extract(&[VERSION, &suite, b"secret"].concat());
        let key = expanded(&prk, &suite, b"key", &context, KEY_LEN)?;
        let nonce = expanded(&prk, &suite, b"base_nonce", &context, NONCE_LEN)?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_bytes()).ok()?);
        Some(Self { key, nonce: nonce.as_bytes().try_into().ok()? })
    }

    fn seal(self, content_key: &ContentKey) -> Option<Vec<u8>> {
        let mut wrapped = content_key.to_vec();
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut wrapped).ok()?;
        wrapped.extend_from_slice(tag.as_ref());
        Some(wrapped)
    }

    fn open(self, wrapped: &[u8]) -> Option<ContentKey> {
        let mut opened = Secret::copy_of(wrapped);
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let opened = self.key.open_in_place(nonce, Aad::empty(), opened.as_mut_bytes()).ok()?;
        let mut content_key = ContentKey::default();
        (opened.len() == KEY_LEN).then(|| content_key.copy_from_slice(opened))?;
        Some(content_key)
    }
}

fn expanded(prk: &Prk, suite: &[u8], label: &[u8], context: &[u8], length: usize) -> Option<Secret> {
    let digits = (length as u16).to_be_bytes();
    let mut out = Secret::new(vec![0; length]);
    let info = [&digits, VERSION, suite, label, context];
    prk.expand(&info, Length(length)).and_then(|material| material.fill(out.as_mut_bytes())).ok()?;
    Some(out)
}
