//! What is held of each other trust domain, kept together with our own trust so that every replica, and
//! one that starts while an endpoint is away, has the last good bundle and the sequence number behind
//! which nothing goes back.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use trellis_api::trust::{Federation, Profile};
use trellis_pki::{
    bundle::{Bundle, BundleError},
    foreign::Foreign,
    jwks::{self, Document},
};

use super::partner::{Fault, How, Partner};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Held {
    pub trust_domain: String,
    pub endpoint: String,
    pub profile: Profile,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_identity: Option<String>,
    /// Fingerprint of the bundle that it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_hint: Option<u64>,
    /// PEM.
    pub anchors: String,
}

impl Held {
    /// What `document` says, under the terms of `partner`.
    pub fn new(partner: &Partner, document: &Document) -> Self {
        Self {
            trust_domain: partner.trust_domain.clone(),
            endpoint: partner.wish.endpoint.clone(),
            profile: partner.wish.profile,
            server_identity: partner.wish.server_identity.clone(),
            bootstrap: basis(partner),
            sequence: document.sequence,
            refresh_hint: document.refresh_hint.map(|hint| hint.as_secs()),
            anchors: document.bundle.to_pem(),
        }
    }

    pub fn bundle(&self) -> Result<Bundle, BundleError> {
        Bundle::from_pem(&self.trust_domain, &self.anchors)
    }

    pub fn hint(&self) -> Option<Duration> {
        self.refresh_hint.map(Duration::from_secs)
    }

    /// Why a document with this sequence number does not take the place of this.
    pub fn outdates(&self, sequence: Option<u64>) -> Option<String> {
        match (self.sequence, sequence) {
            (Some(held), Some(found)) if found < held => Some(format!(
                "spiffe_sequence is {found}, and {held} is in use: the endpoint is behind, or shows an old bundle"
            )),
            (Some(held), None) => {
                Some(format!("spiffe_sequence is missing, and {held} is in use: it may be an old bundle"))
            }
            _ => None,
        }
    }

    /// As an operator would write it. The sequence number goes with it.
    pub(super) fn as_wish(&self) -> Option<Federation> {
        let bootstrap = match self.profile {
            Profile::Spiffe => {
                let hint = self.hint().unwrap_or(super::USUAL);
                let bundle = self.bundle().ok()?;
                Some(match self.sequence {
                    Some(sequence) => jwks::write(&bundle, sequence, hint),
                    None => self.anchors.clone(),
                })
            }
            Profile::Web => None,
        };
        Some(Federation {
            trust_domain: self.trust_domain.clone(),
            endpoint: self.endpoint.clone(),
            profile: self.profile,
            server_identity: self.server_identity.clone(),
            bootstrap,
        })
    }

    /// The same bundle under the terms of `partner`.
    fn under(self, partner: &Partner) -> Self {
        Self {
            endpoint: partner.wish.endpoint.clone(),
            profile: partner.wish.profile,
            server_identity: partner.wish.server_identity.clone(),
            ..self
        }
    }
}

/// What a partner's bundle began with.
fn basis(partner: &Partner) -> Option<String> {
    match &partner.how {
        How::Spiffe { bootstrap, .. } => Some(bootstrap.bundle.fingerprint()),
        How::Web => None,
    }
}

/// What is to be held: of each partner the newest bundle that was fetched, else the one that is held, else
/// the one to begin with. Whoever is no partner any more is gone; of an entry that is wrong, what is held
/// stays. What may not stand beside the rest is left out, and named.
pub fn merge(
    own: &Bundle,
    held: &[Held],
    partners: &[Partner],
    faults: &[Fault],
    fetched: &BTreeMap<String, Held>,
) -> (Vec<Held>, Vec<Fault>) {
    let known = |trust_domain: &str| held.iter().find(|one| one.trust_domain == trust_domain);
    let is_partner = |fault: &Fault| partners.iter().any(|one| one.trust_domain == fault.trust_domain);
    let kept =
        faults.iter().filter(|fault| !is_partner(fault)).filter_map(|fault| known(&fault.trust_domain));
    let newest = partners.iter().filter_map(|partner| {
        newest(partner, known(&partner.trust_domain), fetched.get(&partner.trust_domain))
    });
    let (mut merged, mut bundles, mut wrong) = (Vec::<Held>::new(), Vec::new(), Vec::new());
    for one in newest.chain(kept.cloned()) {
        if merged.iter().any(|known| known.trust_domain == one.trust_domain) {
            continue;
        }
        let beside = one.bundle().map_err(|error| error.to_string()).and_then(|bundle| {
            bundles.push(bundle);
            Foreign::new(own, bundles.iter().cloned()).map_err(|error| {
                bundles.pop();
                error.to_string()
            })
        });
        match beside {
            Ok(_) => merged.push(one),
            Err(error) => wrong.push(Fault { trust_domain: one.trust_domain, error }),
        }
    }
    merged.sort_by(|one, other| one.trust_domain.cmp(&other.trust_domain));
    (merged, wrong)
}

