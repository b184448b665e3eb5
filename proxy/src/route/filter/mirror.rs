//! A copy of some requests for another backend, whose answers nobody sees.

use rand::{Rng, RngExt};
use trellis_api::proto::discovery as wire;

use super::super::{Invalid, rule};
use crate::directory::Backend;

#[derive(Clone, Debug)]
pub struct Mirror {
    backend: Result<Backend, Invalid>,
    numerator: u32,
    denominator: u32,
}

impl Mirror {
    /// One that cannot be understood mirrors nothing: that harms nobody who waits for an answer.
    pub fn read(wire: &wire::Mirror) -> Self {
        let (numerator, denominator) = (wire.numerator, wire.denominator);
        let backend = if !wire.invalid.is_empty() {
            Err(Invalid::new(format_args!("{}", wire.invalid)))
        } else if denominator == 0 || numerator > denominator {
            Err(Invalid::new(format_args!("{numerator}/{denominator} is no share of requests")))
        } else {
            rule::backend(wire.backend.as_ref())
        };
        Self { backend, numerator, denominator }
    }

    /// Who gets a copy of the next request, if anybody.
    pub fn choose(&self, random: &mut impl Rng) -> Option<&Backend> {
        let backend = self.backend.as_ref().ok()?;
        (self.numerator > 0 && random.random_range(0..self.denominator) < self.numerator).then_some(backend)
    }

    /// Why nothing is mirrored.
    pub fn invalid(&self) -> Option<&Invalid> {
        self.backend.as_ref().err()
    }
}
