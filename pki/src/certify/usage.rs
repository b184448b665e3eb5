//! What a key may be used for, by the two extensions that say so.

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

use super::Role;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    DigitalSignature,
    ContentCommitment,
    CrlSign,
    ServerAuth,
    ClientAuth,
    CodeSigning,
    EmailProtection,
    TimeStamping,
    OcspSigning,
    Any,
}

/// Several of them, each once. Signing certificates is no usage that one asks for: it is a CA's, and nobody
/// else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages(Vec<Usage>);

impl Usages {
    pub fn new(usages: impl IntoIterator<Item = Usage>) -> Self {
        let mut usages: Vec<Usage> = usages.into_iter().collect();
        usages.sort_unstable();
        usages.dedup();
        Self(usages)
    }

    pub(super) fn of_key(&self, role: Role) -> Vec<KeyUsagePurpose> {
        let mut purposes: Vec<KeyUsagePurpose> = self.0.iter().filter_map(|usage| usage.of_key()).collect();
        match role {
            Role::Leaf if purposes.is_empty() => purposes.push(KeyUsagePurpose::DigitalSignature),
            Role::Leaf => {}
            Role::Ca { .. } => {
                purposes.push(KeyUsagePurpose::KeyCertSign);
                if !self.0.contains(&Usage::CrlSign) {
                    purposes.push(KeyUsagePurpose::CrlSign);
                }
            }
        }
        purposes
    }

    pub(super) fn extended(&self) -> Vec<ExtendedKeyUsagePurpose> {
        self.0.iter().filter_map(|usage| usage.extended()).collect()
    }
}

impl Usage {
    fn of_key(self) -> Option<KeyUsagePurpose> {
        match self {
            Self::DigitalSignature => Some(KeyUsagePurpose::DigitalSignature),
            Self::ContentCommitment => Some(KeyUsagePurpose::ContentCommitment),
            Self::CrlSign => Some(KeyUsagePurpose::CrlSign),
            _ => None,
        }
    }

    fn extended(self) -> Option<ExtendedKeyUsagePurpose> {
        match self {
            Self::ServerAuth => Some(ExtendedKeyUsagePurpose::ServerAuth),
            Self::ClientAuth => Some(ExtendedKeyUsagePurpose::ClientAuth),
            Self::CodeSigning => Some(ExtendedKeyUsagePurpose::CodeSigning),
            Self::EmailProtection => Some(ExtendedKeyUsagePurpose::EmailProtection),
            Self::TimeStamping => Some(ExtendedKeyUsagePurpose::TimeStamping),
            Self::OcspSigning => Some(ExtendedKeyUsagePurpose::OcspSigning),
            Self::Any => Some(ExtendedKeyUsagePurpose::Any),
            _ => None,
        }
    }
}