fn newest(partner: &Partner, held: Option<&Held>, fetched: Option<&Held>) -> Option<Held> {
    let basis = basis(partner);
    let begin = match (&partner.how, held) {
        (How::Spiffe { .. }, Some(held)) if held.bootstrap == basis => Some(held.clone()),
        (How::Spiffe { bootstrap, .. }, _) => Some(Held::new(partner, bootstrap)),
        (How::Web, held) => held.cloned(),
    };
    let same_basis = |fetched: &&Held| fetched.bootstrap == basis;
    let newer = fetched
        .filter(same_basis)
        .filter(|fetched| begin.as_ref().is_none_or(|begin| begin.outdates(fetched.sequence).is_none()));
    newer.cloned().or(begin).map(|held| held.under(partner))
}

/// The bundles that are held, ready for use.
pub fn held_bundles(own: &Bundle, held: &[Held]) -> Result<Foreign, String> {
    let bundles = held.iter().map(Held::bundle).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    Foreign::new(own, bundles).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use trellis_pki::{algorithm::Algorithm, issue::Issuer, key::PrivateKey};

    use super::*;
    use crate::federation::partner::partners;

    const OWN: &str = "a.example";
    const B: &str = "b.example";

    fn root(domain: &str) -> Bundle {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let year = Duration::from_secs(365 * 86_400);
        let root = Issuer::new_root(domain, key, UNIX_EPOCH + 50 * year, year).unwrap();
        Bundle::new(domain, vec![root.anchor().clone()]).unwrap()
    }

    fn partner(bootstrap: &Bundle) -> Partner {
        let wish = Federation {
            trust_domain: B.to_owned(),
            endpoint: "https://ca.b.example/".to_owned(),
            profile: Profile::Spiffe,
            server_identity: Some("spiffe://b.example/ns/x/sa/ca".to_owned()),
            bootstrap: Some(bootstrap.to_pem()),
        };
        partners(OWN, &[wish]).0.remove(0)
    }

    fn document(bundle: &Bundle, sequence: Option<u64>) -> Document {
        Document { bundle: bundle.clone(), sequence, refresh_hint: None, unusable: 0 }
    }

    fn anchors(held: &[Held]) -> Vec<&str> {
        held.iter().map(|one| one.anchors.as_str()).collect()
    }

    #[test]
    fn the_newest_bundle_counts_and_nothing_goes_back() {
        let (own, first, second) = (root(OWN), root(B), root(B));
        let partner = partner(&first);
        let merged = |held: &[Held], fetched: Option<(&Bundle, Option<u64>)>| {
            let fetched = fetched.map(|(bundle, number)| Held::new(&partner, &document(bundle, number)));
            let fetched = fetched.into_iter().map(|one| (B.to_owned(), one)).collect();
            merge(&own, held, std::slice::from_ref(&partner), &[], &fetched).0
        };
        let begun = merged(&[], None);
        assert_eq!(anchors(&begun), [first.to_pem()]);
        let fetched = merged(&begun, Some((&second, Some(5))));
        assert_eq!((anchors(&fetched), fetched[0].sequence), (vec![second.to_pem().as_str()], Some(5)));
        // Without a new fetch, as after a restart, it stays; and older ones do not replace it.
        assert_eq!(merged(&fetched, None), fetched);
        for old in [Some(4), None] {
            assert_eq!(merged(&fetched, Some((&first, old))), fetched, "{old:?}");
        }
        assert_eq!(merge(&own, &fetched, &[], &[], &BTreeMap::new()).0, [], "no partner, no trust");
        let fault = Fault { trust_domain: B.to_owned(), error: "a slip of the pen".to_owned() };
        assert_eq!(merge(&own, &fetched, &[], &[fault], &BTreeMap::new()).0, fetched);
    }

    #[test]
    fn another_bundle_to_begin_with_begins_anew() {
        let (own, first, second) = (root(OWN), root(B), root(B));
        let held = Held::new(&partner(&first), &document(&first, Some(9)));
        let again = partner(&second);
        let (merged, _) = merge(&own, std::slice::from_ref(&held), &[again], &[], &BTreeMap::new());
        assert_eq!((anchors(&merged), merged[0].sequence), (vec![second.to_pem().as_str()], None));
        // What is written for an operator who lost the object keeps the number.
        let wish = held.as_wish().unwrap();
        let again = partners(OWN, &[wish]).0.remove(0);
        let (merged, _) = merge(&own, std::slice::from_ref(&held), &[again], &[], &BTreeMap::new());
        assert_eq!((anchors(&merged), merged[0].sequence), (vec![first.to_pem().as_str()], Some(9)));
    }

    #[test]
    fn what_shares_a_key_with_us_is_left_out_and_named() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let copy = PrivateKey::from_pkcs8(&key.pkcs8().unwrap()).unwrap();
        let year = Duration::from_secs(365 * 86_400);
        let issue = |domain, key| Issuer::new_root(domain, key, UNIX_EPOCH + 50 * year, year).unwrap();
        let own = Bundle::new(OWN, vec![issue(OWN, key).anchor().clone()]).unwrap();
        let theirs = Bundle::new(B, vec![issue(B, copy).anchor().clone()]).unwrap();
        let (merged, wrong) = merge(&own, &[], &[partner(&theirs)], &[], &BTreeMap::new());
        assert!(merged.is_empty());
        assert!(wrong[0].error.contains("speak for both"), "{}", wrong[0].error);
    }
}
