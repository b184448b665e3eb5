//! Durations as Gateway API writes them: `1h30m`, `500ms`, up to four parts with whole numbers.

const PARTS: usize = 4;
const DIGITS: usize = 5;

/// Milliseconds; nothing where the text is no duration.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0;
    for part in 0.. {
        if rest.is_empty() {
            return (part > 0).then_some(sum);
        }
        if part == PARTS {
            return None;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > DIGITS {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let (factor, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            [b'h', ..] => (3_600_000, 1),
            _ => return None,
        };
        sum += number.parse::<u64>().ok()? * factor;
        rest = unit.get(length..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_defined() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("1h30m", Some(5_400_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("10m10s", Some(610_000)),
            ("", None),
            ("5", None),
            ("5d", None),
            ("1.5s", None),
            ("-1s", None),
            ("123456s", None),
            ("1h1h1h1h1h", None),
            ("s", None),
        ] {
            assert_eq!(milliseconds(text), expected, "{text:?}");
        }
    }
}
