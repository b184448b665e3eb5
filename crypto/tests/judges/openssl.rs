//! OpenSSL 3.6, by its command line.

use super::*;

/// Algorithm by algorithm, without the hybrid, for whose keys OpenSSL has no file format.
fn stored() -> impl Iterator<Item = Algorithm> {
    Algorithm::all().filter(|algorithm| *algorithm != Algorithm::Kem(KemAlgorithm::X25519MlKem768))
}

fn openssl(desk: &Desk, args: &str) -> String {
    desk.run(&needed("TRELLIS_TEST_OPENSSL"), &args.split(' ').collect::<Vec<_>>())
}

fn refused(desk: &Desk, args: &str) -> bool {
    desk.try_run(&needed("TRELLIS_TEST_OPENSSL"), &args.split(' ').collect::<Vec<_>>()).is_err()
}

#[test]
fn it_reads_every_key_of_ours_and_sees_the_same_public_key() {
    let desk = Desk::new();
    for algorithm in stored() {
        let key = PrivateKey::from_seed(algorithm, &vec![42; algorithm.seed_len()]).unwrap();
        for key in [bare(&key), key] {
            desk.put("ours.pem", key.pem().unwrap().as_bytes());
            desk.put("ours.der", &*key.der().unwrap());
            openssl(&desk, "pkey -in ours.pem -pubout -out public.pem");
            assert_eq!(desk.get("public.pem"), key.public_key().pem().as_bytes(), "{algorithm}");
            openssl(&desk, "pkey -inform DER -in ours.der -pubout -outform DER -out public.der");
            assert_eq!(desk.get("public.der"), key.public_key().der(), "{algorithm}");
            let said = openssl(&desk, "pkey -pubin -in public.pem -noout -text_pub");
            assert!(said.contains(&format!("{algorithm} Public-Key")), "{said}");
        }
    }
}

#[test]
fn every_key_of_its_own_is_read_in_each_form_that_it_writes() {
    let desk = Desk::new();
    for algorithm in stored() {
        let forms = match algorithm {
            Algorithm::Signature(SignatureAlgorithm::SlhDsa(_)) => [""].as_slice(),
            _ => ["", "seed-priv", "seed-only", "priv-only"].as_slice(),
        };
        for form in forms {
            let family = if matches!(algorithm, Algorithm::Kem(_)) { "ml-kem" } else { "ml-dsa" };
            let option = if form.is_empty() {
                String::new()
            } else {
                format!(" -provparam {family}.output_formats={form}")
            };
            openssl(&desk, &format!("genpkey -algorithm {algorithm} -out theirs.pem{option}"));
            openssl(&desk, "pkey -in theirs.pem -pubout -out public.pem");
            let key = PrivateKey::read(&desk.get("theirs.pem"), Some(algorithm)).unwrap();
            let public = PublicKey::read(&desk.get("public.pem"), Some(algorithm)).unwrap();
            assert_eq!(key.public_key(), public, "{algorithm} {form}");
            assert_eq!(key.check(), Ok(()), "{algorithm} {form}");
            let seedless = *form == "priv-only" || family == "ml-dsa" && forms.len() == 1;
            assert_eq!(key.seed().is_none(), seedless, "{algorithm} {form}");
            // And what is written of it is the same key to OpenSSL.
            desk.put("again.pem", key.pem().unwrap().as_bytes());
            openssl(&desk, "pkey -in again.pem -pubout -out again.pub.pem");
            assert_eq!(desk.get("again.pub.pem"), desk.get("public.pem"), "{algorithm} {form}");
        }
    }
    // What is no standard's form is refused, and not taken for another.
    openssl(
        &desk,
        "genpkey -algorithm ML-KEM-768 -out theirs.pem -provparam ml-kem.output_formats=bare-seed",
    );
    let error = PrivateKey::read(&desk.get("theirs.pem"), None).err().unwrap();
    assert!(error.to_string().contains("in none of the forms"), "{error}");
}

#[test]
fn secrets_are_shared_both_ways() {
    let desk = Desk::new();
    for algorithm in [KemAlgorithm::MlKem512, KemAlgorithm::MlKem768, KemAlgorithm::MlKem1024] {
        let key = PrivateKey::Kem(kem_key(algorithm));
        desk.put("private.pem", key.pem().unwrap().as_bytes());
        desk.put("public.pem", key.public_key().pem());
        // It encapsulates, we open; then the other way round.
        openssl(&desk, "pkeyutl -encap -pubin -inkey public.pem -out ciphertext -secret secret");
        let ours = kem_of(key);
        assert!(
            ours.decapsulate(&desk.get("ciphertext")).unwrap().as_bytes() == desk.get("secret"),
            "{algorithm}"
        );
        let made = ours.public_key().encapsulate().unwrap();
        desk.put("ciphertext", &made.ciphertext);
        openssl(&desk, "pkeyutl -decap -inkey private.pem -in ciphertext -secret secret");
        assert!(desk.get("secret") == made.shared_secret.as_bytes(), "{algorithm}");
        // A damaged ciphertext is rejected implicitly, into the same secret.
        let mut damaged = made.ciphertext;
        damaged[5] ^= 4;
        desk.put("ciphertext", &damaged);
        openssl(&desk, "pkeyutl -decap -inkey private.pem -in ciphertext -secret secret");
        assert!(desk.get("secret") == ours.decapsulate(&damaged).unwrap().as_bytes(), "{algorithm}");
        assert!(desk.get("secret") != made.shared_secret.as_bytes());
    }
}

#[test]
fn signatures_verify_both_ways_with_and_without_context() {
    let desk = Desk::new();
    // The small sets of SLH-DSA take long to sign with, and are the same code. An empty message is none to this program.
    for algorithm in SignatureAlgorithm::ALL.into_iter().filter(|algorithm| !algorithm.name().ends_with('s'))
    {
        let key = PrivateKey::Signature(signing_key(algorithm));
        desk.put("private.pem", key.pem().unwrap().as_bytes());
        desk.put("public.pem", key.public_key().pem());
        let key = signer_of(key);
        for (message, context) in [(b"a message", ""), (b"a message", "trellis-test")] {
            let option = if context.is_empty() {
                String::new()
            } else {
                format!(" -pkeyopt context-string:{context}")
            };
            let verify = format!(
                "pkeyutl -verify -pubin -inkey public.pem -rawin -in message -sigfile signature{option}"
            );
            desk.put("message", message);
            openssl(
                &desk,
                &format!("pkeyutl -sign -inkey private.pem -rawin -in message -out signature{option}"),
            );
            let verified = key.public_key().verify(message, context.as_bytes(), &desk.get("signature"));
            assert_eq!(verified, Ok(()), "{algorithm} {context:?}");
            desk.put("signature", key.sign(message, context.as_bytes()).unwrap());
            assert!(openssl(&desk, &verify).contains("Verified Successfully"), "{algorithm} {context:?}");
            desk.put("message", b"another message");
            assert!(refused(&desk, &verify), "{algorithm} {context:?}");
        }
    }
}
