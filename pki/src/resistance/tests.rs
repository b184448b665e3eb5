use rcgen::{
    CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_ML_DSA_65, PKCS_RSA_SHA256, SignatureAlgorithm,
};

use super::*;

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn alone(algorithm: &'static SignatureAlgorithm, names: &[&str]) -> String {
    let key = KeyPair::generate_for(algorithm).unwrap();
    params("web", names).self_signed(&key).unwrap().pem()
}

/// A leaf and who signed it.
fn chain(leaf: &'static SignatureAlgorithm, ca: &'static SignatureAlgorithm) -> String {
    let mut authority = params("authority", &[]);
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(ca).unwrap();
    let above = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);
    let own = KeyPair::generate_for(leaf).unwrap();
    params("web", &["web.example.org"]).signed_by(&own, &issuer).unwrap().pem() + &above
}

fn weaknesses(pem: &str) -> Vec<String> {
    Chain::read(pem.as_bytes()).unwrap().weaknesses()
}

#[test]
fn a_classical_key_is_named_with_its_subject() {
    for (algorithm, key, signature) in [
        (&PKCS_ECDSA_P256_SHA256, "ECDSA-P256", "ECDSA"),
        (&PKCS_ECDSA_P384_SHA384, "ECDSA-P384", "ECDSA"),
        (&PKCS_ED25519, "Ed25519", "Ed25519"),
        (&PKCS_RSA_SHA256, "RSA", "RSA"),
    ] {
        assert_eq!(
            weaknesses(&alone(algorithm, &["web.example.org"])),
            [format!("the certificate of CN=web has a key of {key} and a signature of {signature}")]
        );
    }
    assert_eq!(weaknesses(&alone(&PKCS_ML_DSA_65, &["web.example.org"])), Vec::<String>::new());
}

#[test]
fn a_chain_is_as_good_as_its_weakest_part() {
    assert_eq!(weaknesses(&chain(&PKCS_ML_DSA_65, &PKCS_ML_DSA_65)), Vec::<String>::new());
    assert_eq!(
        weaknesses(&chain(&PKCS_ML_DSA_65, &PKCS_ECDSA_P256_SHA256)),
        [
            "certificate 1 of 2, of CN=web, has a signature of ECDSA",
            "certificate 2 of 2, of CN=authority, has a key of ECDSA-P256 and a signature of ECDSA",
        ]
    );
    assert_eq!(
        weaknesses(&chain(&PKCS_ED25519, &PKCS_ML_DSA_65)),
        ["certificate 1 of 2, of CN=web, has a key of Ed25519"]
    );
}

#[test]
fn another_stands_in_if_it_resists_and_has_all_names() {
    let read = |pem: String| Chain::read(pem.as_bytes()).unwrap();
    let classical = read(alone(&PKCS_ED25519, &["a.example.org", "B.example.org", "192.0.2.1"]));
    let same =
        read(alone(&PKCS_ML_DSA_65, &["b.example.org", "a.example.org", "192.0.2.1", "c.example.org"]));
    let fewer = read(alone(&PKCS_ML_DSA_65, &["a.example.org", "b.example.org"]));
    assert!(same.stands_in_for(&classical));
    assert!(!fewer.stands_in_for(&classical));
    assert!(!classical.stands_in_for(&classical));
    // Without alternative names the common name is what it is for.
    assert_eq!(read(alone(&PKCS_ED25519, &[])).names(), ["web".to_owned()].into());
}

#[test]
fn what_is_no_chain_is_refused_and_nothing_is_believed_of_it() {
    let one = alone(&PKCS_ED25519, &["a"]);
    let cut = one.replace("MII", "MIJ").replace("MIH", "MIJ");
    for (pem, error) in [
        (String::new(), ChainError::Empty),
        (" \n".into(), ChainError::Empty),
        ("certificate".into(), ChainError::Pem),
        ("-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n".into(), ChainError::Pem),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), ChainError::Malformed(1)),
        (format!("{one}{cut}"), ChainError::Malformed(2)),
        (one.repeat(11), ChainError::TooLong),
    ] {
        assert_eq!(Chain::read(pem.as_bytes()), Err(error), "{pem}");
    }
    assert!(Chain::read(one.repeat(10).as_bytes()).is_ok());
}

#[test]
fn a_subject_shows_nothing_that_a_terminal_obeys() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let pem = params(&format!("\u{1b}[2J{}", "x".repeat(500)), &["a"]).self_signed(&key).unwrap().pem();
    let chain = Chain::read(pem.as_bytes()).unwrap();
    let subject = &chain.certificates[0].subject;
    assert!(subject.len() <= MAX_SUBJECT && !subject.contains('\u{1b}'), "{subject:?}");
}
