//! Sealed files as their users see them: what goes in comes out, and whatever was done to one in between
//! is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::sync::LazyLock;

use proptest::prelude::*;
use trellis_crypto::seal::{
    self, CHUNK_LEN, MAX_PURPOSE, MAX_RECIPIENTS, OpeningKey, Recipient, SealError, open_bytes, seal_bytes,
};

const PURPOSE: &str = "trellis test";
const TAG_LEN: usize = 16;

static ALICE: LazyLock<OpeningKey> = LazyLock::new(|| OpeningKey::from_seed(&[1; 32]).unwrap());
static BOB: LazyLock<OpeningKey> = LazyLock::new(|| OpeningKey::from_seed(&[2; 32]).unwrap());
static EVE: LazyLock<OpeningKey> = LazyLock::new(|| OpeningKey::from_seed(&[3; 32]).unwrap());

/// The smallest file that has everything, and the same for all cases of a test.
static SMALL: LazyLock<Vec<u8>> = LazyLock::new(|| sealed_to_alice(b"a secret"));

fn to(keys: &[&OpeningKey]) -> Vec<Recipient> {
    keys.iter().map(|key| key.recipient().clone()).collect()
}

fn sealed_to_alice(plain: &[u8]) -> Vec<u8> {
    seal_bytes(PURPOSE, &to(&[&ALICE]), plain).unwrap()
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn header_len(sealed: &[u8]) -> usize {
    let mac = sealed.windows(6).position(|window| window == b"\nmac: ").unwrap() + 1;
    mac + sealed[mac..].iter().position(|byte| *byte == b'\n').unwrap() + 1
}

fn refused(sealed: &[u8]) -> SealError {
    open_bytes(PURPOSE, &ALICE, sealed).map(|plain| plain.to_vec()).unwrap_err()
}

/// The file with its chunks put together as `order` says.
fn rearranged(sealed: &[u8], order: &[usize]) -> Vec<u8> {
    let (header, payload) = sealed.split_at(header_len(sealed));
    let chunks: Vec<&[u8]> = payload.chunks(CHUNK_LEN + TAG_LEN).collect();
    let mut out = header.to_vec();
    order.iter().for_each(|index| out.extend_from_slice(chunks[*index]));
    out
}

#[test]
fn what_goes_in_comes_out_at_every_size() {
    for length in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, 5 * CHUNK_LEN + 77] {
        let plain = content(length);
        let sealed = sealed_to_alice(&plain);
        assert_eq!(open_bytes(PURPOSE, &ALICE, &sealed).unwrap().as_slice(), plain, "{length} bytes");
        let chunks = length.div_ceil(CHUNK_LEN).max(1);
        assert_eq!(sealed.len(), header_len(&sealed) + length + chunks * TAG_LEN, "{length} bytes");

        let mut opened = Vec::new();
        let count = seal::open(PURPOSE, &ALICE, &mut sealed.as_slice(), &mut opened).unwrap();
        assert_eq!((count, opened), (length as u64, plain));
    }
}

#[test]
fn nothing_of_the_content_shows_and_no_two_files_are_alike() {
    let plain = [b"find me".as_slice(); 40].concat();
    let (one, other) = (sealed_to_alice(&plain), sealed_to_alice(&plain));
    assert!(!one.windows(7).any(|window| window == b"find me"));
    assert_ne!(one[header_len(&one)..], other[header_len(&other)..]);
}

#[test]
fn each_of_several_recipients_opens_it_and_nobody_else() {
    let sealed = seal_bytes(PURPOSE, &to(&[&ALICE, &BOB]), b"for two").unwrap();
    for key in [&*ALICE, &*BOB] {
        assert_eq!(open_bytes(PURPOSE, key, &sealed).unwrap().as_slice(), b"for two");
    }
    let error = open_bytes(PURPOSE, &EVE, &sealed).unwrap_err();
    let SealError::WrongKey { held, recipients } = &error else { panic!("{error}") };
    assert_eq!(*held, EVE.recipient().fingerprint());
    assert_eq!(*recipients, [ALICE.recipient().fingerprint(), BOB.recipient().fingerprint()]);
    assert!(error.to_string().contains(&BOB.recipient().fingerprint()), "{error}");
}

