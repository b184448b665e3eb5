//! What somebody does to an audit trail is found, and where.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, json};
use trellis_pki::{
    algorithm::Algorithm,
    audit::{Chain, Fault, Summary, Verifier, Wrong, hash, public_key, public_key_pem},
    key::{PrivateKey, PublicKey},
};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn key() -> PrivateKey {
    PrivateKey::generate(Algorithm::MlDsa65).unwrap()
}

/// A chain of one beginning, six records with a signature behind the third, and one behind the last.
fn trail(id: &str, after: Option<&str>, key: &PrivateKey) -> Vec<String> {
    let (mut chain, first) = Chain::begin(id.to_owned(), after, key, now());
    let mut lines = vec![first];
    for number in 0..6 {
        let fields = Map::from_iter([("serial".to_owned(), json!(format!("{number:02x}")))]);
        lines.push(chain.record("issued", fields, now()));
        if number == 2 {
            lines.push(chain.sign(key, now()).unwrap());
        }
    }
    lines.push(chain.sign(key, now()).unwrap());
    assert_eq!(chain.unsigned(), 0);
    lines
}

fn verify(trusted: Option<&PublicKey>, lines: &[String]) -> Result<Summary, Fault> {
    let mut verifier = Verifier::new(trusted.cloned(), false);
    lines.iter().try_for_each(|line| verifier.line(line))?;
    Ok(verifier.summary())
}

#[test]
fn an_untouched_trail_is_good_also_between_other_lines_and_behind_a_prefix() {
    let key = key();
    let lines = trail("a", None, &key);
    let expected = Summary { records: 9, chains: 1, signatures: 2, unsigned: 0, other_lines: 0 };
    assert_eq!(verify(Some(key.public_key()), &lines), Ok(expected.clone()));
    assert_eq!(verify(None, &lines), Ok(expected));
    let mixed: Vec<String> = lines
        .iter()
        .flat_map(|line| [format!("[pod/trellis-ca-1/ca] {line}\n"), r#"{"level":"INFO"}"#.to_owned()])
        .collect();
    let found = verify(Some(key.public_key()), &mixed).unwrap();
    assert_eq!((found.records, found.other_lines), (9, 9));
    let cut = verify(Some(key.public_key()), &lines[..6]).unwrap();
    assert_eq!(cut.unsigned, 1, "what nothing signed is said to be so");
}

#[test]
fn whatever_is_done_to_it_is_found_at_the_record_where_it_shows() {
    let (key, other) = (key(), key());
    let good = trail("a", None, &key);
    let at = |lines: &[String]| {
        let fault = verify(Some(key.public_key()), lines).unwrap_err();
        (fault.line, fault.what)
    };
    let changed = |index: usize, from: &str, to: &str| {
        let mut lines = good.clone();
        assert!(lines[index].contains(from), "{}", lines[index]);
        lines[index] = lines[index].replace(from, to);
        lines
    };
    let without = |index: usize| {
        let mut lines = good.clone();
        lines.remove(index);
        lines
    };
    assert_eq!(at(&without(0)), (1, Wrong::Removed(0, 0)));
    assert_eq!(at(&without(3)), (4, Wrong::Removed(3, 3)));
    assert_eq!(at(&good[2..]), (1, Wrong::Removed(0, 1)));
    assert_eq!(at(&changed(2, r#""serial":"01""#, r#""serial":"ff""#)), (4, Wrong::Changed));
    assert_eq!(at(&changed(2, "issued", "refused")), (4, Wrong::Changed));
    let mut swapped = good.clone();
    swapped.swap(2, 3);
    assert_eq!(at(&swapped), (3, Wrong::Removed(2, 2)));
    let twice = [&good[..3], &good[2..]].concat();
    assert_eq!(at(&twice), (4, Wrong::Reordered));
    let spliced = [&good[..3], &trail("a", None, &other)[3..]].concat();
    assert_eq!(at(&spliced), (4, Wrong::Changed));

    // Whoever rewrites the whole chain lacks the key.
    let fingerprint = other.public_key().fingerprint();
    assert_eq!(at(&trail("a", None, &other)), (5, Wrong::UnknownSigner(fingerprint)));
    let own = key.public_key().fingerprint();
    let signature = good[4].split(r#""signature":""#).nth(1).unwrap()[..64].to_owned();
    assert_eq!(at(&changed(4, &signature, &"0".repeat(64))), (5, Wrong::Forged(own)));
    assert!(matches!(at(&changed(0, "started", "begun")), (1, Wrong::Malformed(_))));
}

#[test]
fn a_run_that_was_cut_out_of_a_file_is_missed_by_the_one_behind_it() {
    let key = key();
    let first = trail("a", None, &key);
    let second = trail("b", Some(&hash(first.last().unwrap())), &key);
    let third = trail("c", Some(&hash(second.last().unwrap())), &key);
    let trusted = Some(key.public_key());
    assert_eq!(verify(trusted, &[&first[..], &second, &third].concat()).unwrap().chains, 3);
    let fault = verify(trusted, &[&first[..], &third].concat()).unwrap_err();
    assert_eq!((fault.chain.as_str(), fault.what), ("c", Wrong::RunRemoved));
    let fault = verify(trusted, &[&first[..first.len() - 1], &second].concat()).unwrap_err();
    assert_eq!(fault.what, Wrong::RunRemoved, "its end was cut off");
    // Replicas write at the same time.
    let mixed: Vec<String> =
        first.iter().zip(trail("d", None, &key)).flat_map(|(a, b)| [a.clone(), b]).collect();
    assert_eq!(verify(trusted, &mixed).unwrap().chains, 2);
}

#[test]
fn what_is_recorded_cannot_overwrite_what_makes_the_chain() {
    let key = key();
    let (mut chain, first) = Chain::begin("a".to_owned(), None, &key, now());
    let fields = Map::from_iter([("seq".to_owned(), json!(99)), ("previous".to_owned(), json!("x"))]);
    let line = chain.record("issued", fields, now());
    assert!(verify(None, &[first, line]).is_ok());
}

#[test]
fn the_public_key_is_read_back_from_what_is_shown() {
    let key = key();
    assert_eq!(public_key(&public_key_pem(key.public_key())).as_ref(), Some(key.public_key()));
    assert_eq!(public_key("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), None);
}
