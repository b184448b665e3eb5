//! How far this machine's clock is from the CA's, as a certificate that just came shows it.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use trellis_pki::{clock::words, issue::issued_at, leaf::Leaf};

/// Half of what the mesh works with: early enough to do something about it.
const TOLD: Duration = Duration::from_secs(5 * 60);

/// Clocks that are further apart than they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apart {
    ahead: bool,
    by: Duration,
}

impl Apart {
    /// `leaf` was issued now, if clocks agree.
    pub fn of(leaf: &[u8], now: SystemTime) -> Option<Self> {
        let leaf = Leaf::parse(leaf).ok()?;
        let there = issued_at(leaf.not_before, leaf.not_after)?;
        let (ahead, by) = match now.duration_since(there) {
            Ok(by) => (true, by),
            Err(behind) => (false, behind.duration()),
        };
        (by > TOLD).then_some(Self { ahead, by })
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.ahead { "ahead of" } else { "behind" };
        write!(
            f,
            "this clock is {} {side} the CA's, and the mesh works with 10 minutes; set both by NTP",
            words(self.by)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use trellis_pki::{
        algorithm::Algorithm,
        issue::{Issuer, LeafRequest},
        key::PrivateKey,
        spiffe::SpiffeId,
    };

    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn clocks_that_are_too_far_apart_are_told_of_with_the_difference() {
        let there = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let key = || PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let issuer = Issuer::new_root("cluster.local", key(), there, 1_000 * HOUR).unwrap();
        let identity = SpiffeId::new("cluster.local", "shop", "pay").unwrap();
        let subject = key();
        let leaf = |validity| {
            let request = LeafRequest {
                public_key: subject.public_key(),
                identity: &identity,
                dns_names: &[],
                now: there,
                validity,
            };
            issuer.issue(&request).unwrap().der
        };
        let day = leaf(24 * HOUR);
        let said = |now| Apart::of(&day, now).map(|apart| apart.to_string()).unwrap_or_default();
        assert_eq!(said(there + TOLD), "");
        assert_eq!(said(there - TOLD), "");
        assert!(
            said(there + 2 * HOUR).contains("is 2 h 0 min ahead of the CA's"),
            "{}",
            said(there + 2 * HOUR)
        );
        assert!(said(there - 2 * HOUR).contains("is 2 h 0 min behind the CA's"));
        // Where it cannot be known it is not claimed.
        assert_eq!(Apart::of(&leaf(HOUR), there + 2 * HOUR), None);
    }
}
