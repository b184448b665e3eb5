//! Names in certificates. Whatever is in a text, it becomes one name or one attribute, or nothing.

use std::net::IpAddr;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{DistinguishedName, DnType, DnValue, SanType};

/// X.520's bound on a common name and on units of an organization.
const MAX_ATTRIBUTE: usize = 64;
const MAX_DNS: usize = 253;
const MAX_EMAIL: usize = 254;
const MAX_URI: usize = 1024;

/// Who a certificate is for, in the words of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: Option<String>,
    pub organization: Option<String>,
    pub organizational_unit: Option<String>,
    /// Two capital letters.
    pub country: Option<String>,
}

/// An alternative name, which is what verifiers look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
    Email(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "DNS name {0:?}: use labels of 1 to 63 letters, digits and dashes, of which the last is no number, {MAX_DNS} characters in all; a wildcard may be the first label alone, with two below it; write others than ASCII as xn--"
    )]
    Dns(String),
    #[error(
        "URI {0:?}: use a scheme, a colon and what follows, of the characters of RFC 3986, at most {MAX_URI}"
    )]
    Uri(String),
    #[error("email address {0:?}: use one name, an @ and one DNS name, at most {MAX_EMAIL} characters")]
    Email(String),
    #[error(
        "{0} {1:?}: use 1 to {MAX_ATTRIBUTE} letters, digits, spaces between them and any of . , - _ ( ) ' & : @ * !"
    )]
    Attribute(&'static str, String),
    #[error("country {0:?}: use two capital letters")]
    Country(String),
}

impl Subject {
    /// Checks every attribute.
    pub fn check(&self) -> Result<(), NameError> {
        self.distinguished().map(|_| ())
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn distinguished(&self) -> Result<DistinguishedName, NameError> {
        let mut name = DistinguishedName::new();
        if let Some(country) = &self.country {
            let wrong = || NameError::Country(shown(country));
            let letters = country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase());
            let value = PrintableString::try_from(country.as_str()).ok().filter(|_| letters);
            name.push(DnType::CountryName, DnValue::PrintableString(value.ok_or_else(wrong)?));
        }
        let texts = [
            (DnType::OrganizationName, "organization", &self.organization),
            (DnType::OrganizationalUnitName, "organizational unit", &self.organizational_unit),
            (DnType::CommonName, "common name", &self.common_name),
        ];
        for (type_, what, text) in texts {
            let Some(text) = text else { continue };
            if !is_attribute(text) {
                return Err(NameError::Attribute(what, shown(text)));
            }
            name.push(type_, DnValue::Utf8String(text.clone()));
        }
        Ok(name)
    }
}

impl Name {
    /// Of a host, in any case, perhaps with a wildcard.
    pub fn dns(text: &str) -> Result<Self, NameError> {
        let name = text.to_ascii_lowercase();
        let of = name.strip_prefix("*.");
        // A wildcard for all of a top level domain, no verifier takes.
        let wide = of.is_some_and(|of| !of.contains('.'));
        if wide || !is_host(of.unwrap_or(&name)) || name.len() > MAX_DNS {
            return Err(NameError::Dns(shown(text)));
        }
        Ok(Self { of: Of::Dns(name) })
    }

    pub fn ip(address: IpAddr) -> Self {
        Self { of: Of::Ip(address) }
    }

    pub fn uri(text: &str) -> Result<Self, NameError> {
        if is_uri(text) {
            Ok(Self { of: Of::Uri(text.to_owned()) })
        } else {
            Err(NameError::Uri(shown(text)))
        }
    }

    pub fn email(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Email(shown(text));
        let (local, domain) = text.split_once('@').ok_or_else(wrong)?;
        let atom = |part: &str| {
            let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
            !part.is_empty() && part.bytes().all(is_atom)
        };
        let fits = local.len() <= 64 && text.len() <= MAX_EMAIL;
        if !fits || !local.split('.').all(atom) || !is_host(&domain.to_ascii_lowercase()) {
            return Err(wrong());
        }
        Ok(Self { of: Of::Email(text.to_owned()) })
    }

    /// The host that is named, if it is one.
    pub fn as_dns(&self) -> Option<&str> {
        match &self.of {
            Of::Dns(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn general(&self) -> Result<SanType, NameError> {
        let ascii = |text: &String, wrong: fn(String) -> NameError| {
            Ia5String::try_from(text.as_str()).map_err(|_| wrong(shown(text)))
        };
        Ok(match &self.of {
            Of::Dns(name) => SanType::DnsName(ascii(name, NameError::Dns)?),
            Of::Ip(address) => SanType::IpAddress(*address),
            Of::Uri(uri) => SanType::URI(ascii(uri, NameError::Uri)?),
            Of::Email(email) => SanType::Rfc822Name(ascii(email, NameError::Email)?),
        })
    }
}

/// RFC 1123, in lower case. A last label of digits alone would be an address.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(number)
}

/// A scheme and something after it, of characters that stand for themselves or for another.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let escapes = rest.split('%').skip(1).all(|after| {
        after.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    });
    text.len() <= MAX_URI
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(in_scheme)
        && !rest.is_empty()
        && rest.bytes().all(plain)
        && escapes
}

/// No character that a tool which prints names uses to hold them apart, and none that cannot be seen.
fn is_attribute(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || " .,-_()'&:@*!".contains(c);
    let length = text.chars().count();
    (1..=MAX_ATTRIBUTE).contains(&length) && text.trim() == text && text.chars().all(plain)
}

/// What was given, cut where it is long.
fn shown(text: &str) -> String {
    text.chars().take(260).collect()
}
