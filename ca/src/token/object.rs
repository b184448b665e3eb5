//! Keys in a token: made so that they never leave it, found by their ID.

use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        dsa::{HedgeType, SignAdditionalContext},
    },
    object::{Attribute, AttributeType, KeyType, MlDsaParameterSetType, ObjectClass, ObjectHandle},
    session::Session,
    slot::Slot,
};
use trellis_pki::{algorithm::Algorithm, key::PublicKey, signer::ecdsa};

use super::{
    TokenError,
    module::{Trouble, trouble},
};

/// OID of P-256, in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

pub fn look(session: &Session, context: &Pkcs11, slot: Slot) -> Result<(), Trouble> {
    context.get_token_info(slot).map_err(|error| trouble("tell about itself", error))?;
    session.get_session_info().map_err(|error| trouble("tell about a session", error))?;
    // Some modules answer these from memory alone.
    session
        .find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])
        .map_err(|error| trouble("list its keys", error))?;
    Ok(())
}

/// The public half of the key, which is made unless it is there: whoever died on the way finds it again.
pub fn make(session: &Session, id: &str, label: &str, algorithm: Algorithm) -> Result<PublicKey, Trouble> {
    let private = match find(session, id, ObjectClass::PRIVATE_KEY)? {
        Some(private) => private,
        None => generate(session, id, label, algorithm)?,
    };
    check_is_kept(session, private)?;
    let public = find(session, id, ObjectClass::PUBLIC_KEY)?.ok_or_else(|| missing(id))?;
    read(session, public, algorithm)
}

pub fn sign(session: &Session, id: &str, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, Trouble> {
    let key = find(session, id, ObjectClass::PRIVATE_KEY)?.ok_or_else(|| missing(id))?;
    let failed = |error| trouble("sign", error);
    if algorithm.is_post_quantum() {
        let mechanism = Mechanism::MlDsa(SignAdditionalContext::new(HedgeType::Preferred, None));
        return session.sign(&mechanism, key, message).map_err(failed);
    }
    let raw = session.sign(&Mechanism::Ecdsa, key, &ecdsa::digest(message)).map_err(failed)?;
    ecdsa::der(&raw).ok_or_else(|| {
        let reason = format!("{} bytes are no P-256 signature", raw.len());
        Trouble::Said(TokenError::Faulty { what: "sign", reason })
    })
}

pub fn destroy(session: &Session, id: &str) -> Result<(), Trouble> {
    let failed = |error| trouble("destroy a key", error);
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        let template = [Attribute::Class(class), Attribute::Id(bytes(id)?)];
        for object in session.find_objects(&template).map_err(failed)? {
            session.destroy_object(object).map_err(failed)?;
        }
        if !session.find_objects(&template).map_err(failed)?.is_empty() {
            let reason = "the key is still there".to_owned();
            return Err(Trouble::Said(TokenError::Faulty { what: "destroy a key", reason }));
        }
    }
    Ok(())
}

fn find(session: &Session, id: &str, class: ObjectClass) -> Result<Option<ObjectHandle>, Trouble> {
    let template = [Attribute::Class(class), Attribute::Id(bytes(id)?), Attribute::Token(true)];
    let found = session.find_objects(&template).map_err(|error| trouble("find a key", error))?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => Err(Trouble::Said(TokenError::Faulty {
            what: "find a key",
            reason: format!("{} keys have the ID {id}; destroy those that are not ours", several.len()),
        })),
    }
}

fn generate(session: &Session, id: &str, label: &str, algorithm: Algorithm) -> Result<ObjectHandle, Trouble> {
    let (mechanism, kind) = match algorithm {
        Algorithm::EcdsaP256 => (Mechanism::EccKeyPairGen, Attribute::EcParams(P256.to_vec())),
        Algorithm::MlDsa44 => (Mechanism::MlDsaKeyPairGen, parameters(MlDsaParameterSetType::ML_DSA_44)),
        Algorithm::MlDsa65 => (Mechanism::MlDsaKeyPairGen, parameters(MlDsaParameterSetType::ML_DSA_65)),
        Algorithm::MlDsa87 => (Mechanism::MlDsaKeyPairGen, parameters(MlDsaParameterSetType::ML_DSA_87)),
    };
    let id = Attribute::Id(bytes(id)?);
    let label = Attribute::Label(label.as_bytes().to_vec());
    let public = [Attribute::Token(true), Attribute::Verify(true), kind, id.clone(), label.clone()];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        id,
        label,
    ];
    if algorithm == Algorithm::EcdsaP256 {
        // Such keys can do more, unless they are told not to.
        private.extend([Attribute::Derive(false), Attribute::Decrypt(false), Attribute::Unwrap(false)]);
    }
    let made = session.generate_key_pair(&mechanism, &public, &private);
    let (_, private) = made.map_err(|error| match error {
        Error::Pkcs11(RvError::MechanismInvalid | RvError::CurveNotSupported, _) => {
            let (algorithm, reason) = (algorithm.name(), error.to_string());
            Trouble::Said(TokenError::Unsupported { algorithm, reason })
        }
        error => trouble("make a key", error),
    })?;
    Ok(private)
}

fn parameters(set: MlDsaParameterSetType) -> Attribute {
    Attribute::ParameterSet(set.into())
}

/// Whatever the template said: a key that could leave is not used.
fn check_is_kept(session: &Session, key: ObjectHandle) -> Result<(), Trouble> {
    let asked = [AttributeType::Extractable, AttributeType::Sensitive];
    let said = session.get_attributes(key, &asked).map_err(|error| trouble("describe a key", error))?;
    let kept = said.contains(&Attribute::Extractable(false)) && said.contains(&Attribute::Sensitive(true));
    match kept {
        true => Ok(()),
        false => Err(Trouble::Said(TokenError::Faulty {
            what: "make a key",
            reason: "it could be taken out of the token (it is extractable, or not sensitive)".to_owned(),
        })),
    }
}

fn read(session: &Session, key: ObjectHandle, algorithm: Algorithm) -> Result<PublicKey, Trouble> {
    let faulty = |reason: &str| {
        Trouble::Said(TokenError::Faulty { what: "show a public key", reason: reason.to_owned() })
    };
    let asked = match algorithm {
        Algorithm::EcdsaP256 => [AttributeType::KeyType, AttributeType::EcPoint],
        _ => [AttributeType::KeyType, AttributeType::Value],
    };
    let said = session.get_attributes(key, &asked).map_err(|error| trouble("show a public key", error))?;
    let wanted = if algorithm == Algorithm::EcdsaP256 { KeyType::EC } else { KeyType::ML_DSA };
    if !said.contains(&Attribute::KeyType(wanted)) {
        return Err(faulty("it is of another type"));
    }
    let raw = said.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => Some(ecdsa::point(&point).to_vec()),
        Attribute::Value(value) => Some(value),
        _ => None,
    });
    let raw = raw.ok_or_else(|| faulty("it is not there"))?;
    PublicKey::new(algorithm, raw).ok_or_else(|| faulty("it has another length than such a key has"))
}

fn missing(id: &str) -> Trouble {
    Trouble::Said(TokenError::Missing(id.to_owned()))
}

fn bytes(id: &str) -> Result<Vec<u8>, Trouble> {
    trellis_pki::key::bytes_of(id)
        .ok_or_else(|| Trouble::Said(TokenError::Setup(format!("the key's ID {id:?} is not hexadecimal"))))
}