#[test]
fn recipients_are_bounded_when_sealing_and_when_opening() {
    let many = |count| vec![ALICE.recipient().clone(); count];
    assert!(matches!(seal_bytes(PURPOSE, &[], b""), Err(SealError::NoRecipient)));
    assert!(matches!(
        seal_bytes(PURPOSE, &many(MAX_RECIPIENTS + 1), b""),
        Err(SealError::TooManyRecipients(count)) if count == MAX_RECIPIENTS + 1
    ));
    let sealed = seal_bytes(PURPOSE, &many(MAX_RECIPIENTS), b"many").unwrap();
    assert_eq!(open_bytes(PURPOSE, &ALICE, &sealed).unwrap().as_slice(), b"many");

    let text = String::from_utf8_lossy(&sealed).into_owned();
    let line = text.lines().nth(2).unwrap();
    let more = text.replacen(line, &format!("{line}\n{line}"), 1);
    let error = refused(more.as_bytes());
    assert!(matches!(error, SealError::Header { line, .. } if line == MAX_RECIPIENTS + 3), "{error}");
}

#[test]
fn a_file_of_one_purpose_does_not_pass_as_one_of_another() {
    let error = open_bytes("trellis backup", &ALICE, &SMALL).unwrap_err();
    let SealError::OtherPurpose { found, wanted } = &error else { panic!("{error}") };
    assert_eq!((found.as_str(), wanted.as_str()), (PURPOSE, "trellis backup"));

    // Nor if its header claims to be: the content key is bound to the purpose.
    let end = header_len(&SMALL);
    let header = String::from_utf8(SMALL[..end].to_vec()).unwrap().replacen(PURPOSE, "trellis backup", 1);
    let forged = [header.as_bytes(), &SMALL[end..]].concat();
    let error = open_bytes("trellis backup", &ALICE, &forged).unwrap_err();
    assert!(matches!(error, SealError::Header { line: 3, .. }), "{error}");
}

#[test]
fn a_purpose_is_a_plain_short_line() {
    let long = "x".repeat(MAX_PURPOSE + 1);
    for purpose in ["", " ", " x", "x ", "a\nb", "a\r", "tab\t", "naïve", "\u{1b}[2J", long.as_str()] {
        let error = seal_bytes(purpose, &to(&[&ALICE]), b"").unwrap_err();
        assert!(matches!(&error, SealError::Purpose(shown) if shown == purpose), "{error}");
        let error = open_bytes(purpose, &ALICE, &SMALL).unwrap_err();
        assert!(matches!(&error, SealError::Purpose(shown) if shown == purpose), "{error}");
    }
    let longest = &long[1..];
    let sealed = seal_bytes(longest, &to(&[&ALICE]), b"x").unwrap();
    assert_eq!(open_bytes(longest, &ALICE, &sealed).unwrap().as_slice(), b"x");
}

#[test]
fn a_change_of_any_byte_is_refused() {
    for at in 0..SMALL.len() {
        let mut changed = SMALL.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(open_bytes(PURPOSE, &ALICE, &changed).is_err(), "opens with byte {at} changed");
    }
}

#[test]
fn a_cut_at_any_byte_is_refused() {
    let end = header_len(&SMALL);
    for at in 0..SMALL.len() {
        let error = refused(&SMALL[..at]);
        // In the header a cut is plain to see, as it is where not even a tag is left.
        let plain = at < end + TAG_LEN;
        let told =
            if plain { matches!(error, SealError::Cut) } else { matches!(error, SealError::CutOrChanged(0)) };
        assert!(told, "cut at {at}: {error}");
    }
}

#[test]
fn a_cut_between_chunks_is_refused_whatever_is_left() {
    let sealed = sealed_to_alice(&content(3 * CHUNK_LEN));
    let end = header_len(&sealed);
    for chunks in 0..3 {
        let border = end + chunks * (CHUNK_LEN + TAG_LEN);
        for (at, cut) in
            [(border, true), (border + 1, true), (border + TAG_LEN, false), (border + 999, false)]
        {
            let error = refused(&sealed[..at]);
            let told = match error {
                SealError::Cut => cut,
                SealError::CutOrChanged(index) => !cut && index == chunks as u64,
                _ => false,
            };
            assert!(told, "cut at {at}: {error}");
        }
    }
    let mut changed = sealed.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert!(matches!(refused(&changed), SealError::Changed(2)), "a full last chunk is not taken for a cut");
}

