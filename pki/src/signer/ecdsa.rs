//! What tokens and certificates write differently for ECDSA P-256.

use aws_lc_rs::digest::{self, SHA256};

const FIELD: usize = 32;
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const OCTET_STRING: u8 = 0x04;

/// What a token signs: it does not hash itself.
pub fn digest(message: &[u8]) -> Vec<u8> {
    digest::digest(&SHA256, message).as_ref().to_vec()
}

/// r and s of 32 bytes each, as a certificate writes them.
pub fn der(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 2 * FIELD {
        return None;
    }
    let (r, s) = raw.split_at(FIELD);
    let content = [integer(r), integer(s)].concat();
    let length = u8::try_from(content.len()).ok()?;
    Some([&[SEQUENCE, length][..], &content].concat())
}

/// A point without the OCTET STRING that most tokens wrap it in.
pub fn point(bytes: &[u8]) -> &[u8] {
    match bytes {
        [OCTET_STRING, length, point @ ..] if usize::from(*length) == point.len() => point,
        bare => bare,
    }
}

/// The shortest form of a number that is not negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign = digits.first().is_some_and(|first| first & 0x80 != 0);
    let mut der = vec![INTEGER, (digits.len() + usize::from(sign)) as u8];
    der.extend(sign.then_some(0));
    der.extend_from_slice(digits);
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_their_shortest_form() {
        let mut raw = [0; 64];
        raw[31] = 1;
        raw[32] = 0x80;
        let der = der(&raw).unwrap();
        assert_eq!(&der[..7], [0x30, 3 + 35, 0x02, 1, 1, 0x02, 33]);
        assert_eq!(&der[7..9], [0, 0x80]);
        assert_eq!(super::der(&raw[1..]), None);
    }

    #[test]
    fn a_point_comes_wrapped_or_bare() {
        let bare: Vec<u8> = std::iter::once(4).chain([7; 64]).collect();
        let wrapped = [&[0x04, 65][..], &bare].concat();
        assert_eq!((point(&wrapped), point(&bare)), (&bare[..], &bare[..]));
    }
}
