use super::*;

#[test]
fn a_key_pair_is_made_that_only_its_owner_can_read_and_never_over_another() {
    let desk = Desk::new();
    let said = desk.say("crypto keygen --algorithm ML-DSA-65 --out key.pem", b"");
    assert!(said.ok && said.out.is_empty() && said.err.contains("fingerprint"), "{}", said.err);
    assert_eq!((desk.mode("key.pem"), desk.mode("key.pem.pub")), (0o600, 0o644));
    assert!(desk.text("key.pem").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(desk.text("key.pem.pub").starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let (private, public) = (desk.get("key.pem"), desk.get("key.pem.pub"));
    // The private key is there, or only the public one.
    for gone in ["nothing", "key.pem"] {
        let _ = fs::remove_file(desk.path(gone));
        let error = desk.refused("crypto keygen --algorithm ML-DSA-65 --out key.pem");
        assert!(error.contains("is there already") && error.contains("--force"), "{error}");
        assert_eq!(desk.get("key.pem.pub"), public);
        assert_eq!(desk.path("key.pem").exists(), gone == "nothing");
    }
    desk.run("crypto keygen --algorithm ML-DSA-65 --out key.pem --force");
    assert_ne!((desk.get("key.pem"), desk.get("key.pem.pub")), (private, public));
    assert_eq!(desk.files(), ["key.pem", "key.pem.pub"]);
    fs::create_dir(desk.path("folder")).unwrap();
    let error = desk.refused("crypto keygen --algorithm ML-DSA-65 --out folder --force");
    assert!(error.contains("no regular file"), "{error}");
}

#[test]
fn old_names_are_noted_and_what_is_not_offered_is_refused() {
    let desk = Desk::new();
    let said = desk.say("crypto keygen --algorithm Kyber768 --out key", b"");
    assert!(said.ok && said.err.starts_with("note: Kyber768 is now ML-KEM-768"), "{}", said.err);
    for (name, why) in
        [("Falcon512", "use ML-DSA-44"), ("RSA", "quantum computer"), ("ML-KEM-77", "did you mean")]
    {
        let error = desk.refused(&format!("crypto keygen --algorithm {name} --out other"));
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(desk.files(), ["key", "key.pub"]);
}

#[test]
fn keys_are_written_in_every_encoding_and_to_standard_output() {
    let desk = Desk::new();
    for encoding in ["pem", "der", "qubesec", "raw"] {
        desk.run(&format!("crypto keygen --algorithm ML-KEM-768 --out {encoding} --encoding {encoding}"));
        let (private, public) = (
            desk.run(&format!("crypto inspect {encoding}")),
            desk.run(&format!("crypto inspect {encoding}.pub")),
        );
        assert!(private.contains("ML-KEM-768") && public.contains("ML-KEM-768"), "{private}{public}");
        if encoding != "raw" {
            let print =
                |text: &str| text.lines().find(|line| line.contains("fingerprint")).unwrap().to_owned();
            assert_eq!(print(&private), print(&public));
        }
    }
    assert!(desk.text("qubesec").starts_with("-----BEGIN ML-KEM-768 SECRET KEY-----\n"));
    assert_eq!((desk.get("raw").len(), desk.get("raw.pub").len()), (2400, 1184));
    let key = desk.run("crypto keygen --algorithm ML-KEM-768 --out - --public-out public");
    desk.put("private", &key);
    assert_eq!(desk.run("crypto inspect --public private"), desk.text("public"));
    let error = desk.refused("crypto keygen --algorithm ML-KEM-768 --out - --public-out -");
    assert!(error.contains("standard output"), "{error}");
}
