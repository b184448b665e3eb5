//! The content of a sealed file, chunk by chunk: each at its place, the last one known to be the last.

use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use super::SealError;

/// Bytes of content in a chunk.
pub const CHUNK_LEN: usize = 64 * 1024;
pub(super) const TAG_LEN: usize = 16;

/// Seals or opens the content of one file.
pub(super) struct Payload {
    key: LessSafeKey,
    header_hash: [u8; 32],
}

impl Payload {
    /// `key` must never have sealed anything: nonces are counted from zero.
    pub(super) fn new(key: LessSafeKey, header_hash: [u8; 32]) -> Self {
        Self { key, header_hash }
    }

    /// How many bytes were sealed.
    pub(super) fn seal(self, plain: &mut impl Read, sealed: &mut impl Write) -> Result<u64, SealError> {
        let mut pieces = Pieces::new(plain, CHUNK_LEN);
        let (mut index, mut total) = (0, 0);
        loop {
            let (chunk, last) = pieces.take().map_err(SealError::Reading)?;
            total += chunk.len() as u64;
            let tag = self
                .key
                .seal_in_place_separate_tag(nonce(index, last), Aad::from(self.header_hash), chunk)
                .map_err(|_| SealError::Library("seal a chunk"))?;
            sealed.write_all(chunk).map_err(SealError::Writing)?;
            sealed.write_all(tag.as_ref()).map_err(SealError::Writing)?;
            if last {
                return Ok(total);
            }
            index += 1;
        }
    }

    /// How many bytes were opened. What was written before an error is true, but not all.
    pub(super) fn open(self, sealed: &mut impl Read, plain: &mut impl Write) -> Result<u64, SealError> {
        let mut pieces = Pieces::new(sealed, CHUNK_LEN + TAG_LEN);
        let (mut index, mut total) = (0, 0);
        loop {
            let (piece, last) = pieces.take().map_err(SealError::Reading)?;
            let chunk = self.open_chunk(piece, index, last)?;
            total += chunk.len() as u64;
            plain.write_all(chunk).map_err(SealError::Writing)?;
            if last {
                plain.flush().map_err(SealError::Writing)?;
                return Ok(total);
            }
            index += 1;
        }
    }

    fn open_chunk<'a>(&self, piece: &'a mut [u8], index: u64, last: bool) -> Result<&'a [u8], SealError> {
        if piece.len() < TAG_LEN {
            return Err(SealError::Cut);
        }
        let whole = piece.len() == CHUNK_LEN + TAG_LEN;
        // Opening in place destroys what does not open, and a second look is needed to say why.
        let spare = (last && whole).then(|| piece.to_vec());
        let opened = self.key.open_in_place(nonce(index, last), Aad::from(self.header_hash), piece);
        match opened {
            // Sealing never makes an empty chunk behind others: one spelling for one content.
            Ok([]) if index > 0 => Err(SealError::Changed(index)),
            Ok(chunk) => Ok(chunk),
            Err(_) if !last => Err(SealError::Changed(index)),
            Err(_) => Err(match spare {
                None => SealError::CutOrChanged(index),
                Some(spare) if self.opens_as_inner(&spare, index) => SealError::Cut,
                Some(_) => SealError::Changed(index),
            }),
        }
    }

    /// Whether this chunk, with which the file ends, was sealed as one that others follow.
    fn opens_as_inner(&self, piece: &[u8], index: u64) -> bool {
        let mut piece = Zeroizing::new(piece.to_vec());
        self.key.open_in_place(nonce(index, false), Aad::from(self.header_hash), &mut piece).is_ok()
    }
}

pub(super) fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    if let Some((flag, count)) = bytes.split_last_mut() {
        *flag = u8::from(last);
        // Eleven bytes for a count of eight: 2^64 chunks are more than any disk holds.
        if let Some(count) = count.last_chunk_mut() {
            *count = index.to_be_bytes();
        }
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Cuts a stream into pieces of one size, of which only the last may be shorter, and knows the last one
/// because it has read one byte more.
struct Pieces<R> {
    source: R,
    size: usize,
    /// `size` bytes, and the one that is read ahead. It holds content in the clear.
    buffer: Zeroizing<Vec<u8>>,
    ahead: Option<u8>,
}

impl<R: Read> Pieces<R> {
    fn new(source: R, size: usize) -> Self {
        Self { source, size, buffer: Zeroizing::new(vec![0; size + 1]), ahead: None }
    }

    /// The next piece, and whether it is the last. Not to be called after that.
    fn take(&mut self) -> io::Result<(&mut [u8], bool)> {
        let mut filled = 0;
        if let (Some(byte), Some(first)) = (self.ahead.take(), self.buffer.first_mut()) {
            *first = byte;
            filled = 1;
        }
        while let Some(room) = self.buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.source.read(room) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.ahead = self.buffer.last().copied().filter(|_| filled > self.size);
        let last = self.ahead.is_none();
        let piece = self.buffer.get_mut(..filled.min(self.size)).unwrap_or_default();
        Ok((piece, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, and is interrupted before each.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let Some((byte, rest)) = self.0.split_first() else { return Ok(0) };
            room[0] = *byte;
            self.0 = rest;
            Ok(1)
        }
    }

    fn cut(stream: &[u8], size: usize) -> Vec<(Vec<u8>, bool)> {
        let mut pieces = Pieces::new(Slow(stream, false), size);
        let mut all = Vec::new();
        while all.last().is_none_or(|(_, last)| !last) {
            let (piece, last) = pieces.take().unwrap();
            all.push((piece.to_vec(), last));
        }
        all
    }

    #[test]
    fn only_the_last_piece_is_short_and_none_is_empty_but_an_only_one() {
        let piece = |text: &str, last| (text.as_bytes().to_vec(), last);
        assert_eq!(cut(b"", 3), [piece("", true)]);
        assert_eq!(cut(b"ab", 3), [piece("ab", true)]);
        assert_eq!(cut(b"abc", 3), [piece("abc", true)]);
        assert_eq!(cut(b"abcd", 3), [piece("abc", false), piece("d", true)]);
        assert_eq!(cut(b"abcdef", 3), [piece("abc", false), piece("def", true)]);
    }

    #[test]
    fn a_nonce_counts_in_eleven_bytes_and_tells_the_last_chunk() {
        assert_eq!(nonce(0, false).as_ref(), &[0; 12]);
        assert_eq!(nonce(0x0102, true).as_ref(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 1]);
        assert_eq!(nonce(u64::MAX, false).as_ref(), &[0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0]);
    }
}