#[test]
fn chunks_that_were_moved_doubled_dropped_or_brought_along_are_refused() {
    let sealed = sealed_to_alice(&content(3 * CHUNK_LEN + 5));
    assert_eq!(rearranged(&sealed, &[0, 1, 2, 3]), sealed);
    let cases: [(&[usize], u64); 6] = [
        (&[1, 0, 2, 3], 0),
        (&[0, 2, 1, 3], 1),
        (&[0, 0, 1, 2, 3], 1),
        (&[0, 2, 3], 1),
        (&[1, 2, 3], 0),
        (&[0, 1, 2, 2, 3], 3),
    ];
    for (order, chunk) in cases {
        let error = refused(&rearranged(&sealed, order));
        assert!(matches!(error, SealError::Changed(index) if index == chunk), "{order:?}: {error}");
    }
    // The end at the wrong place.
    assert!(matches!(refused(&rearranged(&sealed, &[0, 1, 3])), SealError::CutOrChanged(2)));

    let other = sealed_to_alice(&content(3 * CHUNK_LEN + 5));
    let mixed = [&sealed[..header_len(&sealed)], &other[header_len(&other)..]].concat();
    assert!(matches!(refused(&mixed), SealError::Changed(0)));

    let more = [sealed.as_slice(), b"more"].concat();
    assert!(matches!(refused(&more), SealError::CutOrChanged(3)));
    let full = [sealed_to_alice(&content(CHUNK_LEN)).as_slice(), b"more"].concat();
    assert!(matches!(refused(&full), SealError::Changed(0)));
}

#[test]
fn nothing_is_written_that_was_not_sealed_there() {
    let plain = content(3 * CHUNK_LEN);
    let mut sealed = sealed_to_alice(&plain);
    let second = header_len(&sealed) + CHUNK_LEN + TAG_LEN;
    sealed[second + 17] ^= 0x40;
    let mut opened = Vec::new();
    let error = seal::open(PURPOSE, &ALICE, &mut sealed.as_slice(), &mut opened).unwrap_err();
    assert!(matches!(error, SealError::Changed(1)), "{error}");
    assert!(opened == plain[..CHUNK_LEN], "{} bytes were written", opened.len());
}

#[test]
fn a_line_of_the_header_that_is_not_what_it_should_be_is_named() {
    let end = header_len(&SMALL);
    let header = String::from_utf8(SMALL[..end].to_vec()).unwrap();
    let line = |number: usize| header.lines().nth(number - 1).unwrap();
    let (to, mac) = (line(3), line(4));
    let print = ALICE.recipient().fingerprint();
    let cases = [
        (2, header.replacen("purpose: ", "purpose:", 1)),
        (2, header.replacen(PURPOSE, " x", 1)),
        (2, header.replacen(PURPOSE, &"x".repeat(3000), 1)),
        (3, header.replacen(&format!("{to}\n"), "", 1)),
        (3, header.replacen("to: ", "To: ", 1)),
        (3, header.replacen(to, &format!("{to} x"), 1)),
        (3, header.replacen(&print, &print.to_uppercase(), 1)),
        (3, header.replacen(&print, &print[1..], 1)),
        (4, header.replacen(mac, &mac[..mac.len() - 4], 1)),
        (4, header.replacen(mac, &format!("{mac}\r"), 1)),
        // Well-formed, but not what was sealed.
        (5, header.replacen(to, &format!("{to}\n{to}"), 1)),
    ];
    for (number, text) in cases {
        assert_ne!(text, header);
        let error = refused(&[text.as_bytes(), &SMALL[end..]].concat());
        assert!(
            matches!(error, SealError::Header { line, .. } if line == number),
            "line {number}: {error}\n{text}"
        );
        assert!(error.to_string().contains(&format!("line {number} ")), "{error}");
    }
}

#[test]
fn another_form_is_told_from_what_is_no_sealed_file() {
    let with =
        |first: &str| [first.as_bytes(), &SMALL[SMALL.iter().position(|b| *b == b'\n').unwrap()..]].concat();
    let error = refused(&with("trellis.dev/sealed/v2"));
    assert!(matches!(&error, SealError::Version(form) if form == "trellis.dev/sealed/v2"), "{error}");
    for first in ["age-encryption.org/v1", "trellis.dev/sealed/\u{1b}[2J", "", " trellis.dev/sealed/v1"] {
        assert!(matches!(refused(&with(first)), SealError::NotSealed), "{first:?}");
    }
    assert!(matches!(refused(&[0xff; 5000]), SealError::NotSealed));
    assert!(matches!(refused(b"trellis.dev/sealed/v1"), SealError::Cut));
    assert!(matches!(refused(b""), SealError::Cut));
}

#[test]
fn what_a_file_says_of_itself_is_read_without_a_key() {
    let sealed = seal_bytes(PURPOSE, &to(&[&BOB, &ALICE]), &content(3 * CHUNK_LEN)).unwrap();
    let envelope = seal::inspect(&mut &sealed[..header_len(&sealed)]).unwrap();
    assert_eq!(envelope.purpose, PURPOSE);
    assert_eq!(envelope.recipients, [BOB.recipient().fingerprint(), ALICE.recipient().fingerprint()]);
    assert!(matches!(seal::inspect(&mut &b"no"[..]), Err(SealError::NotSealed)));
}

