//! What the operator wrote of other trust domains, checked. An entry that is wrong takes nothing away from
//! the others.

use http::Uri;
use thiserror::Error;
use trellis_api::trust::{Federation, Profile};
use trellis_channel::client::Address;
use trellis_pki::{
    bundle::{Bundle, BundleError},
    foreign::MAX_FOREIGN,
    jwks::{self, Document, DocumentError},
    spiffe::{SpiffeError, SpiffeId, check_trust_domain},
};

use super::held::Held;

/// One trust domain to federate with.
#[derive(Clone, Debug)]
pub struct Partner {
    pub trust_domain: String,
    pub endpoint: Url,
    pub how: How,
    /// As it was written.
    pub wish: Federation,
}

/// How its endpoint is known.
#[derive(Clone, Debug)]
pub enum How {
    Spiffe { server: SpiffeId, bootstrap: Box<Document> },
    Web,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub address: Address,
    pub host: String,
    /// The authority as it was written.
    pub authority: String,
    pub path: String,
}

/// An entry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub trust_domain: String,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WishError {
    #[error("trustDomain: {0}")]
    TrustDomain(SpiffeError),
    #[error("trustDomain: {0:?} is our own; its anchors are not fetched from anybody")]
    Own(String),
    #[error("trustDomain: {0:?} is named twice; keep one entry")]
    Twice(String),
    #[error("at most {MAX_FOREIGN} trust domains can be federated with; remove this one or another")]
    TooMany,
    #[error("endpoint: {0:?} is no https://HOST:PORT/PATH without user and fragment")]
    Endpoint(String),
    #[error("{0} is missing; profile spiffe needs it")]
    Missing(&'static str),
    #[error("{0} means nothing with profile web; leave it out, or choose profile spiffe")]
    Useless(&'static str),
    #[error("serverIdentity: {0}")]
    Server(SpiffeError),
    #[error("serverIdentity: {0} is not of trust domain {1}, by whose bundle it is verified")]
    ForeignServer(String, String),
    #[error("bootstrap: {0}")]
    Pem(BundleError),
    #[error("bootstrap: {0}")]
    Document(DocumentError),
}

/// The entries that can be used, and what is wrong with the others.
pub fn partners(own: &str, wished: &[Federation]) -> (Vec<Partner>, Vec<Fault>) {
    let (mut good, mut faults) = (Vec::<Partner>::new(), Vec::new());
    for (index, wish) in wished.iter().enumerate() {
        let twice = good.iter().any(|known| known.trust_domain == wish.trust_domain);
        let read = match twice {
            true => Err(WishError::Twice(wish.trust_domain.clone())),
            false if good.len() >= MAX_FOREIGN => Err(WishError::TooMany),
            false => read(own, wish),
        };
        match read {
            Ok(partner) => good.push(partner),
            Err(error) => {
                let trust_domain = wish.trust_domain.clone();
                faults.push(Fault { trust_domain, error: format!("federation[{index}].{error}") });
            }
        }
    }
    (good, faults)
}

fn read(own: &str, wish: &Federation) -> Result<Partner, WishError> {
    let trust_domain = wish.trust_domain.clone();
    check_trust_domain(&trust_domain).map_err(WishError::TrustDomain)?;
    if trust_domain == own {
        return Err(WishError::Own(trust_domain));
    }
    let endpoint = Url::read(&wish.endpoint).ok_or_else(|| WishError::Endpoint(wish.endpoint.clone()))?;
    let how = match (wish.profile, &wish.server_identity, &wish.bootstrap) {
        (Profile::Web, None, None) => How::Web,
        (Profile::Web, Some(_), _) => return Err(WishError::Useless("serverIdentity")),
        (Profile::Web, None, Some(_)) => return Err(WishError::Useless("bootstrap")),
        (Profile::Spiffe, None, _) => return Err(WishError::Missing("serverIdentity")),
        (Profile::Spiffe, Some(_), None) => return Err(WishError::Missing("bootstrap")),
        (Profile::Spiffe, Some(server), Some(bootstrap)) => {
            let server: SpiffeId = server.parse().map_err(WishError::Server)?;
            if server.trust_domain() != trust_domain {
                return Err(WishError::ForeignServer(server.to_string(), trust_domain));
            }
            How::Spiffe { server, bootstrap: Box::new(self::bootstrap(&trust_domain, bootstrap)?) }
        }
    };
    Ok(Partner { trust_domain, endpoint, how, wish: wish.clone() })
}

/// A bundle as an operator has it at hand: SPIFFE's document, or PEM.
fn bootstrap(trust_domain: &str, text: &str) -> Result<Document, WishError> {
    if text.trim_start().starts_with('{') {
        return jwks::read(trust_domain, text.as_bytes()).map_err(WishError::Document);
    }
    let bundle = Bundle::from_pem(trust_domain, text).map_err(WishError::Pem)?;
    Ok(Document { bundle, sequence: None, refresh_hint: None, unusable: 0 })
}

impl Url {
    fn read(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') || text.contains('#') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(443);
        // A port that was written and is none must not become the usual one.
        if authority.port().is_none() && authority.as_str() != authority.host() {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Some(Self {
            address: format!("{}:{port}", authority.host()).parse().ok()?,
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            authority: authority.to_string(),
            path: path.to_owned(),
        })
    }
}

/// The wish that changes nothing of what is held.
pub fn as_it_is(held: &[Held]) -> Vec<Federation> {
    held.iter().filter_map(Held::as_wish).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use trellis_pki::{algorithm::Algorithm, issue::Issuer, key::PrivateKey};

    use super::*;

    const OWN: &str = "a.example";

    fn root(domain: &str) -> Bundle {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let year = Duration::from_secs(365 * 86_400);
        let root = Issuer::new_root(domain, key, UNIX_EPOCH + 50 * year, year).unwrap();
        Bundle::new(domain, vec![root.anchor().clone()]).unwrap()
    }

    fn good(domain: &str) -> Federation {
        Federation {
            trust_domain: domain.to_owned(),
            endpoint: format!("https://ca.{domain}:15016/"),
            profile: Profile::Spiffe,
            server_identity: Some(format!("spiffe://{domain}/ns/trellis-system/sa/trellis-ca")),
            bootstrap: Some(root(domain).to_pem()),
        }
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_said_and_the_others_count() {
        let web = || Federation {
            profile: Profile::Web,
            server_identity: None,
            bootstrap: None,
            ..good("w.example")
        };
        let document = jwks::write(&root("b.example"), 4, Duration::from_secs(60));
        type Change = fn(&mut Federation);
        let table: [(Change, &str); 12] = [
            (|one| one.trust_domain = "B".into(), "trustDomain: trust domain \"B\""),
            (|one| one.trust_domain = OWN.into(), "is our own"),
            (|one| one.trust_domain = "w.example".into(), "named twice"),
            (|one| one.endpoint = "http://ca.b.example".into(), "endpoint: \"http://ca.b.example\""),
            (|one| one.endpoint = "https://me@ca.b.example/".into(), "endpoint:"),
            (|one| one.endpoint = "https://ca.b.example/#x".into(), "endpoint:"),
            (|one| one.endpoint = "https://ca.b.example:99999/".into(), "endpoint:"),
            (|one| one.server_identity = None, "serverIdentity is missing"),
            (|one| one.bootstrap = None, "bootstrap is missing"),
            (
                |one| one.server_identity = Some("spiffe://c/ns/x/sa/y".into()),
                "is not of trust domain b.example",
            ),
            (|one| one.bootstrap = Some("nothing".into()), "bootstrap: the trust bundle is empty"),
            (|one| one.profile = Profile::Web, "serverIdentity means nothing with profile web"),
        ];
        for (change, words) in table {
            let mut wrong = good("b.example");
            change(&mut wrong);
            let (partners, faults) = partners(OWN, &[web(), wrong]);
            assert_eq!(partners.len(), 1, "{words}");
            let error = &faults[0].error;
            assert!(error.starts_with("federation[1].") && error.contains(words), "{words}: {error}");
        }
        let as_document = Federation { bootstrap: Some(document), ..good("b.example") };
        let (partners, faults) = partners(OWN, &[as_document, web()]);
        assert_eq!((partners.len(), faults), (2, vec![]));
        assert!(matches!(&partners[0].how, How::Spiffe { bootstrap, .. } if bootstrap.sequence == Some(4)));
        assert_eq!(partners[0].endpoint.address.to_string(), "ca.b.example:15016");
    }
}
