//! The lines before the content: what a sealed file is, and for whom.

use std::io::{BufRead, Read};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::kem::SealingKem;
use super::wrap::{WRAPPED_LEN, unwrap, wrap};
use super::{ContentKey, Draw, Envelope, FORM, OpeningKey, Recipient, SealError, sha256};

/// More recipients than this share a key, or should.
pub const MAX_RECIPIENTS: usize = 64;
/// Bytes of a purpose.
pub const MAX_PURPOSE: usize = 128;

const FORM_FAMILY: &str = "trellis.dev/sealed/";
const PURPOSE: &str = "purpose: ";
const TO: &str = "to: ";
const MAC: &str = "mac: ";

const MAC_LEN: usize = 32;
/// Characters of a fingerprint.
const FINGERPRINT_LEN: usize = 64;
/// The longest line is one for a recipient with a key of ML-KEM-1024, of 2238 bytes.
const MAX_LINE: usize = 4096;

pub(super) struct Header {
    /// As written or read, the line of the MAC included.
    bytes: Vec<u8>,
    purpose: String,
    stanzas: Vec<Stanza>,
    mac: Vec<u8>,
    /// Where the line of the MAC begins.
    mac_at: usize,
}

/// What is there for one recipient.
struct Stanza {
    fingerprint: String,
    encapsulated: Vec<u8>,
    wrapped: Vec<u8>,
    kem: SealingKem,
}

impl Header {
    pub(super) fn make(
        purpose: &str,
        recipients: &[Recipient],
        content_key: &ContentKey,
        header_key: &hmac::Key,
        draw: Draw<'_>,
    ) -> Result<Self, SealError> {
        check_purpose(purpose)?;
        match recipients.len() {
            0 => return Err(SealError::NoRecipient),
            1..=MAX_RECIPIENTS => {}
            many => return Err(SealError::TooManyRecipients(many)),
        }
        let info = info(purpose);
        let mut text = info.clone();
        let mut stanzas = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let fingerprint = recipient.fingerprint();
            let (encapsulated, wrapped) = wrap(content_key, recipient, info.as_bytes(), draw)?;
            text.extend([TO, &fingerprint, " ", &STANDARD.encode(&encapsulated), " "]);
            text.push_str(&STANDARD.encode(&wrapped));
            let kem = recipient.kem();
            kem.mark().iter().for_each(|mark| text.extend([" ", mark]));
            text.push('\n');
            stanzas.push(Stanza { fingerprint, encapsulated, wrapped, kem });
        }
        let mac_at = text.len();
        let mac = hmac::sign(header_key, text.as_bytes()).as_ref().to_vec();
        text.extend([MAC, &STANDARD.encode(&mac), "\n"]);
        Ok(Self { bytes: text.into_bytes(), purpose: purpose.to_owned(), stanzas, mac, mac_at })
    }

    /// Takes the header from the front of a file. Nothing in it is proven until [`Header::verify`].
    pub(super) fn read(source: &mut impl BufRead) -> Result<Self, SealError> {
        let mut lines = Lines { source, bytes: Vec::new(), number: 0 };
        lines.form()?;
        let line = lines.next()?;
        let purpose = line
            .strip_prefix(PURPOSE)
            .filter(|purpose| check_purpose(purpose).is_ok())
            .ok_or_else(|| lines.problem("is not the purpose"))?
            .to_owned();
        let mut stanzas = Vec::new();
        loop {
            let mac_at = lines.bytes.len();
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix(MAC) {
                if stanzas.is_empty() {
                    return Err(lines.problem("should name a recipient"));
                }
                let mac =
                    decoded(mac, MAC_LEN).ok_or_else(|| lines.problem("is not an authentication code"))?;
                return Ok(Self { bytes: lines.bytes, purpose, stanzas, mac, mac_at });
            }
            let stanza = Stanza::parse(&line).ok_or_else(|| lines.problem("is not for a recipient"))?;
            if stanzas.len() == MAX_RECIPIENTS {
                return Err(lines.problem("names more recipients than there can be"));
            }
            stanzas.push(stanza);
        }
    }

    /// The content key, if it was sealed to `key`.
    pub(super) fn content_key(&self, key: &OpeningKey) -> Result<ContentKey, SealError> {
        let held = key.recipient().fingerprint();
        let Some((at, stanza)) =
            self.stanzas.iter().enumerate().find(|(_, stanza)| stanza.fingerprint == held)
        else {
            return Err(SealError::WrongKey { held, recipients: self.envelope().recipients });
        };
        let info = info(&self.purpose);
        Some(key)
            .filter(|key| key.recipient().kem() == stanza.kem)
            .and_then(|key| unwrap(key, info.as_bytes(), &stanza.encapsulated, &stanza.wrapped))
            .ok_or(SealError::Header { line: at + 3, problem: "names this key, but does not open with it" })
    }

    /// Whether all of it is as it was written by whoever knew the content key.
    pub(super) fn verify(&self, header_key: &hmac::Key) -> Result<(), SealError> {
        let covered = self.bytes.get(..self.mac_at).unwrap_or_default();
        hmac::verify(header_key, covered, &self.mac).map_err(|_| SealError::Header {
            line: self.stanzas.len() + 3,
            problem: "does not confirm the lines before it",
        })
    }

    pub(super) fn purpose(&self) -> &str {
        &self.purpose
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What each chunk is bound to.
    pub(super) fn hash(&self) -> [u8; 32] {
        sha256(&self.bytes)
    }

    pub(super) fn envelope(&self) -> Envelope {
        Envelope {
            purpose: self.purpose.clone(),
            recipients: self.stanzas.iter().map(|stanza| stanza.fingerprint.clone()).collect(),
        }
    }
}