#[test]
fn the_pinned_file_opens_with_the_key_of_either_recipient() {
    let first = OpeningKey::from_pem(include_str!("vectors/x-wing.key.pem")).unwrap();
    let second = OpeningKey::from_seed(&[7; 32]).unwrap();
    let plain: Vec<u8> = (0..CHUNK_LEN + 100).map(|at| (at % 251) as u8).collect();
    for key in [&first, &second] {
        let opened = open_bytes("pinned", key, include_bytes!("vectors/sealed-v1.bin")).unwrap();
        assert!(*opened == plain);
    }
    let opened = open_bytes("pinned by Go", &first, include_bytes!("vectors/sealed-by-go.bin")).unwrap();
    assert!(*opened == plain, "what another implementation sealed");
}

/// Counts what was read of it.
struct Counted<'a, R> {
    source: R,
    given: &'a Cell<usize>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(room)?;
        self.given.set(self.given.get() + count);
        Ok(count)
    }
}

/// Notes by how much it lags behind a source.
struct Behind<'a> {
    given: &'a Cell<usize>,
    taken: usize,
    most: usize,
}

impl Write for Behind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.most = self.most.max(self.given.get().saturating_sub(self.taken));
        self.taken += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn of_a_long_stream_no_more_than_a_chunk_is_held() {
    let given = Cell::new(0);
    let mut source = Counted { source: io::repeat(9).take(100 * CHUNK_LEN as u64), given: &given };
    let mut sink = Behind { given: &given, taken: 0, most: 0 };
    let count = seal::seal(PURPOSE, &to(&[&ALICE]), &mut source, &mut sink).unwrap();
    assert_eq!(count, 100 * CHUNK_LEN as u64);
    assert!((CHUNK_LEN / 2..=CHUNK_LEN + 1).contains(&sink.most), "{} bytes were held", sink.most);

    let sealed = sealed_to_alice(&content(20 * CHUNK_LEN));
    let mut source = Counted { source: sealed.as_slice(), given: &given };
    given.set(0);
    let mut sink = Behind { given: &given, taken: 0, most: 0 };
    seal::open(PURPOSE, &ALICE, &mut source, &mut sink).unwrap();
    assert!(sink.most < 3 * CHUNK_LEN, "{} bytes were held", sink.most);
}

#[test]
fn a_stream_that_fails_is_told_from_a_file_that_is_bad() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("disk gone"))
        }
    }
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("disk full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::other("disk full"))
        }
    }
    let recipients = to(&[&ALICE]);
    let error = seal::seal(PURPOSE, &recipients, &mut Broken, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SealError::Reading(_)) && error.to_string().contains("disk gone"), "{error}");
    let error = seal::seal(PURPOSE, &recipients, &mut &b"x"[..], &mut Broken).unwrap_err();
    assert!(matches!(error, SealError::Writing(_)) && error.to_string().contains("disk full"), "{error}");
    let cut = &SMALL[..SMALL.len() - 3];
    let error = seal::open(PURPOSE, &ALICE, &mut cut.chain(Broken), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SealError::Reading(_)), "{error}");
    let error = seal::open(PURPOSE, &ALICE, &mut SMALL.as_slice(), &mut Broken).unwrap_err();
    assert!(matches!(error, SealError::Writing(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_edit_of_a_file_is_accepted(
        at in 0..SMALL.len(),
        removed in 0..4_usize,
        put in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let end = (at + removed).min(SMALL.len());
        let edited = [&SMALL[..at], &put, &SMALL[end..]].concat();
        prop_assume!(edited != *SMALL);
        prop_assert!(open_bytes(PURPOSE, &ALICE, &edited).is_err());
    }

    #[test]
    fn what_is_made_up_is_refused(tail in prop::collection::vec(any::<u8>(), 0..300), lines in 0..4_usize) {
        let begin: usize = SMALL.split_inclusive(|byte| *byte == b'\n').take(lines).map(<[u8]>::len).sum();
        let made_up = [&SMALL[..begin], &tail].concat();
        prop_assume!(made_up != *SMALL);
        prop_assert!(open_bytes(PURPOSE, &ALICE, &made_up).is_err());
    }

    #[test]
    fn every_content_comes_back(plain in prop::collection::vec(any::<u8>(), 0..2000)) {
        let sealed = seal_bytes(PURPOSE, &to(&[&BOB]), &plain).unwrap();
        let opened = open_bytes(PURPOSE, &BOB, &sealed).unwrap();
        prop_assert_eq!(&*opened, &plain);
    }
}
