//! What all kinds that keep something in a Secret have in common: what the Secret is called, when what is in
//! it gives way, how long the old is kept, and what becomes of a loss.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    MAX_SECRET_NAME, Problem,
    reference::is_subdomain,
    rule::{Rule, rules},
};

const GRACE: Rule = Rule {
    rule: "!has(self.every) || has(self.grace)",
    message: "rotation.every needs rotation.grace, after which a replaced version is destroyed: for instance 30d",
    field: ".every",
};

/// What the Secret is called. Both names are for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The Secret with the result. It moves there when this is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 240), regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"))]
    pub secret_name: Option<String>,
    /// Another name of secretName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 240), regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"))]
    pub output_secret_name: Option<String>,
}

/// When a fresh version takes the place of the one in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules([GRACE])))]
pub struct Rotation {
    /// Age at which a version gives way: a number and s, m, h or d, at least 10s. Absent: only when asked by
    /// the annotation crypto.trellis.dev/rotate, or by another algorithm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,6}[smhd]$"))]
    pub every: Option<String>,
    /// How long a version is kept after it gave way, then it is destroyed. Absent: as long as the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6})[smhd]$"))]
    pub grace: Option<String>,
}

/// How long versions are kept where they follow what they are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Keeping {
    /// How long a version is kept after it gave way, then it is destroyed. Absent: as long as the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^(0|[1-9][0-9]{0,6})[smhd]$"))]
    pub grace: Option<String>,
}

/// What becomes of a Secret that is lost and cannot be derived from anything that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecreatePolicy {
    /// It is reported as lost, and what depends on it is told.
    #[default]
    Never,
    /// A fresh one is made, as a new version.
    Recreate,
}

/// How the keys of a pair are written under `public-key` and `private-key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// SubjectPublicKeyInfo and PKCS#8, as PEM.
    #[default]
    Standard,
    /// Raw keys in PEM under the name of the algorithm, as QubeSec writes them.
    Qubesec,
}

impl KeyFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Qubesec => "qubesec",
        }
    }
}

impl Output {
    /// The name that is wished, if one is.
    pub fn name(&self) -> Option<&str> {
        let given = [&self.secret_name, &self.output_secret_name].into_iter().flatten();
        given.map(String::as_str).find(|name| !name.is_empty())
    }

    pub fn check(&self) -> Vec<Problem> {
        let given =
            [("spec.secretName", &self.secret_name), ("spec.outputSecretName", &self.output_secret_name)];
        let mut problems: Vec<Problem> = given
            .iter()
            .filter_map(|(field, name)| name.as_deref().map(|name| (*field, name)))
            .filter(|(_, name)| !name.is_empty() && !is_name(name))
            .map(|(field, name)| {
                let remedy = format!(
                    "use lower case letters, digits, '-' and '.', at most {MAX_SECRET_NAME} of them, beginning and ending with a letter or digit"
                );
                Problem::new(field, name, remedy)
            })
            .collect();
        if let (Some(one), Some(other)) = (&self.secret_name, &self.output_secret_name)
            && !one.is_empty()
            && !other.is_empty()
            && one != other
        {
            let remedy =
                format!("differs from spec.secretName {one:?}, which means the same: remove one of them");
            problems.push(Problem::new("spec.outputSecretName", other, remedy));
        }
        problems
    }
}

/// The shortest time between two versions: everything that depends on one has to follow.
const SHORTEST: Duration = Duration::from_secs(10);

impl Rotation {
    /// Nothing where it is absent, or no duration, which [`Self::check`] tells.
    pub fn every(&self) -> Option<Duration> {
        self.every.as_deref().and_then(duration).filter(|every| *every >= SHORTEST)
    }

    pub fn grace(&self) -> Option<Duration> {
        self.grace.as_deref().and_then(duration)
    }

    pub fn check(&self) -> Vec<Problem> {
        let mut problems = check_grace(self.grace.as_deref());
        if let Some(every) = &self.every {
            if self.every().is_none() {
                problems.push(Problem::new(
                    "spec.rotation.every",
                    every,
                    "use a number and s, m, h or d, at least 10s, such as 30d",
                ));
            }
            if self.grace.is_none() {
                problems.push(Problem::new(
                    "spec.rotation.every",
                    every,
                    "needs spec.rotation.grace, after which a replaced version is destroyed: for instance 30d",
                ));
            }
        }
        problems
    }
}

impl Keeping {
    pub fn grace(&self) -> Option<Duration> {
        self.grace.as_deref().and_then(duration)
    }

    pub fn check(&self) -> Vec<Problem> {
        check_grace(self.grace.as_deref())
    }
}

fn check_grace(grace: Option<&str>) -> Vec<Problem> {
    let wrong = grace.filter(|grace| duration(grace).is_none());
    let remedy = "use a number and s, m, h or d, such as 30d";
    wrong.map(|grace| Problem::new("spec.rotation.grace", grace, remedy)).into_iter().collect()
}

const LAST_VERSION: i64 = 2_000_000_000;

pub(super) fn check_version(version: Option<i64>) -> Vec<Problem> {
    let wrong = version.filter(|version| !(1..=LAST_VERSION).contains(version));
    let remedy = "use the number of a version that the status shows, or remove the field for the newest one";
    wrong.map(|version| Problem::new("spec.version", version, remedy)).into_iter().collect()
}

/// The most digits of a duration.
const DIGITS: usize = 7;

/// A number and a unit: s, m, h or d.
pub fn duration(text: &str) -> Option<Duration> {
    let unit = match text.chars().next_back()? {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    };
    let digits = text.get(..text.len() - 1)?;
    let plain = digits == "0" || !digits.starts_with('0');
    if digits.len() > DIGITS || !plain || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok().map(|number| Duration::from_secs(number * unit))
}

/// Whether a Secret can be called so.
fn is_name(name: &str) -> bool {
    name.len() <= MAX_SECRET_NAME && is_subdomain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, seconds) in [("0s", 0), ("10s", 10), ("5m", 300), ("24h", 86_400), ("30d", 2_592_000)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "5", "05m", "-1h", "1.5h", "1h30m", "12345678s", "5w", "\u{664}s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_rotation_says_how_long_the_old_is_kept() {
        let rotation = |every: Option<&str>, grace: Option<&str>| Rotation {
            every: every.map(str::to_owned),
            grace: grace.map(str::to_owned),
        };
        assert!(rotation(Some("30d"), Some("0s")).check().is_empty());
        assert!(rotation(None, Some("1h")).check().is_empty());
        assert_eq!(rotation(Some("9s"), None).check().len(), 2);
        assert_eq!(rotation(Some("1h"), Some("soon")).check()[0].field, "spec.rotation.grace");
    }

    #[test]
    fn both_names_of_the_secret_mean_the_same() {
        let output = |one: &str, other: &str| Output {
            secret_name: Some(one.to_owned()),
            output_secret_name: Some(other.to_owned()),
        };
        assert_eq!(output("a", "").name(), Some("a"));
        assert_eq!(output("", "b").name(), Some("b"));
        assert_eq!(output("", "").name(), None);
        assert!(output("a", "a").check().is_empty());
        assert_eq!(output("a", "b").check().len(), 1);
        assert_eq!(output("-a", "A").check().len(), 3, "each is no name, and they differ");
    }
}
