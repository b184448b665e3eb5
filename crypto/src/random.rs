//! Random bytes: the operating system's. What else is given is mixed in, and never in their place.

use aws_lc_rs::hkdf::{HKDF_SHA512, KeyType, Salt};

use crate::key::KeyError;
use crate::secret::Secret;

/// `length` random bytes.
pub fn bytes(length: usize) -> Result<Secret, KeyError> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Library("give random bytes"))?;
    Ok(Secret::new(bytes))
}

/// `length` random bytes into which `seed` is mixed: they are the operating system's, each combined with one of
/// a stream that HKDF-SHA-512 makes of `seed` and of further random bytes. So they are as good as the better of
/// both, and nobody who knows `seed` can tell them.
pub fn mixed_with(seed: &[u8], length: usize) -> Result<Secret, KeyError> {
    const FAILED: KeyError = KeyError::Library("mix random bytes");
    const SALT_LEN: usize = 64;
    const INFO: &[u8] = b"trellis.dev/random/v1";
    /// What HKDF-SHA-512 gives of one key.
    const BLOCK: usize = 255 * 64;

    let mut mixed = bytes(length)?;
    let salt = bytes(SALT_LEN)?;
    let key = Salt::new(HKDF_SHA512, salt.as_bytes()).extract(seed);
    for (index, block) in mixed.as_mut_bytes().chunks_mut(BLOCK).enumerate() {
        let index = (index as u64).to_be_bytes();
        let mut stream = Secret::new(vec![0; block.len()]);
        key.expand(&[INFO, &index], Length(block.len()))
            .and_then(|stream_of| stream_of.fill(stream.as_mut_bytes()))
            .map_err(|_| FAILED)?;
        block.iter_mut().zip(stream.as_bytes()).for_each(|(byte, other)| *byte ^= other);
    }
    Ok(mixed)
}

pub(crate) struct Length(pub(crate) usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_never_gives_the_same_bytes() {
        for length in [0, 1, 32, 16_320, 16_321, 65_536] {
            let (first, second) =
                (mixed_with(b"seed", length).unwrap(), mixed_with(b"seed", length).unwrap());
            assert_eq!((first.as_bytes().len(), second.as_bytes().len()), (length, length));
            assert!(length < 32 || first != second);
        }
        assert!(bytes(32).unwrap() != bytes(32).unwrap());
    }

    #[test]
    fn a_long_result_has_no_block_twice() {
        let long = mixed_with(b"seed", 3 * 16_320).unwrap();
        let blocks: Vec<_> = long.as_bytes().chunks(16_320).collect();
        assert!(blocks[0] != blocks[1] && blocks[1] != blocks[2]);
        let ones: u32 = long.as_bytes().iter().map(|byte| byte.count_ones()).sum();
        let half = 3 * 16_320 * 4;
        assert!(ones.abs_diff(half) < half / 50, "{ones} of {half} bits");
    }
}
