//! An audit trail that shows what was done to it: each record carries the hash of the one before, and at
//! intervals the chain's head is signed. Here is the form of the records, how they are made, and how
//! whoever reads them finds what was removed, changed or put elsewhere.
//!
//! # Form
//!
//! A record is one line of JSON that begins with `{"audit":"trellis.dev/audit/v1","chain":`. The members
//! that follow are `chain` (the run of one replica), `seq` (from 0), `time`, `event` and `previous`, and then
//! those of the event. What is hashed and signed are bytes as they were written, so that nobody has to agree
//! on how JSON is spelt:
//!
//! - A record's hash is SHA-256 of its bytes from the first `{` to the last `}`, without the end of the line
//!   and whatever a log puts before it. `previous` is the hash of the record before it in its chain, in lower
//!   case hex; in record 0 it is empty.
//! - Record 0 is `started`. It holds the public key of the chain, and in `after` the hash of the record that
//!   stood last in the same file, if there was one: a run cannot be cut out unseen.
//! - Record 1 is `signed`, and from then on no more than [`MAX_UNSIGNED`] records follow each other that are
//!   not. Its last member is `signature`, in hex, over `trellis.dev/audit/v1/signature`, a zero byte, and the
//!   record's own bytes before `,"signature":`. Since these hold `previous`, all before it is signed as well.
//!
//! So nobody without the key can begin a chain, and whoever writes a trail anew gets no further than to its
//! second record. What can be taken away or changed unseen is the end, behind the last signature.

mod chain;
mod fault;
mod seen;
mod verify;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::PublicKeyData;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::key::PublicKey;
use crate::x509;

pub use self::chain::Chain;
pub use self::fault::{ChainSummary, Fault, Report, Summary, Wrong};
pub use self::verify::Verifier;

/// Marks a line as a record, whatever else is in the same log.
pub const FORM: &str = "trellis.dev/audit/v1";
/// Records of a chain that may follow each other without a signature.
pub const MAX_UNSIGNED: u64 = 256;
/// Bytes of one record: enough for a signature or a certificate's names, and logs cut what is much longer.
pub const MAX_RECORD: usize = 32 * 1024;

/// How every record begins.
const OPENING: &str = r#"{"audit":"trellis.dev/audit/v1","chain":"#;
/// What stands between the signed bytes of a record and their signature.
const SIGNATURE: &str = r#","signature":""#;
const STARTED: &str = "started";
const SIGNED: &str = "signed";

type Hash = [u8; 32];

/// The hash of a record, by which the next one names it.
pub fn hash(record: &[u8]) -> String {
    x509::hex(&sha256(record))
}

/// The record in a line of a log, if there is one: behind whatever the log puts before it.
pub fn record_in(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let at = line.windows(OPENING.len()).position(|window| window == OPENING.as_bytes())?;
    line.get(at..).filter(|record| record.ends_with(b"}"))
}

/// The public keys in a PEM file, such as `/audit-key` shows it; `None` if it holds none or something else.
pub fn public_keys(pem: &str) -> Option<Vec<PublicKey>> {
    let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes())
        .map(|der| {
            let der = der.ok()?;
            let (rest, info) = SubjectPublicKeyInfo::from_der(&der).ok()?;
            rest.is_empty().then(|| x509::public_key(&info).ok())?
        })
        .collect::<Option<Vec<_>>>()?;
    (!keys.is_empty()).then_some(keys)
}

pub fn public_key_pem(key: &PublicKey) -> String {
    x509::pem("PUBLIC KEY", &key.subject_public_key_info())
}

/// What is signed: nothing that could be taken for anything else.
fn statement(before_signature: &str) -> Vec<u8> {
    [FORM.as_bytes(), b"/signature\0", before_signature.as_bytes()].concat()
}

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
