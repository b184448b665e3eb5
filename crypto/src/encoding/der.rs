//! As much of DER as keys need: definite lengths, each in its shortest spelling.

use zeroize::Zeroizing;

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// What is left to read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(der: &'a [u8]) -> Self {
        Self(der)
    }

    /// The content of the next element, if it has that tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length)?;
        (*found == tag).then_some(())?;
        self.0 = rest;
        Some(content)
    }

    /// The content of the next element, read as a sequence of others.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.take(tag).map(Self)
    }

    pub(super) fn at_end(&self) -> bool {
        self.0.is_empty()
    }
}

fn length(der: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = der.split_first()?;
    match first {
        ..=0x7f => Some((usize::from(*first), rest)),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
            let shortest = digits.first() != Some(&0) && length >= 0x80;
            shortest.then_some((length, rest))
        }
        _ => None,
    }
}

/// An element. It is allocated once, so that the only copy is the one that is wiped.
pub(super) fn element(tag: u8, content: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let total: usize = content.iter().map(|part| part.len()).sum();
    let length = total.to_be_bytes();
    let digits = length.get(length.iter().take_while(|digit| **digit == 0).count()..).unwrap_or_default();
    let mut der = Zeroizing::new(Vec::with_capacity(2 + digits.len() + total));
    der.push(tag);
    match digits {
        [] => der.push(0),
        [short @ 0..0x80] => der.push(*short),
        long => {
            der.push(0x80 | long.len() as u8);
            der.extend_from_slice(long);
        }
    }
    content.iter().for_each(|part| der.extend_from_slice(part));
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_every_length_are_read_back_in_their_only_spelling() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let content = vec![7; length];
            let der = element(OCTET_STRING, &[&content]);
            let mut reader = Reader::new(&der);
            assert_eq!(reader.take(OCTET_STRING), Some(content.as_slice()));
            assert!(reader.at_end());
            assert!(Reader::new(&der).take(BIT_STRING).is_none());
            assert!(Reader::new(&der[..der.len() - 1]).take(OCTET_STRING).is_none());
        }
        for wrong in [
            &[4, 0x81, 1, 7][..],
            &[4, 0x82, 0, 0x80],
            &[4, 0x80, 0, 0],
            &[4, 0x84, 0, 0, 0, 1, 7],
            &[4],
            &[],
        ] {
            assert!(Reader::new(wrong).take(OCTET_STRING).is_none(), "{wrong:?}");
        }
    }
}
