use super::*;
use crate::algorithm::KemAlgorithm;

/// One key of each algorithm, the slow ones of SLH-DSA left out.
fn keys() -> Vec<PrivateKey> {
    Algorithm::all()
        .filter(|algorithm| !algorithm.name().starts_with("SLH-DSA") || algorithm.name().ends_with("28f"))
        .map(|algorithm| PrivateKey::from_seed(algorithm, &vec![7; algorithm.seed_len()]).unwrap())
        .collect()
}

fn without_seed(key: &PrivateKey) -> PrivateKey {
    PrivateKey::from_expanded(key.algorithm(), key.expanded().unwrap().as_bytes()).unwrap()
}

fn problem<T>(result: Result<T, EncodingError>) -> EncodingError {
    result.err().unwrap()
}

#[test]
fn every_key_is_read_back_from_every_form() {
    for key in keys() {
        let (algorithm, public) = (key.algorithm(), key.public_key());
        for wanted in [None, Some(algorithm)] {
            for form in [public.pem().as_bytes(), &public.der(), public.qubesec_pem().as_bytes()] {
                assert_eq!(PublicKey::read(form, wanted), Ok(public.clone()), "{algorithm}");
            }
            let forms = [
                key.pem().unwrap().as_bytes().to_vec(),
                key.der().unwrap().to_vec(),
                key.qubesec_pem().unwrap().as_bytes().to_vec(),
            ];
            for form in forms {
                let read = PrivateKey::read(&form, wanted).unwrap();
                assert_eq!((read.algorithm(), read.public_key()), (algorithm, public.clone()));
            }
        }
        assert_eq!(PublicKey::read(public.raw(), Some(algorithm)), Ok(public.clone()));
        let raw = PrivateKey::read(key.expanded().unwrap().as_bytes(), Some(algorithm)).unwrap();
        assert_eq!(raw.public_key(), public);
    }
}

#[test]
fn a_key_is_written_as_its_seed_and_without_it_as_it_was_read() {
    for key in keys() {
        let again = PrivateKey::from_der(&key.der().unwrap()).unwrap();
        assert!(again.form() == key.form() && again.seed().is_some() == key.seed().is_some());
        let bare = without_seed(&key);
        let again = PrivateKey::from_der(&bare.der().unwrap()).unwrap();
        assert_eq!(again.form(), Form::Expanded);
        assert!(again.der().unwrap() == bare.der().unwrap());
        assert!(again.expanded().unwrap() == key.expanded().unwrap());
    }
    let lengths: Vec<_> = keys().iter().map(|key| key.der().unwrap().len()).collect();
    // Seeds of 64, 96 and 32 bytes; SLH-DSA of 64.
    assert_eq!(lengths, [86, 86, 86, 129, 54, 54, 54, 84, 84]);
}

#[test]
fn seed_and_expanded_key_together_must_agree() {
    let both = |key: &PrivateKey, seed: &[u8]| {
        let expanded = key.expanded().unwrap();
        let parts = [
            der::element(der::OCTET_STRING, &[seed]),
            der::element(der::OCTET_STRING, &[expanded.as_bytes()]),
        ];
        private(key.algorithm(), &der::element(der::SEQUENCE, &[&parts[0], &parts[1]]))
    };
    for key in keys().into_iter().filter(|key| key.seed().is_some()) {
        let seed = key.seed().unwrap().as_bytes().to_vec();
        let read = PrivateKey::from_der(&both(&key, &seed)).unwrap();
        assert!(read.seed().unwrap().as_bytes() == seed);
        // And is then written as the seed alone.
        assert!(read.der().unwrap() == key.der().unwrap());
        let mut other = seed.clone();
        other[0] ^= 1;
        let error = problem(PrivateKey::from_der(&both(&key, &other)));
        assert_eq!(error, EncodingError::SeedMismatch(key.algorithm()));
    }
}

/// PKCS#8 around what is inside.
fn private(algorithm: Algorithm, inner: &[u8]) -> Vec<u8> {
    let version = der::element(der::INTEGER, &[&[0]]);
    let id = der::element(der::OBJECT_IDENTIFIER, &[&oid::of(algorithm)]);
    let identifier = der::element(der::SEQUENCE, &[&id]);
    let inner = der::element(der::OCTET_STRING, &[inner]);
    der::element(der::SEQUENCE, &[&version, &identifier, &inner]).to_vec()
}

#[test]
fn the_public_key_in_pkcs8_must_be_that_of_the_private_one() {
    let key = PrivateKey::generate(Algorithm::Kem(KemAlgorithm::MlKem768)).unwrap();
    let second_version = |public: &[u8]| {
        let version = der::element(der::INTEGER, &[&[1]]);
        let id = der::element(der::OBJECT_IDENTIFIER, &[&oid::of(key.algorithm())]);
        let identifier = der::element(der::SEQUENCE, &[&id]);
        let seed = der::element(0x80, &[key.seed().unwrap().as_bytes()]);
        let inner = der::element(der::OCTET_STRING, &[&seed]);
        let attributes = der::element(0xa0, &[]);
        let public = der::element(0x81, &[&[0], public]);
        der::element(der::SEQUENCE, &[&version, &identifier, &inner, &attributes, &public]).to_vec()
    };
    let public = key.public_key();
    assert!(PrivateKey::from_der(&second_version(public.raw())).is_ok());
    let other = PrivateKey::generate(key.algorithm()).unwrap().public_key();
    let error = problem(PrivateKey::from_der(&second_version(other.raw())));
    assert_eq!(error, EncodingError::PublicMismatch(key.algorithm()));
}

