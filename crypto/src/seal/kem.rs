//! The KEMs of recipients, as HPKE registers them (draft-ietf-hpke-pq). The hybrid is X-Wing
//! (draft-connolly-cfrg-xwing-kem): its public key and ciphertext are those of X25519MLKEM768, and its secret is a
//! hash of both secrets.

use aws_lc_rs::digest::{Context, SHA3_256};
use shake::Shake256;
use shake::digest::{ExtendableOutput, Update, XofReader};

use crate::algorithm::KemAlgorithm;
use crate::kem::PublicKey;
use crate::secret::Secret;

/// Bytes of X25519's keys, at the end of public key and ciphertext.
const X25519_LEN: usize = 32;
/// `\./` and `/^\`, which is a picture of a wing.
const X_WING_LABEL: [u8; 6] = [0x5c, 0x2e, 0x2f, 0x2f, 0x5e, 0x5c];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealingKem(KemAlgorithm);

impl SealingKem {
    pub(super) const ALL: [Self; 4] = [
        Self(KemAlgorithm::X25519MlKem768),
        Self(KemAlgorithm::MlKem512),
        Self(KemAlgorithm::MlKem768),
        Self(KemAlgorithm::MlKem1024),
    ];

    pub(super) fn of(algorithm: KemAlgorithm) -> Self {
        Self(algorithm)
    }

    /// What a line of the header has behind it to say so. X-Wing has nothing, since it was there first.
    pub(super) fn mark(self) -> Option<&'static str> {
        (self.0 != KemAlgorithm::X25519MlKem768).then(|| self.0.name())
    }

    pub(super) fn id(self) -> [u8; 2] {
        match self.0 {
            KemAlgorithm::MlKem512 => [0x00, 0x40],
            KemAlgorithm::MlKem768 => [0x00, 0x41],
            KemAlgorithm::MlKem1024 => [0x00, 0x42],
            KemAlgorithm::X25519MlKem768 => [0x64, 0x7a],
        }
    }

    pub(super) fn encapsulated_len(self) -> usize {
        self.0.ciphertext_len()
    }

    /// Bytes that an encapsulation takes.
    pub(super) fn randomness_len(self) -> usize {
        self.0.randomness_len()
    }

    /// The secret that HPKE goes on with.
    pub(super) fn secret(self, shared: &Secret, ciphertext: &[u8], public: &PublicKey) -> Secret {
        if self.0 != KemAlgorithm::X25519MlKem768 {
            return shared.clone();
        }
        let last = |bytes: &[u8]| bytes.last_chunk::<X25519_LEN>().copied().unwrap_or_default();
        let mut hash = Context::new(&SHA3_256);
        hash.update(shared.as_bytes());
        hash.update(&last(ciphertext));
        hash.update(&last(public.raw()));
        hash.update(&X_WING_LABEL);
        Secret::copy_of(hash.finish().as_ref())
    }
}

/// The seed of the X25519MLKEM768 key that an X-Wing key of 32 bytes stands for.
pub(super) fn x_wing_expanded(seed: &[u8]) -> Secret {
    let mut expanded = Secret::new(vec![0; KemAlgorithm::X25519MlKem768.seed_len()]);
    let mut hash = Shake256::default();
    hash.update(seed);
    hash.finalize_xof().read(expanded.as_mut_bytes());
    expanded
}
