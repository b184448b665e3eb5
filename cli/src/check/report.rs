//! The outcome of checks, and how it is shown.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

/// One named check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub category: &'static str,
    pub name: &'static str,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With what was found, where that is worth saying.
    Passed(String),
    /// There was nothing to check, and why.
    Skipped(String),
    /// Works, but not as it should.
    Warned {
        problem: String,
        remedy: String,
    },
    Failed {
        problem: String,
        remedy: String,
    },
}

/// A check that has a name but no outcome yet.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked {
    category: &'static str,
    name: &'static str,
}

impl Check {
    #[allow(clippy::new_ret_no_self)] // a check comes about with its outcome
    pub fn new(category: &'static str, name: &'static str) -> Unchecked {
        Unchecked { category, name }
    }
}

impl Unchecked {
    pub fn passed(self, found: impl Into<String>) -> Check {
        self.with(Outcome::Passed(found.into()))
    }

    pub fn skipped(self, why: impl Into<String>) -> Check {
        self.with(Outcome::Skipped(why.into()))
    }

    pub fn warned(self, problem: impl Into<String>, remedy: impl Into<String>) -> Check {
        self.with(Outcome::Warned { problem: problem.into(), remedy: remedy.into() })
    }

    pub fn failed(self, problem: impl Into<String>, remedy: impl Into<String>) -> Check {
        self.with(Outcome::Failed { problem: problem.into(), remedy: remedy.into() })
    }

    fn with(self, outcome: Outcome) -> Check {
        Check { category: self.category, name: self.name, outcome }
    }
}

/// All checks, by category in the order they were made.
#[derive(Debug)]
pub struct Report(pub Vec<Check>);

impl Report {
    pub fn has_failed(&self) -> bool {
        self.0.iter().any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut category = "";
        for Check { category: of, name, outcome } in &self.0 {
            if *of != category {
                let gap = if category.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}{of}")?;
                category = of;
            }
            match outcome {
                Outcome::Passed(found) if found.is_empty() => writeln!(f, "  ok    {name}")?,
                Outcome::Passed(found) => writeln!(f, "  ok    {name}: {found}")?,
                Outcome::Skipped(why) => writeln!(f, "  -     {name}: {why}")?,
                Outcome::Warned { problem, remedy } => {
                    writeln!(f, "  WARN  {name}: {problem}\n        {remedy}")?
                }
                Outcome::Failed { problem, remedy } => {
                    writeln!(f, "  FAIL  {name}: {problem}\n        {remedy}")?
                }
            }
        }
        let count =
            |wanted: fn(&Outcome) -> bool| self.0.iter().filter(|check| wanted(&check.outcome)).count();
        writeln!(
            f,
            "\n{} passed, {} failed, {} warned, {} skipped",
            count(|outcome| matches!(outcome, Outcome::Passed(_))),
            count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            count(|outcome| matches!(outcome, Outcome::Warned { .. })),
            count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        )
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut report = to.serialize_struct("Report", 2)?;
        report.serialize_field("passed", &!self.has_failed())?;
        report.serialize_field("checks", &self.0)?;
        report.end()
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (outcome, detail, remedy) = match &self.outcome {
            Outcome::Passed(found) => ("passed", found, None),
            Outcome::Skipped(why) => ("skipped", why, None),
            Outcome::Warned { problem, remedy } => ("warned", problem, Some(remedy)),
            Outcome::Failed { problem, remedy } => ("failed", problem, Some(remedy)),
        };
        let mut check = to.serialize_struct("Check", 5)?;
        check.serialize_field("category", self.category)?;
        check.serialize_field("name", self.name)?;
        check.serialize_field("outcome", outcome)?;
        check.serialize_field("detail", detail)?;
        check.serialize_field("remedy", &remedy)?;
        check.end()
    }
}

/// The first few of many, so that a problem stays readable and still says how large it is.
pub fn few<T: fmt::Display>(all: &[T]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = all.iter().take(SHOWN).map(T::to_string).collect();
    match all.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report(vec![
            Check::new("cluster", "the API server answers").passed(""),
            Check::new("cluster", "its version will do").passed("v1.36.3"),
            Check::new("cluster", "the clocks agree").warned("they differ by 90 s", "start a time service"),
            Check::new("mesh", "pods are in the mesh").failed("shop/web-0 is not", "restart it"),
            Check::new("mesh", "leaves are valid").skipped("there is no proxy"),
        ])
    }

    #[test]
    fn a_problem_is_shown_with_its_remedy() {
        assert_eq!(
            report().to_string(),
            "cluster\n  ok    the API server answers\n  ok    its version will do: v1.36.3\n  \
             WARN  the clocks agree: they differ by 90 s\n        start a time service\n\n\
             mesh\n  FAIL  pods are in the mesh: shop/web-0 is not\n        restart it\n  \
             -     leaves are valid: there is no proxy\n\n2 passed, 1 failed, 1 warned, 1 skipped\n"
        );
    }

    #[test]
    fn a_warning_is_no_failure() {
        let Report(mut checks) = report();
        assert!(Report(checks.clone()).has_failed());
        checks.retain(|check| !matches!(check.outcome, Outcome::Failed { .. }));
        let json = serde_json::to_value(Report(checks)).unwrap();
        assert_eq!(json["passed"], true);
        assert_eq!(json["checks"][2]["remedy"], "start a time service");
        assert_eq!(json["checks"][0]["remedy"], serde_json::Value::Null);
    }

    #[test]
    fn of_many_a_few_are_named() {
        assert_eq!(few(&[1, 2]), "1, 2");
        assert!(few(&(0..25).collect::<Vec<_>>()).ends_with("9 and 15 more"));
    }
}
