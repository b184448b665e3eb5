//! What is in a backup, and what makes one unusable.

use std::{collections::BTreeMap, fmt, str::FromStr, time::SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trellis_api::names::{ANCHOR_KEY, ANCHOR_KEY_DIGITS, TRUST_STATE};
use trellis_pki::{
    bundle::{Anchor, fingerprint},
    clock::rfc3339,
    key::PrivateKey,
};
use zeroize::{Zeroize, Zeroizing};

const FORM: &str = "trellis.dev/backup/v1";
/// A restored domain is told as much newer than it was: members do not take older revisions than they have,
/// and some came after the backup. More changes than this have never been in one.
const AHEAD: u64 = 1_000_000;

/// What the CA keeps, by name.
pub type Items = BTreeMap<String, Zeroizing<String>>;

/// A backup.
pub struct Content {
    made: String,
    items: Items,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Out<'a> {
    form: &'static str,
    made: &'a str,
    items: BTreeMap<&'a str, &'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct In {
    form: String,
    made: String,
    items: BTreeMap<String, String>,
}

/// The part of the state that a backup is judged by.
#[derive(Deserialize)]
struct State {
    revision: u64,
    issuing: String,
    companion: Option<String>,
    anchors: Vec<Kept>,
}

#[derive(Deserialize)]
struct Kept {
    fingerprint: String,
    certificate: String,
    /// Where its key is, unless it is among the items.
    token: Option<Token>,
}

#[derive(Clone, Debug, Deserialize)]
struct Token {
    token: String,
    id: String,
}

/// What a usable backup brings.
#[derive(Debug)]
pub struct Brought {
    made: String,
    trust_domain: Option<String>,
    issuing: String,
    anchors: Vec<Checked>,
}

/// An anchor whose private key is brought as well, unless that is in a token.
#[derive(Debug)]
struct Checked {
    anchor: Anchor,
    token: Option<Token>,
}

/// The beginning of a fingerprint.
#[derive(Clone, Debug)]
pub struct Pin(String);

impl Content {
    pub fn new(items: Items, now: SystemTime) -> Self {
        Self { made: rfc3339(now), items }
    }

    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        let items = self.items.iter().map(|(name, item)| (name.as_str(), item.as_str())).collect();
        Ok(Zeroizing::new(serde_json::to_vec(&Out { form: FORM, made: &self.made, items })?))
    }

    pub fn decode(plain: &[u8]) -> Result<Self> {
        let mut found: In = serde_json::from_slice(plain).context("it cannot be read")?;
        if found.form != FORM {
            found.items.values_mut().for_each(Zeroize::zeroize);
            bail!(
                "its form is {:?}, and this release reads {FORM}: use the release that made it",
                found.form
            );
        }
        let items = found.items.into_iter().map(|(name, item)| (name, Zeroizing::new(item))).collect();
        Ok(Self { made: found.made, items })
    }

    /// That a CA could go on with it: every anchor has its certificate, and its key belongs to it. What is in
    /// a token cannot be looked at from here.
    pub fn check(&self) -> Result<Brought> {
        let state = self.state()?;
        let mut anchors = Vec::new();
        for kept in &state.anchors {
            let name = &kept.fingerprint;
            anchors.push(self.anchor(kept).with_context(|| format!("its anchor {name}"))?);
        }
        for (what, named) in
            [("issues", Some(&state.issuing)), ("issues companions", state.companion.as_ref())]
        {
            let known = |named: &String| anchors.iter().any(|one| **one.anchor.fingerprint() == **named);
            if let Some(named) = named.filter(|named| !known(named)) {
                bail!("its {TRUST_STATE} {what} from {named:?}, which is none of its anchors");
            }
        }
        // One that an outside CA signed need not name it.
        let trust_domain = anchors.iter().find_map(|one| one.anchor.trust_domain.clone());
        Ok(Brought { made: self.made.clone(), trust_domain, issuing: state.issuing, anchors })
    }

    /// Whether this is the same domain, and nothing that the other has is missing.
    pub fn is_as_new_as(&self, other: &Self) -> bool {
        match (self.state(), other.state()) {
            (Ok(own), Ok(other)) => own.issuing == other.issuing && own.revision >= other.revision,
            _ => false,
        }
    }

    /// In a few words.
    pub fn describe(&self) -> String {
        match self.state() {
            Ok(state) => format!("issuing from anchor {}", state.issuing),
            Err(error) => format!("which cannot be read ({error:#})"),
        }
    }

    /// What is written when it is restored.
    pub fn restored(&self) -> Items {
        let mut items = self.items.clone();
        let state = items.get(TRUST_STATE).and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(mut state) = state {
            let revision = state["revision"].as_u64().unwrap_or_default().saturating_add(AHEAD);
            state["revision"] = revision.into();
            items.insert(TRUST_STATE.to_owned(), Zeroizing::new(format!("{state:#}")));
        }
        items
    }

    fn state(&self) -> Result<State> {
        let text = self.items.get(TRUST_STATE).with_context(|| format!("it holds no {TRUST_STATE}"))?;
        serde_json::from_str(text).with_context(|| format!("its {TRUST_STATE} cannot be read"))
    }

    fn anchor(&self, kept: &Kept) -> Result<Checked> {
        let der = pem::parse(&kept.certificate).context("its certificate is not PEM")?.into_contents();
        if fingerprint(&der) != kept.fingerprint {
            bail!("its certificate has another fingerprint, {}", fingerprint(&der));
        }
        let anchor = Anchor::parse(&der)?;
        if let Some(token) = &kept.token {
            return Ok(Checked { anchor, token: Some(token.clone()) });
        }
        let digits = kept.fingerprint.get(..ANCHOR_KEY_DIGITS).unwrap_or(&kept.fingerprint);
        let name = format!("{digits}{ANCHOR_KEY}");
        let item = self.items.get(&name).with_context(|| format!("its key {name} is missing"))?;
        let contents = pem::parse(item.as_bytes()).with_context(|| format!("{name} is not PEM"))?;
        let key = Zeroizing::new(contents.into_contents());
        let key = PrivateKey::from_pkcs8(&key).with_context(|| name.clone())?;
        match key.public_key() == anchor.public_key() {
            true => Ok(Checked { anchor, token: None }),
            false => bail!("its key {name} is that of another certificate"),
        }
    }
}

impl Brought {
    /// The anchors that were named must be among them. If it brings the private key of one, whoever made the
    /// backup had that key, and there is nothing left that they could gain by a false one. If all of these
    /// are in tokens, anybody can have written their names down, and so nothing else may be trusted by it.
    pub fn hold_to(&self, pins: &[Pin]) -> Result<()> {
        let names = |pin: &Pin, one: &Checked| one.anchor.fingerprint().starts_with(&pin.0);
        if let Some(pin) = pins.iter().find(|pin| !self.anchors.iter().any(|one| names(pin, one))) {
            bail!(
                "nothing was done: --anchor {} is none of these; this is another backup than the one you mean, or a false one",
                pin.0
            );
        }
        let (named, others): (Vec<_>, Vec<_>) =
            self.anchors.iter().partition(|one| pins.iter().any(|pin| names(pin, one)));
        match others.first() {
            Some(other) if named.iter().all(|one| one.token.is_some()) => bail!(
                "nothing was done: the key of what --anchor names is in a token, so it does not show who made this \
                 backup, which also brings the anchor {}; name each of them with --anchor, once you have compared it",
                other.anchor.fingerprint()
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Brought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trust_domain = self.trust_domain.as_deref().unwrap_or("that its certificates do not name");
        writeln!(f, "trust domain {trust_domain}, backed up at {}", self.made)?;
        for Checked { anchor, token } in &self.anchors {
            let (name, not_after) = (anchor.algorithm.name(), rfc3339(anchor.not_after));
            let issues = if **anchor.fingerprint() == *self.issuing { ", issues" } else { "" };
            writeln!(f, "  anchor {}  {name}, until {not_after}{issues}", anchor.fingerprint())?;
            if let Some(Token { token, id }) = token {
                writeln!(
                    f,
                    "    its key is not in the backup, but in the token {token:?} (id {id}), which a restored CA needs"
                )?;
            }
        }
        Ok(())
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.to_ascii_lowercase();
        match digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && (16..=64).contains(&digits.len()) {
            true => Ok(Self(digits)),
            false => Err("give 16 to 64 digits of the fingerprint, in hex".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;
    use trellis_pki::{algorithm::Algorithm, issue::Issuer};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn items(algorithm: Algorithm) -> (Items, String) {
        let key = PrivateKey::generate(algorithm).unwrap();
        let pkcs8 = key.pkcs8().unwrap();
        let issuer = Issuer::new_root(
            "cluster.local",
            key,
            NOW + Duration::from_secs(1 << 30),
            Duration::from_secs(1 << 20),
        )
        .unwrap();
        let fingerprint = issuer.anchor().fingerprint().to_string();
        let state = json!({
            "revision": 7, "issuing": fingerprint, "rotations": 3,
            "anchors": [{
                "fingerprint": fingerprint, "algorithm": "ml-dsa-65", "generation": 1,
                "certificate": pem::encode(&pem::Pem::new("CERTIFICATE", issuer.anchor().der.clone())),
            }],
        });
        let key = pem::encode(&pem::Pem::new("PRIVATE KEY", pkcs8.to_vec()));
        let items = [
            (TRUST_STATE.to_owned(), Zeroizing::new(state.to_string())),
            (format!("{}{ANCHOR_KEY}", &fingerprint[..16]), Zeroizing::new(key)),
            ("audit.pem".to_owned(), Zeroizing::new("as it is".to_owned())),
        ];
        (items.into(), fingerprint)
    }

    /// The anchors of several backups in one.
    fn merged(parts: &[&Items]) -> Items {
        let mut items = Items::new();
        let mut anchors = Vec::new();
        for part in parts.iter().rev() {
            let state: Value = serde_json::from_str(&part[TRUST_STATE]).unwrap();
            anchors.extend(state["anchors"].as_array().unwrap().iter().cloned());
            items.extend(part.iter().map(|(name, item)| (name.clone(), item.clone())));
        }
        change_state(&mut items, |state| state["anchors"] = anchors.into());
        items
    }

    fn change_state(items: &mut Items, change: impl FnOnce(&mut Value)) {
        let mut state: Value = serde_json::from_str(&items[TRUST_STATE]).unwrap();
        change(&mut state);
        items.insert(TRUST_STATE.to_owned(), Zeroizing::new(state.to_string()));
    }

    /// As if the key were in a token.
    fn in_token(mut items: Items, fingerprint: &str) -> Items {
        items.remove(&format!("{}{ANCHOR_KEY}", &fingerprint[..16]));
        change_state(&mut items, |state| {
            state["anchors"][0]["token"] = json!({ "token": "mesh", "id": "0a0b" });
        });
        items
    }

    fn pin(text: &str) -> Pin {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_backed_up_is_restored_ahead_of_all_that_came_after_it() {
        for algorithm in [Algorithm::MlDsa65, Algorithm::EcdsaP256] {
            let (items, fingerprint) = items(algorithm);
            let content = Content::new(items, NOW);
            let again = Content::decode(&content.encode().unwrap()).unwrap();
            let brought = again.check().unwrap();
            brought.hold_to(&[pin(&fingerprint)]).unwrap();
            brought.hold_to(&[pin(&fingerprint[..16].to_uppercase())]).unwrap();
            assert!(brought.to_string().contains(&fingerprint), "{brought}");
            let restored = Content::new(again.restored(), NOW);
            let state: Value = serde_json::from_str(&restored.items[TRUST_STATE]).unwrap();
            assert_eq!((&state["revision"], &state["rotations"]), (&json!(7 + AHEAD), &json!(3)));
            assert_eq!(*restored.items["audit.pem"], "as it is");
            assert!(restored.is_as_new_as(&content) && !content.is_as_new_as(&restored));
        }
    }

    #[test]
    fn a_companion_is_an_anchor_like_another() {
        let (primary, issuing) = items(Algorithm::MlDsa65);
        let (second, companion) = items(Algorithm::EcdsaP256);
        let mut both = merged(&[&primary, &second]);
        change_state(&mut both, |state| state["companion"] = companion.clone().into());
        let brought = Content::new(both.clone(), NOW).check().unwrap();
        brought.hold_to(&[pin(&issuing)]).unwrap();
        assert!(brought.to_string().contains(&companion), "{brought}");
        let key = format!("{}{ANCHOR_KEY}", &companion[..16]);
        let mut lacking = both.clone();
        lacking.remove(&key);
        let error = format!("{:#}", Content::new(lacking, NOW).check().unwrap_err());
        assert!(error.contains(&key) && error.contains("is missing"), "{error}");
        change_state(&mut both, |state| state["companion"] = "00".into());
        let error = format!("{:#}", Content::new(both, NOW).check().unwrap_err());
        assert!(error.contains("issues companions from \"00\""), "{error}");
    }

    #[test]
    fn a_key_in_a_token_is_said_to_be_there_and_shows_nothing_about_the_maker() {
        let (kept, issuing) = items(Algorithm::MlDsa65);
        let held = in_token(kept.clone(), &issuing);
        let alone = Content::new(held.clone(), NOW).check().unwrap();
        assert!(alone.to_string().contains("in the token \"mesh\" (id 0a0b)"), "{alone}");
        alone.hold_to(&[pin(&issuing)]).unwrap();

        // Who knows the anchor by name alone could add one of theirs to it.
        let (other, added) = items(Algorithm::MlDsa65);
        let two = Content::new(merged(&[&other, &held]), NOW).check().unwrap();
        let error = two.hold_to(&[pin(&issuing)]).unwrap_err().to_string();
        assert!(error.contains("nothing was done") && error.contains(&added), "{error}");
        two.hold_to(&[pin(&issuing), pin(&added)]).unwrap();
        two.hold_to(&[pin(&added)]).unwrap();
    }

    #[test]
    fn a_false_or_damaged_one_is_refused_with_the_reason() {
        let (good, fingerprint) = items(Algorithm::MlDsa65);
        let (other, foreign) = items(Algorithm::MlDsa65);
        let key = |fingerprint: &str| format!("{}{ANCHOR_KEY}", &fingerprint[..16]);
        let refused = |change: &dyn Fn(&mut Items), reason: &str| {
            let mut items = good.clone();
            change(&mut items);
            let error = format!("{:#}", Content::new(items, NOW).check().unwrap_err());
            assert!(error.contains(reason), "{error}");
        };
        refused(&|items| drop(items.remove(TRUST_STATE)), "it holds no trust.json");
        refused(&|items| drop(items.remove(&key(&fingerprint))), "is missing");
        // Somebody names an anchor whose key they have not.
        refused(&|items| drop(items.insert(key(&fingerprint), other[&key(&foreign)].clone())), "key");
        refused(
            &|items| {
                let state = items[TRUST_STATE].replace(&fingerprint, &foreign);
                items.insert(TRUST_STATE.to_owned(), Zeroizing::new(state));
            },
            "another fingerprint",
        );
        let brought = Content::new(good.clone(), NOW).check().unwrap();
        assert!(brought.hold_to(&[pin(&foreign)]).unwrap_err().to_string().contains("nothing was done"));
        let newer = br#"{"form":"trellis.dev/backup/v2","made":"","items":{}}"#;
        assert!(Content::decode(newer).err().unwrap().to_string().contains("v2"));
        for text in ["", "0123", "0123456789abcdeg"] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
