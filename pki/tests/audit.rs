//! What somebody does to an audit trail is found, and where.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use trellis_pki::algorithm::Algorithm;
use trellis_pki::audit::{
    Chain, FORM, MAX_RECORD, MAX_UNSIGNED, Report, Verifier, Wrong, hash, public_key_pem, public_keys,
    record_in,
};
use trellis_pki::key::{PrivateKey, PublicKey};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn key() -> PrivateKey {
    PrivateKey::generate(Algorithm::MlDsa65).unwrap()
}

fn serial(number: usize) -> Map<String, Value> {
    Map::from_iter([("serial".to_owned(), json!(format!("{number:02x}")))])
}

/// Records 0 and 1 begin it, 5 and 9 sign it, the others were issued.
fn trail(id: &str, after: Option<&str>, key: &PrivateKey) -> Vec<String> {
    let (mut chain, first) = Chain::begin(id.to_owned(), after, key, now()).unwrap();
    let mut lines = Vec::from(first);
    for number in 2..9 {
        lines.push(match number {
            5 => chain.sign(key, now()).unwrap(),
            _ => chain.record("issued", &serial(number), now()),
        });
    }
    lines.push(chain.sign(key, now()).unwrap());
    assert_eq!(chain.unsigned(), 0);
    lines
}

fn report(trusted: &[&PublicKey], partial: bool, lines: &[String]) -> Report {
    let mut verifier = Verifier::new(trusted.iter().copied().cloned().collect(), partial);
    verifier.feed(lines.join("\n").as_bytes());
    verifier.finish()
}

/// The faults as line, record and word.
fn faults(report: &Report) -> Vec<(u64, u64, &'static str)> {
    report.faults.iter().map(|fault| (fault.line, fault.seq, fault.what.as_str())).collect()
}

#[test]
fn an_untouched_trail_is_good_also_between_other_lines_and_behind_a_prefix() {
    let key = key();
    let lines = trail("a", None, &key);
    for trusted in [&[key.public_key()][..], &[]] {
        let found = report(trusted, false, &lines);
        assert!(found.is_good(), "{found:?}");
        assert_eq!((found.summary.records, found.summary.signatures, found.summary.unsigned), (10, 3, 0));
    }
    let mixed: Vec<String> = lines
        .iter()
        .flat_map(|line| {
            let mention = format!(r#"{{"message":"{{\"audit\":\"{FORM}\",\"chain\":\"a\"}}"}}"#);
            [format!("[pod/trellis-ca-1/ca] {{x}} {line}\r"), mention, format!("INFO {FORM}")]
        })
        .collect();
    let found = report(&[key.public_key()], false, &mixed);
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.summary.records, found.summary.other_lines), (10, 20));
    let cut = report(&[key.public_key()], false, &lines[..8]);
    assert_eq!((cut.is_good(), cut.summary.unsigned), (true, 2), "what nothing signed is said to be so");
    assert!(!report(&[key.public_key()], false, &["nothing".to_owned()]).is_good());
}