impl Stanza {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(TO)?.split(' ');
        let (fingerprint, encapsulated, wrapped) = (words.next()?, words.next()?, words.next()?);
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let mark = words.next();
        let kem = SealingKem::ALL.into_iter().find(|kem| kem.mark() == mark)?;
        let whole =
            words.next().is_none() && fingerprint.len() == FINGERPRINT_LEN && fingerprint.bytes().all(hex);
        whole.then_some(())?;
        Some(Self {
            fingerprint: fingerprint.to_owned(),
            encapsulated: decoded(encapsulated, kem.encapsulated_len())?,
            wrapped: decoded(wrapped, WRAPPED_LEN)?,
            kem,
        })
    }
}

/// The lines that are known before any key is: what HPKE binds a content key to.
fn info(purpose: &str) -> String {
    format!("{FORM}\n{PURPOSE}{purpose}\n")
}

/// Printable ASCII, so that it is a line, and can be shown, whoever wrote it.
pub(super) fn check_purpose(purpose: &str) -> Result<(), SealError> {
    let fits = (1..=MAX_PURPOSE).contains(&purpose.len())
        && purpose.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && purpose.trim_matches(' ') == purpose;
    if fits { Ok(()) } else { Err(SealError::Purpose(purpose.to_owned())) }
}

fn decoded(base64: &str, length: usize) -> Option<Vec<u8>> {
    STANDARD.decode(base64).ok().filter(|bytes| bytes.len() == length)
}

/// Takes bounded lines off a stream, and not one byte more.
struct Lines<'a, R> {
    source: &'a mut R,
    /// Everything taken so far.
    bytes: Vec<u8>,
    number: usize,
}

impl<R: BufRead> Lines<'_, R> {
    /// The first line, which tells what all the rest is.
    fn form(&mut self) -> Result<(), SealError> {
        let line = self.take()?;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if text == FORM.as_bytes() && line.len() > text.len() {
            return Ok(());
        }
        if line.len() == text.len() && FORM.as_bytes().starts_with(text) {
            return Err(SealError::Cut);
        }
        match std::str::from_utf8(text) {
            // Shown to the user, so it had better be short and plain.
            Ok(text) if text.starts_with(FORM_FAMILY) && check_purpose(text).is_ok() => {
                Err(SealError::Version(text.to_owned()))
            }
            _ => Err(SealError::NotSealed),
        }
    }

    fn next(&mut self) -> Result<String, SealError> {
        let line = self.take()?;
        let Some(text) = line.strip_suffix(b"\n") else {
            let cut = line.len() < MAX_LINE;
            return Err(if cut { SealError::Cut } else { self.problem("is too long") });
        };
        String::from_utf8(text.to_vec()).map_err(|_| self.problem("is not text"))
    }

    fn take(&mut self) -> Result<Vec<u8>, SealError> {
        let mut line = Vec::new();
        self.source
            .by_ref()
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut line)
            .map_err(SealError::Reading)?;
        self.bytes.extend_from_slice(&line);
        self.number += 1;
        Ok(line)
    }

    fn problem(&self, problem: &'static str) -> SealError {
        SealError::Header { line: self.number, problem }
    }
}
