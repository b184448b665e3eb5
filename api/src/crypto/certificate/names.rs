//! Which texts are names that a certificate can hold. What issues reads them once more, into types; here they
//! are refused with the field.

pub(super) const MAX_ATTRIBUTE: usize = 64;
const MAX_DNS: usize = 253;
const MAX_EMAIL: usize = 254;
const MAX_URI: usize = 1024;

/// RFC 1123, in any case, with a wildcard at most for the first label.
pub(super) fn is_dns(name: &str) -> bool {
    let of = name.strip_prefix("*.");
    name.len() <= MAX_DNS && of.is_none_or(|of| of.contains('.')) && is_host(of.unwrap_or(name))
}

/// A last label of digits alone would be an address.
pub(super) fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= MAX_DNS && name.split('.').all(is_label) && !name.rsplit('.').next().is_some_and(number)
}

/// A scheme and something after it, in the characters of RFC 3986.
pub(super) fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte);
    let escaped = |after: &str| {
        after.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    text.len() <= MAX_URI
        && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !rest.is_empty()
        && rest.bytes().all(plain)
        && rest.split('%').skip(1).all(escaped)
}

pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let atom = |part: &str| {
        let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
        !part.is_empty() && part.bytes().all(is_atom)
    };
    text.len() <= MAX_EMAIL && local.len() <= 64 && local.split('.').all(atom) && is_host(domain)
}

/// No character that tools which print names hold them apart by, and none that cannot be seen.
pub(super) fn is_attribute(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || " .,-_()'&:@*!".contains(c);
    (1..=MAX_ATTRIBUTE).contains(&text.chars().count()) && text.trim() == text && text.chars().all(plain)
}