#[test]
fn whatever_is_done_to_it_is_found_at_the_record_where_it_shows() {
    let (key, other) = (key(), key());
    let good = trail("a", None, &key);
    let found = |lines: &[String]| faults(&report(&[key.public_key()], false, lines));
    let changed = |index: usize, from: &str, to: &str| {
        let mut lines = good.clone();
        assert!(lines[index].contains(from), "{}", lines[index]);
        lines[index] = lines[index].replace(from, to);
        lines
    };
    let without = |from: usize, to: usize| [&good[..from], &good[to..]].concat();
    let swapped = |a: usize, b: usize| {
        let mut lines = good.clone();
        lines.swap(a, b);
        lines
    };
    assert_eq!(found(&good), []);

    assert_eq!(found(&without(0, 1)), [(1, 1, "removed")]);
    assert_eq!(found(&without(0, 2)), [(1, 2, "removed")]);
    assert_eq!(found(&without(3, 4)), [(4, 4, "removed")]);
    assert_eq!(found(&without(1, 2)), [(2, 2, "removed"), (2, 2, "unsigned")]);
    assert_eq!(found(&without(5, 6)), [(6, 6, "removed")]);
    assert_eq!(found(&without(3, 8)), [(4, 8, "removed")]);

    assert_eq!(found(&changed(2, r#""serial":"02""#, r#""serial":"ff""#)), [(3, 2, "changed")]);
    assert_eq!(found(&changed(2, "issued", "refused")), [(3, 2, "changed")]);
    assert_eq!(found(&changed(2, "2027", "2028")), [(3, 2, "changed")]);
    assert_eq!(found(&changed(2, "}", " }")), [(3, 2, "changed")]);
    let before_signature = changed(4, r#""serial":"04""#, r#""serial":"ff""#);
    assert_eq!(found(&before_signature), [(5, 4, "changed")]);
    let link = good[3].split(r#""previous":""#).nth(1).unwrap()[..64].to_owned();
    assert_eq!(found(&changed(3, &link, &"0".repeat(64))), [(4, 3, "changed")]);
    assert_eq!(found(&changed(3, r#""chain":"a""#, r#""chain":"b""#))[0], (4, 3, "removed"), "of no chain");
    assert_eq!(found(&changed(0, "started", "begun"))[0], (1, 0, "changed"));

    assert_eq!(found(&swapped(2, 3)), [(3, 3, "reordered")]);
    assert_eq!(found(&swapped(0, 1))[0], (1, 1, "reordered"));
    assert_eq!(found(&[&good[..3], &good[2..]].concat()), [(4, 2, "repeated")]);
    assert_eq!(found(&[&good[..], &good[3..4]].concat()), [(11, 3, "repeated")]);

    // Whoever puts something of their own there, or rewrites it all, lacks the key.
    let foreign = trail("a", None, &other);
    let spliced = found(&[&good[..3], &foreign[3..]].concat());
    assert_eq!(spliced[..2], [(3, 2, "changed"), (6, 5, "unknown_signer")]);
    assert_eq!(found(&foreign)[0], (2, 1, "unknown_signer"));
    let same_key = trail("b", None, &key);
    assert_eq!(found(&[&good[..3], &same_key[3..]].concat())[0], (4, 3, "removed"));
    let signature = good[5].split(r#""signature":""#).nth(1).unwrap()[..64].to_owned();
    assert_eq!(found(&changed(5, &signature, &"0".repeat(64)))[0], (6, 5, "forged_signature"));
    let mut renamed = trail("a", None, &other);
    for line in &mut renamed {
        *line = line.replace(&other.public_key().fingerprint(), &key.public_key().fingerprint());
    }
    assert_eq!(found(&renamed)[0], (2, 1, "forged_signature"));
    assert_eq!(found(&changed(9, "2027", "2028")), [(10, 9, "forged_signature")], "when it was signed");
}

/// A trail without a signature is as easily made as one that was never written.
#[test]
fn a_trail_that_leaves_its_signatures_out_is_not_good() {
    let (key, other) = (key(), key());
    let mut lines = trail("a", None, &other)[..1].to_vec();
    for number in 1..4 {
        let previous = hash(lines.last().unwrap().as_bytes());
        lines.push(format!(
            r#"{{"audit":"{FORM}","chain":"a","seq":{number},"time":"","event":"issued","previous":"{previous}"}}"#
        ));
    }
    for trusted in [&[key.public_key()][..], &[]] {
        let found = report(trusted, false, &lines);
        assert_eq!(faults(&found), [(2, 1, "unsigned"), (4, 3, "unsigned")]);
    }
    let found = report(&[key.public_key()], true, &lines[2..]);
    assert_eq!(faults(&found), [(2, 3, "unsigned")], "nor is a piece of it");

    // And one that was signed at its beginning gets only so far.
    let (mut chain, first) = Chain::begin("a".to_owned(), None, &key, now()).unwrap();
    let mut lines = Vec::from(first);
    while !chain.must_sign() {
        lines.push(chain.record("issued", &Map::new(), now()));
    }
    let most = report(&[key.public_key()], false, &lines);
    assert_eq!((most.is_good(), most.summary.unsigned), (true, MAX_UNSIGNED));
    lines.push(chain.record("issued", &Map::new(), now()));
    assert_eq!(faults(&report(&[key.public_key()], false, &lines)), [(259, 258, "unsigned")]);
}

#[test]
fn a_run_that_was_cut_out_of_a_file_is_missed_by_the_one_behind_it() {
    let key = key();
    let last = |lines: &[String]| hash(lines.last().unwrap().as_bytes());
    let first = trail("a", None, &key);
    let second = trail("b", Some(&last(&first)), &key);
    let third = trail("c", Some(&last(&second)), &key);
    let check = |lines: &[&[String]]| report(&[key.public_key()], false, &lines.concat());
    assert_eq!(check(&[&first, &second, &third]).chains.len(), 3);
    assert!(check(&[&first, &second, &third]).is_good());
    let cut = check(&[&first, &third]);
    assert_eq!((&*cut.faults[0].chain, &cut.faults[0].what), ("c", &Wrong::RunRemoved));
    let shorter = check(&[&first[..first.len() - 1], &second]);
    assert_eq!((shorter.faults[0].line, &shorter.faults[0].what), (10, &Wrong::RunRemoved), "its end");
    // The one before it may have gone on while it began.
    let overtaken = trail("b", Some(&last(&first[..8])), &key);
    assert!(check(&[&first, &overtaken]).is_good());
}

#[test]
fn replicas_write_at_the_same_time() {
    let key = key();
    let (a, b) = (trail("a", None, &key), trail("b", None, &key));
    let mixed: Vec<String> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let found = report(&[key.public_key()], false, &mixed);
    assert!(found.is_good() && found.chains.len() == 2, "{found:?}");
    let mut cut = mixed.clone();
    cut.remove(7);
    let found = report(&[key.public_key()], false, &cut);
    assert_eq!(found.faults.iter().map(|fault| (&*fault.chain, fault.seq)).collect::<Vec<_>>(), [("b", 4)]);
}

#[test]
fn of_a_piece_what_is_there_is_held_to_account() {
    let key = key();
    let lines = trail("a", None, &key);
    let piece = |trusted: &[&PublicKey], lines: &[String]| report(trusted, true, lines);
    assert!(piece(&[key.public_key()], &lines[3..]).is_good());
    let unknown = piece(&[], &lines[3..]);
    assert_eq!((unknown.is_good(), unknown.summary.unchecked, unknown.summary.signatures), (true, 2, 0));
    assert_eq!(
        faults(&piece(&[key.public_key()], &[&lines[3..6], &lines[7..]].concat())),
        [(4, 7, "removed")]
    );
    let mut swapped = lines[3..].to_vec();
    swapped.swap(0, 1);
    assert_eq!(faults(&piece(&[key.public_key()], &swapped)), [(1, 4, "reordered")]);
}

#[test]
fn a_record_that_was_cut_in_writing_is_no_fault_but_one_that_is_missing_is() {
    let key = key();
    let first = trail("a", None, &key);
    let torn = first[9][..100].to_owned();
    let second = trail("b", Some(&hash(first[8].as_bytes())), &key);
    let found = report(&[key.public_key()], false, &[&first[..9], &[torn], &second].concat());
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.summary.damaged_lines, found.summary.unsigned), (1, 3));
    let mut damaged = first.clone();
    damaged[3] = damaged[3].replace("serial", "ser\"ial");
    let found = report(&[key.public_key()], false, &damaged);
    assert_eq!((faults(&found), found.summary.damaged_lines), (vec![(5, 4, "removed")], 1));
}

#[test]
fn what_callers_send_makes_no_record_that_is_not_read() {
    let key = key();
    let (mut chain, first) = Chain::begin("a".to_owned(), None, &key, now()).unwrap();
    let mut lines = Vec::from(first);
    let long = "\u{1}\"ü".repeat(20_000);
    for fields in [
        json!({ "seq": 99, "previous": "x", "chain": "y", "audit": "z" }),
        json!({ "message": long }),
        json!({ "names": vec![long.as_str(); 1_000], "deep": { "er": [long, 1, null] } }),
        json!({ "line\nend": "a\nb\r\n", "signature": "00" }),
    ] {
        lines.push(chain.record("refused", fields.as_object().unwrap(), now()));
    }
    lines.push(chain.sign(&key, now()).unwrap());
    assert!(lines.iter().all(|line| line.len() <= MAX_RECORD && !line.contains('\n')));
    let found = report(&[key.public_key()], false, &lines);
    assert!(found.is_good(), "{found:?}");
    assert_eq!(found.summary.records, 7);
}

#[test]
fn the_public_key_is_read_back_from_what_is_shown() {
    let (key, other) = (key(), key());
    let pem = public_key_pem(key.public_key());
    assert_eq!(public_keys(&pem), Some(vec![key.public_key().clone()]));
    let both = pem + &public_key_pem(other.public_key());
    assert_eq!(public_keys(&both).map(|keys| keys.len()), Some(2));
    assert_eq!(public_keys("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), None);
    assert_eq!(public_keys("nothing"), None);
}

#[test]
fn a_line_without_end_takes_no_memory_and_hides_nothing() {
    let key = key();
    let lines = trail("a", None, &key);
    let mut verifier = Verifier::new(vec![key.public_key().clone()], false);
    for _ in 0..1_000 {
        verifier.feed(&[b'x'; 10_000]);
    }
    verifier.feed(b"\n");
    verifier.feed((lines.join("\n") + "\n").as_bytes());
    verifier.feed(&[lines[0].as_bytes(), &[b' '; 100_000], b"\n"].concat());
    let found = verifier.finish();
    assert_eq!((found.summary.records, found.summary.other_lines, found.summary.damaged_lines), (10, 1, 1));
    assert!(found.is_good(), "{found:?}");
}

proptest! {
    /// However it comes in, it is the same trail; and no byte of it can be another without a fault, a line
    /// less, or the end of it being unsigned.
    #[test]
    fn every_byte_counts(at in 0usize..100_000, to in any::<u8>(), cut in 1usize..5_000) {
        thread_local! {
            static TRAIL: (PrivateKey, Vec<u8>) = {
                let key = key();
                let lines = trail("a", None, &key).join("\n") + "\n";
                (key, lines.into_bytes())
            };
        }
        TRAIL.with(|(key, text)| {
            let at = at % text.len();
            let mut changed = text.clone();
            changed[at] = to;
            let mut verifier = Verifier::new(vec![key.public_key().clone()], false);
            for piece in changed.chunks(cut) {
                verifier.feed(piece);
            }
            let found = verifier.finish();
            let whole = found.is_good() && found.summary.records == 10 && found.summary.unsigned == 0;
            // The end of a line is not part of a record, and the last line needs none.
            let same = records(&changed) == records(text);
            prop_assert_eq!(whole, same, "byte {} is {}", at, to);
            Ok(())
        })?;
    }
}

fn records(text: &[u8]) -> Vec<&[u8]> {
    text.split(|byte| *byte == b'\n').filter_map(record_in).collect()
}
