//! Go's standard library, which has ML-KEM-768 and -1024, and of which its TLS makes the hybrid.

use trellis_crypto::hex;

use super::*;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judges/judge.go");

#[test]
fn it_makes_the_same_keys_and_shares_secrets_with_us_also_as_tls_does() {
    let desk = Desk::new();
    for algorithm in [KemAlgorithm::MlKem768, KemAlgorithm::MlKem1024, KemAlgorithm::X25519MlKem768] {
        let key = kem_key(algorithm);
        let made = key.public_key().encapsulate().unwrap();
        let (seed, ciphertext) = (hex::encode(key.seed().unwrap().as_bytes()), hex::encode(&made.ciphertext));
        let said = desk.run("go", &["run", PROGRAM, algorithm.name(), &seed, &ciphertext]);
        let words: Vec<_> = said.lines().map(|line| hex::decode(line).unwrap()).collect();
        let [public, opened, theirs, secret] = words.as_slice() else { panic!("{said}") };
        assert_eq!(public, key.public_key().raw(), "{algorithm}");
        assert!(opened == made.shared_secret.as_bytes(), "{algorithm}");
        assert!(key.decapsulate(theirs).unwrap().as_bytes() == secret, "{algorithm}");
    }
}
