//! Fingerprints of what is secret: codes under a key that the cluster keeps, so that nobody outside of it can
//! find out by trying what a short secret is. Nor can anybody inside: what somebody may have chosen is marked
//! together with its place, so that a guess that stands elsewhere has another mark.

use trellis_api::crypto::MessageKind;
use trellis_crypto::{Fingerprint, Secret};

use crate::content::Content;

/// Characters of what the key is called.
const NAME: usize = 8;
/// Between two parts, none of which can hold it, or whose length stands before it.
const END: &[u8] = b"\0";

/// The cluster's key. It has no `Debug`.
#[derive(Clone)]
pub(crate) struct Marks {
    key: Secret,
    name: String,
}

impl Marks {
    pub fn new(key: Secret) -> Self {
        let mut name = Fingerprint::of_secret(&key, b"trellis.dev/marks/v1/name").to_string();
        name.truncate(NAME);
        Self { key, name }
    }

    /// A shared secret, which has the entropy of a key: equal ones have equal marks wherever they are.
    pub fn shared(&self, secret: &Secret) -> Fingerprint {
        self.of("shared", &[secret.as_bytes()])
    }

    /// A derived key, likewise.
    pub fn derived(&self, key: &Secret) -> Fingerprint {
        self.of("derived", &[key.as_bytes()])
    }

    /// Random bytes, which may be few.
    pub fn random(&self, uid: &str, bytes: &[u8]) -> Fingerprint {
        self.of("random", &[uid.as_bytes(), bytes])
    }

    /// What somebody wrote, at its place.
    pub fn item(&self, kind: &str, namespace: &str, name: &str, item: &str, bytes: &[u8]) -> Fingerprint {
        let parts = [kind, namespace, name, item].map(str::as_bytes);
        self.of("item", &[parts[0], parts[1], parts[2], parts[3], bytes])
    }

    /// The same of a Secret or ConfigMap that an object refers to, in full.
    pub fn named(&self, kind: MessageKind, namespace: &str, name: &str, item: &str, bytes: &[u8]) -> String {
        self.item(kind.as_str(), namespace, name, item, bytes).to_string()
    }

    /// A Secret of ours as a whole, by which damage is seen; with the name of the key before it.
    pub fn content(&self, version: u32, fingerprint: &str, algorithm: &str, content: &Content) -> String {
        let mut parts = vec![version.to_be_bytes().to_vec(), fingerprint.into(), algorithm.into()];
        let mut items = Vec::new();
        for (name, bytes) in content.items() {
            items.push(Fingerprint::of_secret(&self.key, bytes));
            parts.push(name.into());
            parts.extend(items.last().map(|mark| mark.as_bytes().to_vec()));
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        format!("{}.{}", self.name, self.of("content", &parts))
    }

    /// Whether a mark of a content was made with this key.
    pub fn made(&self, content: &str) -> bool {
        content.split_once('.').is_some_and(|(name, _)| name == self.name)
    }

    fn of(&self, what: &str, parts: &[&[u8]]) -> Fingerprint {
        let lengths: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
        let mut all = vec![b"trellis.dev/marks/v1/".as_slice(), what.as_bytes(), END];
        for (part, length) in parts.iter().zip(&lengths) {
            all.extend([length.as_slice(), part]);
        }
        Fingerprint::of_secret(&self.key, Secret::concat(&all).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(key: &[u8]) -> Marks {
        Marks::new(Secret::copy_of(key))
    }

    #[test]
    fn equal_secrets_have_equal_marks_and_guesses_elsewhere_have_not() {
        let marks = marks(&[1; 32]);
        let secret = Secret::copy_of(b"same");
        assert_eq!(marks.shared(&secret), marks.shared(&secret.clone()));
        assert_ne!(marks.shared(&secret), marks.derived(&secret));
        assert_ne!(marks.random("a", b"7"), marks.random("b", b"7"));
        let at = |namespace: &str, name: &str| marks.item("Secret", namespace, name, "message", b"1234");
        assert_eq!(at("shop", "pin"), at("shop", "pin"));
        assert_ne!(at("shop", "pin"), at("thief", "pin"));
        assert_ne!(at("shop", "pin"), at("shop", "guess"));
        assert_ne!(marks.item("Secret", "a", "bc", "d", b""), marks.item("Secret", "ab", "c", "d", b""));
        assert_ne!(super::tests::marks(&[2; 32]).shared(&secret), marks.shared(&secret));
    }

    #[test]
    fn every_change_of_a_content_is_seen() {
        let marks = marks(&[1; 32]);
        let content = |one: &str, other: &str| {
            Content::default()
                .with("a", Secret::copy_of(one.as_bytes()))
                .with("b", Secret::copy_of(other.as_bytes()))
        };
        let mark = marks.content(1, "f", "g", &content("1", "2"));
        assert!(marks.made(&mark) && !super::tests::marks(&[2; 32]).made(&mark));
        assert_eq!(mark, marks.content(1, "f", "g", &content("1", "2")));
        for other in [
            marks.content(2, "f", "g", &content("1", "2")),
            marks.content(1, "x", "g", &content("1", "2")),
            marks.content(1, "f", "x", &content("1", "2")),
            marks.content(1, "f", "g", &content("2", "1")),
            marks.content(1, "f", "g", &content("1", "2").with("c", Secret::copy_of(b""))),
        ] {
            assert_ne!(mark, other);
        }
    }
}
