//! What is found in a trail.

use std::fmt;

use super::MAX_UNSIGNED;

/// What is wrong, and where it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub line: u64,
    pub chain: String,
    pub seq: u64,
    pub what: Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// These records are missing before it.
    Removed {
        from: u64,
        to: u64,
    },
    /// It stands before records that were written before it.
    Reordered,
    /// It stands there a second time.
    Repeated,
    /// The record behind it names another hash.
    Changed,
    /// The last record of a chain does not name its hash, and nothing tells which of the two was changed.
    ChangedOrNext,
    /// The key with this fingerprint did not sign it.
    Forged(String),
    /// It is signed with the key of this fingerprint, which is not trusted here.
    UnknownSigner(String),
    /// More records than a CA ever writes have no signature.
    Unsigned,
    /// Nothing in the whole chain is signed.
    NeverSigned,
    /// The record that it was written behind is not there.
    RunRemoved,
    /// A chain begins with another event than `started`.
    NotStarted,
    TooManyChains(usize),
}

impl Wrong {
    /// One word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Removed { .. } => "removed",
            Self::Reordered => "reordered",
            Self::Repeated => "repeated",
            Self::Changed | Self::ChangedOrNext | Self::NotStarted => "changed",
            Self::Forged(_) => "forged_signature",
            Self::UnknownSigner(_) => "unknown_signer",
            Self::Unsigned | Self::NeverSigned => "unsigned",
            Self::RunRemoved => "run_removed",
            Self::TooManyChains(_) => "too_many_chains",
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed { from, to } if from == to => write!(f, "record {from} before it is missing"),
            Self::Removed { from, to } => write!(f, "the records {from} to {to} before it are missing"),
            Self::Reordered => f.write_str("it stands before records that were written before it"),
            Self::Repeated => f.write_str("it stands there a second time"),
            Self::Changed => f.write_str("it was changed: the record behind it names another hash"),
            Self::ChangedOrNext => f.write_str("it was changed, or the record behind it was"),
            Self::Forged(key) => write!(f, "its signature is not one of the key {key}"),
            Self::UnknownSigner(key) => {
                write!(f, "it is signed with the key {key}, which is none of those trusted here")
            }
            Self::Unsigned => {
                write!(f, "more than {MAX_UNSIGNED} records, or the first of a chain, have no signature")
            }
            Self::NeverSigned => f.write_str("nothing in its chain is signed"),
            Self::RunRemoved => {
                f.write_str("the run that it was written behind is missing, or was changed at its end")
            }
            Self::NotStarted => f.write_str("its chain does not begin with the event started"),
            Self::TooManyChains(limit) => {
                write!(f, "there are more than {limit} chains; look at the trail in several pieces")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: chain {}, record {}: {}", self.line, self.chain, self.seq, self.what)
    }
}

/// What a whole trail amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub summary: Summary,
    pub chains: Vec<ChainSummary>,
    /// By line.
    pub faults: Vec<Fault>,
    /// Faults beyond those.
    pub more_faults: u64,
}

impl Report {
    /// A trail without a record proves nothing.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.summary.records > 0
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub records: u64,
    /// Signatures that are good.
    pub signatures: u64,
    /// Signatures that no key is known for.
    pub unchecked: u64,
    /// Records behind the last signature of their chain: if more were cut off behind them, or they were
    /// all written anew, it does not show.
    pub unsigned: u64,
    /// Records that were cut in writing, as when the machine dies; what is missing by them is a fault.
    pub damaged_lines: u64,
    pub other_lines: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSummary {
    pub chain: String,
    pub first: u64,
    pub last: u64,
    pub unsigned: u64,
    /// When it was signed last, as the record says.
    pub signed: Option<String>,
}
