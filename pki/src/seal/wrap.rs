//! One content key, sealed to one recipient by HPKE: base mode, X-Wing, HKDF-SHA256, AES-256-GCM.

use std::convert::Infallible;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use hpke::{single_shot_open, single_shot_seal_with_rng};
use zeroize::Zeroizing;

use super::{ContentKey, Draw, KEY_LEN, OpeningKey, Recipient, SealError};

/// Bytes of an X-Wing ciphertext.
pub(super) const ENCAPSULATED_LEN: usize = 1120;
pub(super) const WRAPPED_LEN: usize = KEY_LEN + 16;

/// Random bytes that an X-Wing encapsulation takes.
const RANDOMNESS_LEN: usize = 64;

/// The encapsulated key, and the content key under what it encapsulates.
pub(super) fn wrap(
    content_key: &ContentKey,
    recipient: &Recipient,
    info: &[u8],
    draw: Draw<'_>,
) -> Result<(Vec<u8>, Vec<u8>), SealError> {
    const FAILED: SealError = SealError::Library("encapsulate a key");
    let mut drawn = Drawn::fill(draw)?;
    let key = recipient.hpke().ok_or(FAILED)?;
    let (encapsulated, wrapped) = single_shot_seal_with_rng::<AesGcm256, HkdfSha256, XWing>(
        &OpModeS::Base,
        &key,
        info,
        content_key.as_slice(),
        b"",
        &mut drawn,
    )
    .map_err(|_| FAILED)?;
    if drawn.overdrawn {
        return Err(FAILED);
    }
    Ok((encapsulated.to_bytes().to_vec(), wrapped))
}

/// `None` if it was not wrapped for this key, with this `info`, or was changed since.
pub(super) fn unwrap(
    key: &OpeningKey,
    info: &[u8],
    encapsulated: &[u8],
    wrapped: &[u8],
) -> Option<ContentKey> {
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let opened = single_shot_open::<AesGcm256, HkdfSha256, XWing>(
        &OpModeR::Base,
        &key.hpke()?,
        &encapsulated,
        info,
        wrapped,
        b"",
    );
    let opened = Zeroizing::new(opened.ok()?);
    let mut content_key = ContentKey::default();
    (opened.len() == KEY_LEN).then(|| content_key.copy_from_slice(&opened))?;
    Some(content_key)
}

/// Randomness that was drawn beforehand: HPKE's trait for it cannot say that drawing failed, and the
/// alternative is to panic.
struct Drawn {
    bytes: Zeroizing<[u8; RANDOMNESS_LEN]>,
    used: usize,
    /// More was asked for than drawn. What came of it must not be used.
    overdrawn: bool,
}

impl Drawn {
    fn fill(draw: Draw<'_>) -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; RANDOMNESS_LEN]);
        draw(bytes.as_mut_slice())?;
        Ok(Self { bytes, used: 0, overdrawn: false })
    }
}

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), Infallible> {
        match self.bytes.get(self.used..self.used.saturating_add(wanted.len())) {
            Some(bytes) => {
                wanted.copy_from_slice(bytes);
                self.used += wanted.len();
            }
            None => self.overdrawn = true,
        }
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_is_given_once_and_what_goes_beyond_it_is_noticed() {
        let mut next = 0;
        let mut count = |bytes: &mut [u8]| {
            bytes.fill_with(|| {
                next += 1;
                next
            });
            Ok(())
        };
        let mut drawn = Drawn::fill(&mut count).unwrap();
        let mut half = [0; RANDOMNESS_LEN / 2];
        let Ok(()) = drawn.try_fill_bytes(&mut half);
        assert_eq!((half[0], half[31]), (1, 32));
        let Ok(()) = drawn.try_fill_bytes(&mut half);
        assert_eq!((half[0], half[31], drawn.overdrawn), (33, 64, false));
        let Ok(_) = drawn.try_next_u32();
        assert!(drawn.overdrawn);
    }
}
