//! Kubernetes quantities, checked where a user wrote them: `100m` of CPU, `64Mi` of memory. Kubernetes
//! would take `64` bytes or a tenth of a byte of memory without a word.

use std::{fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Billionths, in which every quantity that Kubernetes knows is a whole number.
const ONE: u128 = 1_000_000_000;
const MILLI: u128 = ONE / 1_000;
/// Nobody means less memory than this for a process; it is a unit forgotten.
const LEAST_MEMORY: u128 = 1024 * 1024 * ONE;

const SUFFIXES: [(&str, u128); 15] = [
    ("Ki", ONE << 10),
    ("Mi", ONE << 20),
    ("Gi", ONE << 30),
    ("Ti", ONE << 40),
    ("Pi", ONE << 50),
    ("Ei", ONE << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", MILLI),
    ("k", ONE * 1_000),
    ("M", ONE * 1_000_000),
    ("G", ONE * 1_000_000_000),
    ("T", ONE * 1_000_000_000_000),
    ("P", ONE * 1_000_000_000_000_000),
    ("E", ONE * 1_000_000_000_000_000_000),
];

/// An amount of CPU in cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu(Quantity);

/// An amount of memory in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory(Quantity);

/// A quantity remembers how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quantity {
    text: String,
    billionths: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("this is not a quantity of Kubernetes")]
    Malformed,
    #[error("the quantity is too large")]
    TooLarge,
    #[error("a thousandth of a core is the least that can be asked for")]
    TooLittleCpu,
    #[error("there are no parts of a byte")]
    PartOfAByte,
    #[error("this is less than a megabyte; a unit may be missing")]
    TooLittleMemory,
}

impl Cpu {
    pub fn exceeds(&self, other: &Self) -> bool {
        self.0.billionths > other.0.billionths
    }
}

impl Memory {
    pub fn exceeds(&self, other: &Self) -> bool {
        self.0.billionths > other.0.billionths
    }
}

impl FromStr for Cpu {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let quantity = Quantity::parse(text)?;
        if quantity.billionths < MILLI {
            return Err(QuantityError::TooLittleCpu);
        }
        Ok(Self(quantity))
    }
}

impl FromStr for Memory {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let quantity = Quantity::parse(text)?;
        if !quantity.billionths.is_multiple_of(ONE) {
            return Err(QuantityError::PartOfAByte);
        }
        if quantity.billionths < LEAST_MEMORY {
            return Err(QuantityError::TooLittleMemory);
        }
        Ok(Self(quantity))
    }
}

impl Quantity {
    fn parse(text: &str) -> Result<Self, QuantityError> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Malformed);
        }
        let unit = unit(suffix)?;
        let mut billionths = digits(whole)?.checked_mul(unit).ok_or(QuantityError::TooLarge)?;
        if !fraction.is_empty() {
            let scale = u32::try_from(fraction.len())
                .ok()
                .and_then(|length| 10_u128.checked_pow(length))
                .ok_or(QuantityError::TooLarge)?;
            let part = digits(fraction)?.checked_mul(unit).ok_or(QuantityError::TooLarge)?;
            // Kubernetes rounds up what is finer than a billionth.
            billionths = billionths.checked_add(part.div_ceil(scale)).ok_or(QuantityError::TooLarge)?;
        }
        Ok(Self { text: text.to_owned(), billionths })
    }
}

fn digits(text: &str) -> Result<u128, QuantityError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| QuantityError::TooLarge)
}

/// How many billionths one of the suffix is.
fn unit(suffix: &str) -> Result<u128, QuantityError> {
    if suffix.is_empty() {
        return Ok(ONE);
    }
    if let Some((_, unit)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Ok(*unit);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Malformed)?;
    match u32::try_from(exponent.saturating_add(9)) {
        Ok(power) => 10_u128.checked_pow(power).ok_or(QuantityError::TooLarge),
        Err(_) => Err(QuantityError::Malformed),
    }
}

macro_rules! textual {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0.text)
            }
        }

        impl From<&$kind> for resource::Quantity {
            fn from(amount: &$kind) -> Self {
                Self(amount.0.text.clone())
            }
        }

        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(|error| de::Error::custom(format!("`{text}`: {error}")))
            }
        }
    )*};
}

textual!(Cpu, Memory);

#[cfg(test)]
mod tests {
    use super::*;

    fn billionths(text: &str) -> u128 {
        Quantity::parse(text).unwrap().billionths
    }

    #[test]
    fn reads_every_form_that_kubernetes_writes() {
        for (text, value) in [
            ("1", ONE),
            ("100m", ONE / 10),
            ("0.5", ONE / 2),
            (".5", ONE / 2),
            ("2.", 2 * ONE),
            ("1.5Gi", (3 << 29) * ONE),
            ("64Mi", (64 << 20) * ONE),
            ("128974848", 128_974_848 * ONE),
            ("129e6", 129_000_000 * ONE),
            ("1E3", 1_000 * ONE),
            ("5e-1", ONE / 2),
            ("2E", 2_000_000_000_000_000_000 * ONE),
            ("1u", 1_000),
        ] {
            assert_eq!(billionths(text), value, "{text}");
        }
    }

    #[test]
    fn compares_what_is_written_differently() {
        assert!("1".parse::<Cpu>().unwrap().exceeds(&"999m".parse().unwrap()));
        assert!(!"1".parse::<Cpu>().unwrap().exceeds(&"1000m".parse().unwrap()));
        assert!("1Gi".parse::<Memory>().unwrap().exceeds(&"1G".parse().unwrap()));
    }

    #[test]
    fn refuses_what_kubernetes_or_nobody_would_take() {
        for text in ["", "m", "1 Gi", "-1", "+1", "1mi", "1.2.3", "1e", "1e99999999999", "1K", "Gi"] {
            assert_eq!(text.parse::<Cpu>().unwrap_err(), QuantityError::Malformed, "{text}");
        }
        assert_eq!("999999999999999999999999999999999999999".parse::<Cpu>(), Err(QuantityError::TooLarge));
        assert_eq!("1e99".parse::<Cpu>(), Err(QuantityError::TooLarge));
        assert_eq!("0".parse::<Cpu>(), Err(QuantityError::TooLittleCpu));
        assert_eq!("100u".parse::<Cpu>(), Err(QuantityError::TooLittleCpu));
        assert_eq!("100m".parse::<Memory>(), Err(QuantityError::PartOfAByte));
        assert_eq!("64".parse::<Memory>(), Err(QuantityError::TooLittleMemory));
    }
}
