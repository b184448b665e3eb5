//! The nine kinds, a file each.

mod certificate;
mod decapsulate_secret;
mod derived_key;
mod encapsulate_secret;
mod kem_key_pair;
mod key_pair;
mod random_number;
mod sign_message;
mod signature_key_pair;
mod verify_signature;

use trellis_api::crypto::{Kind, VerifySignatureSpec};

pub(crate) use self::verify_signature::{Verdict, VerifySignature};
use self::{
    certificate::Certificate, decapsulate_secret::DecapsulateSecret, derived_key::DerivedKey,
    encapsulate_secret::EncapsulateSecret, kem_key_pair::KemKeyPair, random_number::RandomNumber,
    sign_message::SignMessage, signature_key_pair::SignatureKeyPair,
};
use crate::{
    object::Object,
    sources::{Ask, Obstacle},
    trade::{Keeper, Trade, spec_of},
};

/// A kind that keeps something in a Secret.
pub(crate) fn trade(kind: Kind) -> Option<&'static dyn Trade> {
    Some(match kind {
        Kind::RandomNumber => &Keeper::<RandomNumber>::NEW,
        Kind::KemKeyPair => &Keeper::<KemKeyPair>::NEW,
        Kind::EncapsulateSecret => &Keeper::<EncapsulateSecret>::NEW,
        Kind::DecapsulateSecret => &Keeper::<DecapsulateSecret>::NEW,
        Kind::DerivedKey => &Keeper::<DerivedKey>::NEW,
        Kind::SignatureKeyPair => &Keeper::<SignatureKeyPair>::NEW,
        Kind::SignMessage => &Keeper::<SignMessage>::NEW,
        Kind::Certificate => &Keeper::<Certificate>::NEW,
        Kind::VerifySignature => return None,
    })
}

/// What an object reads; nothing of one whose spec cannot be obeyed.
pub(crate) fn asks(object: &Object) -> Result<Vec<Ask>, Obstacle> {
    match object.id.kind {
        Kind::VerifySignature => Ok(VerifySignature::asks(&spec_of::<VerifySignatureSpec>(object)?)),
        kind => trade(kind).map_or(Ok(Vec::new()), |trade| trade.asks(object)),
    }
}