#[test]
fn a_key_of_another_algorithm_is_refused_even_where_lengths_agree() {
    let key = PrivateKey::generate(Algorithm::Kem(KemAlgorithm::MlKem1024)).unwrap();
    let wanted = Algorithm::Kem(KemAlgorithm::MlKem768);
    let error = problem(PublicKey::read(key.public_key().pem().as_bytes(), Some(wanted)));
    assert_eq!(error.to_string(), "the key is one of ML-KEM-1024, and one of ML-KEM-768 is wanted");
    assert!(PrivateKey::read(key.pem().unwrap().as_bytes(), Some(wanted)).is_err());
    // Round 3 has keys of the same length: only the label tells.
    let kyber = key.qubesec_pem().unwrap().replace("ML-KEM-1024", "Kyber1024");
    let error = problem(PrivateKey::read(kyber.as_bytes(), Some(key.algorithm()))).to_string();
    assert!(error.contains("Kyber1024 SECRET KEY") && error.contains("not compatible"), "{error}");
    let kyber = key.public_key().qubesec_pem().replace("ML-KEM-1024", "Kyber1024");
    assert!(matches!(problem(PublicKey::from_pem(&kyber)), EncodingError::Draft { .. }));
    let falcon = key.public_key().qubesec_pem().replace("ML-KEM-1024", "Falcon-512");
    assert!(problem(PublicKey::from_pem(&falcon)).to_string().contains("FN-DSA"));
}

#[test]
fn keys_of_sphincs_plus_are_those_of_slh_dsa() {
    let key = keys().into_iter().find(|key| key.algorithm().name() == "SLH-DSA-SHA2-128f").unwrap();
    let pem = key.qubesec_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN SLH-DSA-SHA2-128f SECRET KEY-----\n"));
    let old = pem.replace("SLH-DSA-SHA2-128f", "SPHINCS+-SHA2-128f-simple");
    assert_eq!(PrivateKey::from_pem(&old).unwrap().public_key(), key.public_key());
}

#[test]
fn what_is_not_the_key_that_is_wanted_is_said_to_be_so() {
    let key = PrivateKey::generate(Algorithm::Kem(KemAlgorithm::MlKem768)).unwrap();
    let (private, public) = (key.pem().unwrap(), key.public_key().pem());
    assert_eq!(problem(PrivateKey::read(public.as_bytes(), None)), EncodingError::Public);
    assert_eq!(problem(PrivateKey::read(&key.public_key().der(), None)), EncodingError::Public);
    assert_eq!(problem(PublicKey::read(private.as_bytes(), None)), EncodingError::Private);
    assert_eq!(problem(PublicKey::read(&key.der().unwrap(), None)), EncodingError::Private);
    // Both in one text are one of each.
    let both = format!("{}{public}", private.as_str());
    assert!(
        PrivateKey::read(both.as_bytes(), None).is_ok() && PublicKey::read(both.as_bytes(), None).is_ok()
    );
    let twice = format!("{public}{public}");
    assert_eq!(problem(PublicKey::from_pem(&twice)), EncodingError::Several("public key"));
    assert_eq!(problem(PublicKey::read(b"", None)), EncodingError::NoKey("public key"));
    assert_eq!(problem(PrivateKey::read(b"hello", None)), EncodingError::NoKey("private key"));
    let encrypted = private.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert_eq!(problem(PrivateKey::from_pem(&encrypted)), EncodingError::Encrypted);
    let rsa = private.replace("PRIVATE", "RSA PRIVATE");
    assert!(problem(PrivateKey::from_pem(&rsa)).to_string().contains("quantum computer"));
}

#[test]
fn der_that_is_not_to_the_letter_is_refused() {
    let key = PrivateKey::generate(Algorithm::Kem(KemAlgorithm::MlKem512)).unwrap();
    for good in [key.der().unwrap().to_vec(), key.public_key().der()] {
        let read = |der: &[u8]| PrivateKey::from_der(der).is_ok() || PublicKey::from_der(der).is_ok();
        assert!(read(&good));
        assert!(!read(&[&good[..], &[0]].concat()));
        for cut in 0..good.len() {
            assert!(!read(&good[..cut]), "cut to {cut}");
        }
        // All that is before the key itself.
        let frame = 22;
        for at in 0..frame {
            for bit in 0..8 {
                let mut changed = good.clone();
                changed[at] ^= 1 << bit;
                // The level above and below have other lengths.
                let read = PrivateKey::from_der(&changed);
                let other_level = read.is_ok_and(|read| read.algorithm() != key.algorithm());
                let version = good.len() == 86 && at == 4;
                assert!(
                    other_level || version || PublicKey::from_der(&changed).is_err(),
                    "byte {at} bit {bit}"
                );
            }
        }
    }
    let unknown =
        problem(PublicKey::from_der(&with_oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01])));
    assert!(unknown.to_string().contains("1.2.840.113549.1.1.1"), "{unknown}");
    let form = problem(PrivateKey::from_der(&private(key.algorithm(), &[0; 64])));
    assert_eq!(form, EncodingError::PrivateForm(key.algorithm()));
}

fn with_oid(id: &[u8]) -> Vec<u8> {
    let id = der::element(der::OBJECT_IDENTIFIER, &[id]);
    let identifier = der::element(der::SEQUENCE, &[&id]);
    let bits = der::element(der::BIT_STRING, &[&[0], b"key"]);
    der::element(der::SEQUENCE, &[&identifier, &bits]).to_vec()
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(0u8.., 0..200), text in ".{0,200}") {
        for algorithm in [None, Some(Algorithm::Kem(KemAlgorithm::MlKem768))] {
            let _ = PrivateKey::read(&bytes, algorithm);
            let _ = PublicKey::read(&bytes, algorithm);
            let _ = PublicKey::read(text.as_bytes(), algorithm);
        }
        let _ = Algorithm::parse(&text);
    }
}
