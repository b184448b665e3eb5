//! PEM (RFC 7468), read and written without leaving a copy of a private key behind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// More text than this holds no key. The longest, of ML-DSA-87 in both forms, has 7 kB.
pub const MAX_TEXT: usize = 64 * 1024;

/// What stands between two lines that bear the same label.
pub struct Block {
    pub label: String,
    pub content: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error(
        "the text has {found} bytes, and can have at most {most}: give the file that holds the key alone"
    )]
    TooLong { found: usize, most: usize },
    #[error("the PEM block {0:?} has no end")]
    Endless(String),
    #[error("the PEM block {0:?} holds something else than base64")]
    Content(String),
}

/// All blocks of a text that holds a key; what is around them says nothing.
pub fn blocks(text: &str) -> Result<Vec<Block>, PemError> {
    blocks_within(text, MAX_TEXT)
}

/// All blocks of a text of at most so many bytes.
pub fn blocks_within(text: &str, most: usize) -> Result<Vec<Block>, PemError> {
    if text.len() > most {
        return Err(PemError::TooLong { found: text.len(), most });
    }
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|line| line.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let mut body = Vec::new();
        loop {
            match lines.next() {
                None => return Err(PemError::Endless(shown(label))),
                Some(line) if line == end => break,
                Some(line) => body.push(line.as_bytes()),
            }
        }
        let base64 = Zeroizing::new(body.concat());
        let mut content = Zeroizing::new(vec![0; base64.len()]);
        let length = STANDARD
            .decode_slice(base64.as_slice(), &mut content)
            .map_err(|_| PemError::Content(shown(label)))?;
        content.truncate(length);
        blocks.push(Block { label: label.to_owned(), content });
    }
    Ok(blocks)
}

fn shown(label: &str) -> String {
    label.chars().take(64).collect()
}

/// PEM of `der`. The text is allocated once, so that a caller who wipes it has wiped the only copy.
pub fn encode(label: &str, der: &[u8]) -> String {
    /// One line of 64 characters.
    const LINE: usize = 48;
    let lines = der.len().div_ceil(LINE);
    let frame = 2 * ("-----BEGIN -----\n".len() + label.len());
    let mut text = String::with_capacity(frame + der.len().div_ceil(3) * 4 + lines);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(LINE) {
        for three in line.chunks(3) {
            push_base64(&mut text, three);
        }
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Appends one to three bytes as four characters.
fn push_base64(text: &mut String, bytes: &[u8]) {
    let at = |index: usize| u32::from(bytes.get(index).copied().unwrap_or_default());
    let bits = at(0) << 16 | at(1) << 8 | at(2);
    for position in 0..4 {
        let six = (bits >> (18 - 6 * position)) as u8 & 0x3f;
        text.push(match (position > bytes.len(), six) {
            (true, _) => '=',
            (_, 0..26) => char::from(b'A' + six),
            (_, 26..52) => char::from(b'a' + six - 26),
            (_, 52..62) => char::from(b'0' + six - 52),
            (_, 62) => '+',
            _ => '/',
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_read_back_and_never_reallocated() {
        let bytes: Vec<u8> = (0..200u8).map(|byte| byte.wrapping_mul(131)).collect();
        for length in 0..bytes.len() {
            let text = encode("A LABEL", &bytes[..length]);
            let read = blocks(&text).unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!((read[0].label.as_str(), read[0].content.as_slice()), ("A LABEL", &bytes[..length]));
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert!(text.len() <= text.capacity() && text.capacity() < text.len() + 8, "{text}");
        }
    }

    #[test]
    fn text_around_and_other_ends_of_lines_are_no_matter() {
        let text = format!(
            "a key\r\n{}\n and another\n{}",
            encode("A", b"one").replace('\n', "\r\n"),
            encode("B", b"two")
        );
        let read = blocks(&text).unwrap();
        let read: Vec<_> =
            read.iter().map(|block| (block.label.as_str(), block.content.as_slice())).collect();
        assert_eq!(read, [("A", b"one".as_slice()), ("B", b"two".as_slice())]);
        assert!(blocks("no block").unwrap().is_empty());
    }

    #[test]
    fn what_is_damaged_is_refused_by_name() {
        let problem = |text: &str| blocks(text).err().unwrap().to_string();
        assert!(problem("-----BEGIN A-----\nAAAA\n").contains("\"A\" has no end"));
        assert!(problem("-----BEGIN A-----\nAAAA\n-----END B-----\n").contains("\"A\" has no end"));
        assert!(problem("-----BEGIN A-----\n????\n-----END A-----\n").contains("base64"));
        assert!(problem(&"x".repeat(MAX_TEXT + 1)).contains("65537 bytes"));
    }
}
