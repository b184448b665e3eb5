//! Nothing that holds a secret can be printed, by whatever mistake.

use std::fmt::Debug;

use trellis_crypto::kem::{self, Encapsulation};
use trellis_crypto::seal::OpeningKey;
use trellis_crypto::{PrivateKey, Secret, signature};

/// Held by every type once, and by those with `Debug` twice, so that naming it without saying which is an error for
/// these.
trait Unprintable<Which> {
    fn holds() {}
}

struct Printable;

impl<T> Unprintable<()> for T {}
impl<T: Debug> Unprintable<Printable> for T {}

#[test]
fn what_holds_secrets_has_no_debug() {
    <Secret as Unprintable<_>>::holds();
    <PrivateKey as Unprintable<_>>::holds();
    <kem::PrivateKey as Unprintable<_>>::holds();
    <signature::PrivateKey as Unprintable<_>>::holds();
    <Encapsulation as Unprintable<_>>::holds();
    <OpeningKey as Unprintable<_>>::holds();
}
