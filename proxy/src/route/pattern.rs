//! Regular expressions of routes. They take time in proportion to what they are held against, whatever they
//! say, and hold for a whole value or not at all. Classes such as `\d` are of ASCII.

use regex_lite::{Regex, RegexBuilder};

use super::Invalid;

/// Characters of a pattern, as Gateway API has it for paths.
const LONGEST: usize = 1024;
/// Bytes that a compiled pattern may take: repetitions of repetitions are small to write.
const LARGEST: usize = 64 << 10;

#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    pub fn new(text: &str) -> Result<Self, Invalid> {
        if text.len() > LONGEST {
            return Err(Invalid::new(format_args!(
                "the regular expression has {} characters, and may have {LONGEST}",
                text.len()
            )));
        }
        let build = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(LARGEST)
                .build()
                .map_err(|error| Invalid::new(format_args!("the regular expression {text:?}: {error}")))
        };
        // By itself first: what closes a group that it did not open must not close ours.
        build(text)?;
        build(&format!(r"\A(?:{text})\z")).map(Self)
    }

    pub fn holds(&self, value: &str) -> bool {
        self.0.is_match(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_the_whole_value() {
        let holds = |pattern: &str, value| Pattern::new(pattern).unwrap().holds(value);
        assert!(holds("a|ab", "ab"));
        assert!(!holds("a|b", "xb"));
        assert!(!holds("a|b", "ax"));
        assert!(!holds("a.b", "a\nb"));
        assert!(!holds("a", "a\n"));
        assert!(holds(r"/v\d+/.*", "/v12/x"));
        assert!(!holds(r"\d", "٣"));
        assert!(holds("(?i)one", "ONE"));
        // A service account's dot is a dot only where the pattern says so.
        assert!(holds(r"a\.b", "a.b") && !holds(r"a\.b", "axb"));
    }

    #[test]
    fn a_pattern_that_cannot_be_held_to_is_refused() {
        for text in ["(", "a)|(b", r"\p{Greek}", "(?=a)", r"(a)\1", "(?x)a #", "(a{1000}){1000}", "*"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        assert!(Pattern::new(&"a".repeat(LONGEST)).is_ok());
        let error = Pattern::new(&"a".repeat(LONGEST + 1)).unwrap_err().to_string();
        assert!(error.contains("1025 characters"), "{error}");
    }
}
