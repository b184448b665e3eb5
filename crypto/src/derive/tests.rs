use super::*;
use crate::hex;

fn counting(from: u8, to: u8) -> Vec<u8> {
    (from..=to).collect()
}

#[test]
fn hkdf_is_that_of_rfc_5869() {
    let short = (vec![0x0b; 22], counting(0, 12), counting(0xf0, 0xf9), 42);
    let long = (counting(0, 0x4f), counting(0x60, 0xaf), counting(0xb0, 0xff), 82);
    let bare = (vec![0x0b; 22], vec![], vec![], 42);
    // Cases 1 to 3 of appendix A. The RFC has none for the other hashes: those are by Python's hmac.
    for (hash, (secret, salt, info, length), wanted) in [
        (
            Hash::Sha256,
            &short,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            Hash::Sha256,
            &long,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
             da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            Hash::Sha256,
            &bare,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
        (
            Hash::Sha384,
            &short,
            "9b5097a86038b805309076a44b3a9f38063e25b516dcbf369f394cfab43685f748b6457763e4f0204fc5",
        ),
        (
            Hash::Sha512,
            &short,
            "832390086cda71fb47625bb5ceb168e4c8e26a1a16ed34d9fc7fe92c1481579338da362cb8d9f925d7cb",
        ),
    ] {
        let key = hkdf(hash, &Secret::copy_of(secret), salt, info, *length).unwrap();
        assert_eq!(hex::encode(key.as_bytes()), wanted, "{hash}");
    }
}

fn derivation(profile: Profile, key_type: KeyType) -> Derivation<'static> {
    let (salt, info) = (b"salt", b"info");
    Derivation { hash: Hash::Sha256, profile, key_type, salt, info, length: KeyType::LENGTH }
}

#[test]
fn separated_keys_have_nothing_in_common_and_plain_ones_are_hkdf_alone() {
    let secret = Secret::copy_of(&[7; 32]);
    // By Python's hmac as well.
    for (key_type, wanted) in [
        (KeyType::Aes256, "3a69a14526053255fc39be4b3ba590aee628a1567df55fd6b61915f673a42602"),
        (KeyType::ChaCha20, "ed3bc32f84adaa1956fb14445d89df2741025bcbc51e07ed02dc301c16d02883"),
        (KeyType::HmacSha256, "28e4355f4bd119a0b1abed6ed5580b2660f31650446f731c19c60027ca8a2718"),
    ] {
        let separated = derivation(Profile::Separated, key_type).key(&secret).unwrap();
        assert_eq!(hex::encode(separated.as_bytes()), wanted, "{key_type}");
        let plain = derivation(Profile::Plain, key_type).key(&secret).unwrap();
        assert!(plain == hkdf(Hash::Sha256, &secret, b"salt", b"info", 32).unwrap());
    }
    // A longer one does not begin with the shorter.
    let longer = Derivation { length: 64, ..derivation(Profile::Separated, KeyType::HmacSha256) };
    let short = Derivation { length: 32, ..longer };
    assert_ne!(longer.key(&secret).unwrap().as_bytes()[..32], *short.key(&secret).unwrap().as_bytes());
}

#[test]
fn a_key_has_the_length_of_its_type() {
    let secret = Secret::copy_of(&[7; 32]);
    for (key_type, wrong) in
        [(KeyType::Aes256, 16), (KeyType::ChaCha20, 33), (KeyType::HmacSha256, 31), (KeyType::HmacSha256, 65)]
    {
        let derivation = Derivation { length: wrong, ..derivation(Profile::Plain, key_type) };
        let error = derivation.key(&secret).err().unwrap();
        assert_eq!(error, DeriveError::Length { key_type, found: wrong });
    }
    let error =
        Derivation { length: 16, ..derivation(Profile::Plain, KeyType::Aes256) }.key(&secret).err().unwrap();
    assert_eq!(error.to_string(), "a key of type AES-256 has 32 bytes, not 16");
    for hash in Hash::ALL {
        assert!(hkdf(hash, &secret, b"", b"", hash.most()).is_ok());
        for wrong in [0, hash.most() + 1, usize::MAX] {
            assert_eq!(
                hkdf(hash, &secret, b"", b"", wrong).err(),
                Some(DeriveError::Output { hash, found: wrong })
            );
        }
    }
}

#[test]
fn names_are_read_back_and_others_refused_with_the_choices() {
    for hash in Hash::ALL {
        assert_eq!(hash.name().parse(), Ok(hash));
        assert_eq!(format!("HKDF-{}", hash.name().replace('-', "")).parse(), Ok(hash));
    }
    assert!(KeyType::ALL.iter().all(|key_type| key_type.name().parse() == Ok(*key_type)));
    assert!(Profile::ALL.iter().all(|profile| profile.name().parse() == Ok(*profile)));
    let error = "AES-128".parse::<KeyType>().unwrap_err().to_string();
    assert_eq!(error, "unknown key type \"AES-128\": use one of AES-256, ChaCha20, HMAC-SHA256");
    assert!("MD5".parse::<Hash>().is_err() && "plain".parse::<Profile>().is_err());
    assert_eq!((Profile::for_info(b""), Profile::for_info(b"x")), (Profile::Separated, Profile::Plain));
}
