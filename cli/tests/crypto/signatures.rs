use super::*;

const SIGNERS: [&str; 3] = ["ML-DSA-44", "ML-DSA-87", "SLH-DSA-SHA2-128f"];

#[test]
fn a_file_is_valid_as_it_was_signed_and_by_whom_alone() {
    let desk = Desk::with_keys(&SIGNERS);
    for key in SIGNERS {
        desk.put("file", b"content");
        desk.run(&format!("crypto sign file --key {key} --force"));
        let said = desk.run(&format!("crypto verify file --key {key}.pub"));
        assert!(said.starts_with("valid: file is as "), "{said}");
        // A copy under another name is the same file.
        desk.put("copy", b"content");
        desk.run(&format!("crypto verify copy --signature file.sig --key {key}.pub"));
        desk.put("file", b"Content");
        let error = desk.refused(&format!("crypto verify file --key {key}.pub"));
        assert!(error.contains("the signature is for file@sha512:"), "{error}");
        let other = SIGNERS.iter().find(|other| **other != key).unwrap();
        let error = desk.refused(&format!("crypto verify copy --signature file.sig --key {other}.pub"));
        assert!(error.contains("none of the signatures was made by the key"), "{error}");
    }
    let error = desk.refused("crypto sign file --key ML-DSA-44");
    assert!(error.contains("file.sig is there already"), "{error}");
    let error = desk.refused("crypto sign file --key ML-DSA-44.pub --force");
    assert!(error.contains("only a public key"), "{error}");
}

#[test]
fn a_raw_signature_is_what_the_standard_makes_with_its_context() {
    let desk = Desk::with_keys(&["ML-DSA-65"]);
    desk.put("file", b"content");
    desk.run("crypto sign file --key ML-DSA-65 --raw --context releases");
    assert_eq!(desk.get("file.sig").len(), 3309);
    desk.run("crypto verify file --key ML-DSA-65.pub --raw --context releases");
    for wrong in ["--raw", "--raw --context release", ""] {
        let error = desk.refused(format!("crypto verify file --key ML-DSA-65.pub {wrong}").trim_end());
        assert!(error.contains("file.sig"), "{error}");
    }
    // By the library, as anybody would.
    let key = trellis_crypto::PublicKey::read(&desk.get("ML-DSA-65.pub"), None).unwrap();
    let trellis_crypto::PublicKey::Signature(key) = key else { panic!("it signs") };
    assert_eq!(key.verify(b"content", b"releases", &desk.get("file.sig")), Ok(()));
    let long = "x".repeat(256);
    let error = desk.refused(&format!("crypto sign file --key ML-DSA-65 --raw --context {long}"));
    assert!(error.contains("256 bytes"), "{error}");
    let error = desk.refused("crypto sign file --key ML-DSA-65 --context x");
    assert!(error.contains("--raw"), "{error}");
}

#[test]
fn content_comes_by_standard_input_too() {
    let desk = Desk::with_keys(&["ML-DSA-44"]);
    let signed = desk.say("crypto sign --key ML-DSA-44", b"piped");
    assert!(signed.ok, "{}", signed.err);
    desk.put("signature", &signed.out);
    let said = desk.say("crypto verify --key ML-DSA-44.pub --signature signature", b"piped");
    assert!(said.ok, "{}", said.err);
    let said = desk.say("crypto verify --key ML-DSA-44.pub --signature signature", b"other");
    assert!(!said.ok);
    let error = desk.refused("crypto verify --key ML-DSA-44.pub");
    assert!(error.contains("--signature"), "{error}");
    // An empty file is a file.
    desk.put("empty", b"");
    desk.run("crypto sign empty --key ML-DSA-44");
    desk.run("crypto verify empty --key ML-DSA-44.pub");
}
