//! W3C Trace Context: the headers by which requests say to which trace they belong. One that is malformed
//! is worth nothing, and its trace begins anew.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

const SAMPLED: u8 = 1;
/// The trace's id is random in the bits that others sample by.
const RANDOM: u8 = 2;
/// Length of the first version; later ones may be longer.
const LENGTH: usize = 55;
/// Members of a `tracestate`.
const MEMBERS: usize = 32;

/// Where in which trace something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: u128,
    /// The span that is under way.
    pub span: u64,
    flags: u8,
}

/// What a request says about traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Malformed,
    Context(Context),
}

impl Context {
    pub fn new(trace: u128, span: u64, sampled: bool) -> Self {
        Self { trace, span, flags: if sampled { RANDOM | SAMPLED } else { RANDOM } }
    }

    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same trace one span further.
    pub fn within(self, span: u64) -> Self {
        Self { span, ..self }
    }

    pub fn header(self) -> Option<HeaderValue> {
        let Self { trace, span, flags } = self;
        HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-{flags:02x}")).ok()
    }

    /// Reads a `traceparent`.
    pub fn read(text: &[u8]) -> Option<Self> {
        let (version, rest) = (hex(text.get(..2)?)?, text.get(LENGTH..)?);
        let longer = rest.is_empty() || (version > 0 && rest.first() == Some(&b'-'));
        let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        if version == 0xff || !longer || !dashes {
            return None;
        }
        let trace = hex(text.get(3..35)?)?;
        let span = u64::try_from(hex(text.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(text.get(53..LENGTH)?)?).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, flags: flags & (SAMPLED | RANDOM) })
    }
}

impl Said {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(TRACEPARENT).iter();
        match (all.next(), all.next()) {
            (None, _) => Self::Nothing,
            (Some(one), None) => Context::read(one.as_bytes()).map_or(Self::Malformed, Self::Context),
            (Some(_), Some(_)) => Self::Malformed,
        }
    }
}

/// Whether all of the `tracestate` can be handed on.
pub fn is_state_sound(headers: &HeaderMap) -> bool {
    let members = || {
        let values = headers.get_all(TRACESTATE).iter();
        values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    };
    let named = || members().filter(|member| !member.is_empty());
    named().count() <= MEMBERS && named().all(is_member)
}

fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (member.get(..at).unwrap_or_default(), member.get(at + 1..).unwrap_or_default());
    let of_key = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let begins = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let of_value = |byte: &u8| (0x20..0x7f).contains(byte) && *byte != b'=';
    begins
        && key.len() <= 256
        && key.iter().all(of_key)
        && (1..=256).contains(&value.len())
        && value.iter().all(of_value)
}

/// Lower-case digits only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_has_it() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            // Flags of later versions are none of ours.
            (format!("00-{TRACE}-{SPAN}-ff"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-is"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01.what"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("0-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{}-01", SPAN.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{TRACE}-{}-01", "g".repeat(16)), None),
            (format!("00_{TRACE}_{SPAN}_01"), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (String::new(), None),
        ] {
            let read = Context::read(text.as_bytes());
            assert_eq!(read.map(Context::is_sampled), sampled, "{text}");
            if let Some(read) = read {
                assert_eq!((read.trace, read.span), (0x0af7651916cd43dd8448eb211c80319c, 0xb7ad6b7169203331));
            }
        }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let context = Context::new(7, 9, true);
        let header = context.header().unwrap();
        assert_eq!(header, "00-00000000000000000000000000000007-0000000000000009-03");
        assert_eq!(Context::read(header.as_bytes()), Some(context));
        assert!(!Context::new(7, 9, false).is_sampled());
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Said::of(&headers), Said::Nothing);
        let value = HeaderValue::try_from(format!("00-{TRACE}-{SPAN}-01")).unwrap();
        headers.append(TRACEPARENT, value.clone());
        assert!(matches!(Said::of(&headers), Said::Context(_)));
        headers.append(TRACEPARENT, value);
        assert_eq!(Said::of(&headers), Said::Malformed);
    }

    #[test]
    fn a_tracestate_is_handed_on_only_where_all_of_it_is_sound() {
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for (state, sound) in [
            ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", true),
            ("a=1, ,b=2", true),
            ("fw529a3039@dt=FfB", true),
            ("", true),
            ("a", false),
            ("A=1", false),
            ("=1", false),
            ("a=", false),
            ("a=b=c", false),
            (&*many(32), true),
            (&*many(33), false),
        ] {
            let headers = HeaderMap::from_iter([(TRACESTATE, HeaderValue::from_str(state).unwrap())]);
            assert_eq!(is_state_sound(&headers), sound, "{state}");
        }
    }
}
