//! What one handshake presents: the workload's identity, or, to a peer that cannot verify ML-DSA at all,
//! the ECDSA companion beside it.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::algorithm::Algorithm;
use crate::identity::Identity;
use crate::policy::Ladder;
use crate::posture::Fallback;
use crate::record::Recorder;

/// Presents one of at most two identities in one handshake, and notes which, why, and what was offered.
pub(crate) struct Presenting {
    primary: Arc<Identity>,
    companion: Option<Arc<Identity>>,
    recorder: Recorder,
}

impl Presenting {
    pub(crate) fn new(
        primary: &Arc<Identity>,
        companion: Option<&Arc<Identity>>,
        recorder: &Recorder,
    ) -> Self {
        Self {
            primary: Arc::clone(primary),
            companion: companion.map(Arc::clone),
            recorder: recorder.clone(),
        }
    }

    /// The companion goes only to who can verify it and none of ML-DSA, unless policy wants nothing else. Who
    /// can verify another level of ML-DSA than ours is not weakened for that, but refused.
    fn stand_in(&self, schemes: &[SignatureScheme]) -> Option<(&Arc<Identity>, Fallback)> {
        let verifies = |algorithm: Algorithm| schemes.contains(&algorithm.scheme());
        let companion = self.companion.as_ref()?;
        let weaker = !Algorithm::ALL.into_iter().any(|one| one.is_post_quantum() && verifies(one));
        let fallback = match (weaker, self.recorder.policy().signatures) {
            (true, _) => Fallback::PeerCannotVerifyMlDsa,
            (false, Ladder::Classical) => Fallback::PolicyIsClassical,
            (false, Ladder::Require | Ladder::Prefer) => return None,
        };
        verifies(companion.leaf().algorithm).then_some((companion, fallback))
    }

    fn present(&self, identity: &Identity, fallback: Option<Fallback>) -> Arc<CertifiedKey> {
        self.recorder.presents(identity.shared_leaf(), identity.anchor(), fallback);
        Arc::clone(identity.certified())
    }
}

impl ResolvesServerCert for Presenting {
    /// Where nothing fits, the identity is presented all the same: rustls finds that no signature is in
    /// common, and says so to both ends.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        self.recorder.offers(hello.named_groups().unwrap_or_default(), schemes);
        Some(match self.stand_in(schemes) {
            Some((companion, fallback)) => self.present(companion, Some(fallback)),
            None => self.present(&self.primary, None),
        })
    }
}

impl ResolvesClientCert for Presenting {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if let Some((companion, fallback)) = self.stand_in(schemes) {
            return Some(self.present(companion, Some(fallback)));
        }
        self.primary.certified().key.choose_scheme(schemes)?;
        Some(self.present(&self.primary, None))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Presenting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presenting").field("identity", &self.primary.leaf().identity).finish_non_exhaustive()
    }
}
