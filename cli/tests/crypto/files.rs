use super::*;

const KINDS: [&str; 4] = ["ML-KEM-512", "ML-KEM-768", "ML-KEM-1024", "X25519MLKEM768"];

#[test]
fn each_of_several_recipients_opens_what_is_sealed_to_all() {
    let desk = Desk::with_keys(&KINDS);
    desk.run("trust backup-key --out x-wing");
    desk.put("plain", b"for all of them");
    let to: String = KINDS.iter().map(|kind| format!(" --to {kind}.pub")).collect();
    desk.run(&format!("crypto encrypt plain{to} --to x-wing.pub --out sealed"));
    assert_eq!(desk.mode("sealed"), 0o644);
    for key in KINDS.iter().chain(&["x-wing"]) {
        desk.run(&format!("crypto decrypt sealed --key {key} --out opened-by-{key}"));
        assert_eq!(desk.text(&format!("opened-by-{key}")), "for all of them");
        assert_eq!(desk.mode(&format!("opened-by-{key}")), 0o600);
    }
    desk.run("crypto keygen --algorithm ML-KEM-768 --out eve");
    let error = desk.refused("crypto decrypt sealed --key eve");
    assert!(error.contains("does not open this file"), "{error}");
    // A key in QubeSec's PEM and one in DER do as well.
    desk.run("crypto keygen --algorithm ML-KEM-768 --encoding qubesec --out old");
    desk.run("crypto keygen --algorithm ML-KEM-768 --encoding der --out binary");
    desk.run("crypto encrypt plain --to old.pub --to binary.pub --out sealed2");
    assert_eq!(desk.run("crypto decrypt sealed2 --key old"), "for all of them");
    assert_eq!(desk.run("crypto decrypt sealed2 --key binary"), "for all of them");
}

#[test]
fn content_and_keys_come_by_standard_input_and_output() {
    let desk = Desk::with_keys(&["X25519MLKEM768"]);
    let sealed = desk.say("crypto encrypt --to X25519MLKEM768.pub", b"by pipe");
    assert!(sealed.ok, "{}", sealed.err);
    let opened = desk.say("crypto decrypt --key X25519MLKEM768", &sealed.out);
    assert_eq!((opened.ok, opened.out.as_slice()), (true, b"by pipe".as_slice()));
    desk.put("sealed", &sealed.out);
    let opened = desk.say("crypto decrypt sealed --key -", &desk.get("X25519MLKEM768"));
    assert_eq!((opened.ok, opened.out.as_slice()), (true, b"by pipe".as_slice()));
    let error = desk.refused("crypto decrypt --key -");
    assert!(error.contains("cannot all be standard input"), "{error}");
}

#[test]
fn what_does_not_open_leaves_nothing_behind() {
    let desk = Desk::with_keys(&["ML-KEM-768"]);
    desk.put("plain", vec![7; 300_000]);
    desk.run("crypto encrypt plain --to ML-KEM-768.pub --out sealed --purpose notes");
    let error = desk.refused("crypto decrypt sealed --key ML-KEM-768 --out opened");
    assert!(error.contains("\"notes\"") && error.contains("\"trellis crypto\""), "{error}");
    let mut damaged = desk.get("sealed");
    let end = damaged.len() - 1;
    damaged[end] ^= 1;
    desk.put("damaged", &damaged);
    desk.put("cut", &damaged[..end - 100_000]);
    for file in ["damaged", "cut"] {
        let error =
            desk.refused(&format!("crypto decrypt {file} --key ML-KEM-768 --out opened --purpose notes"));
        assert!(error.contains(file), "{error}");
        // By standard output a part may be there already, and it is said that it is one.
        let error = desk.refused(&format!("crypto decrypt {file} --key ML-KEM-768 --purpose notes"));
        assert!(error.contains("do not use it"), "{error}");
    }
    assert_eq!(desk.files(), ["ML-KEM-768", "ML-KEM-768.pub", "cut", "damaged", "plain", "sealed"]);
    // Nor is anything written over.
    let error = desk.refused("crypto decrypt sealed --key ML-KEM-768 --out plain --purpose notes");
    assert!(error.contains("is there already"), "{error}");
    desk.put("other", b"old");
    desk.run("crypto decrypt sealed --key ML-KEM-768 --out other --purpose notes --force");
    assert_eq!(desk.get("other").len(), 300_000);
}

#[test]
fn what_is_no_key_for_it_is_refused_by_name() {
    let desk = Desk::with_keys(&["ML-KEM-768", "ML-DSA-44"]);
    desk.put("plain", b"x");
    for (args, why) in [
        (
            "encrypt plain --to ML-DSA-44.pub",
            "--to ML-DSA-44.pub\n\nCaused by:\n    a key of ML-DSA-44 signs",
        ),
        ("encrypt plain --to ML-KEM-768", "--to ML-KEM-768\n"),
        ("encrypt plain --to nobody.pub", "cannot read nobody.pub"),
        ("encrypt plain --to plain", "no public key"),
        ("encrypt nothing --to ML-KEM-768.pub", "cannot read nothing"),
        ("encrypt . --to ML-KEM-768.pub", "is a folder"),
        ("decrypt plain --key ML-KEM-768", "no sealed file"),
        ("decrypt plain --key ML-KEM-768.pub", "only a public key"),
    ] {
        let error = desk.refused(&format!("crypto {args}"));
        assert!(error.contains(why), "{args}: {error}");
    }
    let error = desk.refused("crypto encrypt plain --to ML-KEM-768");
    assert!(error.contains("there is a private key where a public one belongs"), "{error}");
}

/// With a fifth of the content's size for all that the program has, its own code included.
#[test]
fn files_of_any_size_pass_through_little_memory() {
    let desk = Desk::with_keys(&["X25519MLKEM768", "ML-DSA-44"]);
    let script = "set -e -o pipefail; ulimit -v 200000
        head -c 1G /dev/zero | \"$0\" crypto encrypt --to X25519MLKEM768.pub \
          | \"$0\" crypto decrypt --key X25519MLKEM768 \
          | \"$0\" crypto sign --key ML-DSA-44 >signature
        head -c 1G /dev/zero | \"$0\" crypto verify --key ML-DSA-44.pub --signature signature";
    let said = desk.say_by(Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_trellis")]), b"");
    assert!(said.ok && said.out.starts_with(b"valid: "), "{}", said.err);
}
