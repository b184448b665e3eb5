//! What comes out: medians, ratios and targets, as a table and as JSON.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    cores::Cores,
    plan::Plan,
    rounds::{NOISE, Rounds},
};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    name: String,
    /// Median of all rounds.
    ours: f64,
    /// What it is compared with, if with anything.
    other: Option<f64>,
    /// Median of the ratios within each round, where both sides met the same machine.
    ratio: Option<f64>,
    unit: &'static str,
    rounds: usize,
    #[serde(skip)]
    noisy: usize,
    #[serde(skip)]
    dropped: usize,
    #[serde(skip)]
    target: Option<Target>,
}

/// What must be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    OursAtMost(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

impl Figure {
    pub fn alone(name: &str, unit: &'static str, rounds: &Rounds<f64>) -> Self {
        Self {
            name: name.to_owned(),
            ours: median(&rounds.values),
            other: None,
            ratio: None,
            unit,
            rounds: rounds.values.len(),
            noisy: rounds.noisy,
            dropped: rounds.dropped,
            target: None,
        }
    }

    /// Of pairs of ours and the other.
    pub fn compare(name: &str, unit: &'static str, rounds: &Rounds<(f64, f64)>) -> Self {
        let other = median(&rounds.each(|pair| pair.1).values);
        let ratio = median(&rounds.each(|(ours, other)| ours / other).values);
        Self {
            other: Some(other),
            // JSON knows no infinity.
            ratio: Some(ratio).filter(|ratio| ratio.is_finite()),
            ..Self::alone(name, unit, &rounds.each(|pair| pair.0))
        }
    }

    pub fn target(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    /// `None` where there was no target to meet.
    fn met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::OursAtMost(limit) => self.ours <= limit,
            Target::RatioAtMost(limit) => self.ratio.is_some_and(|ratio| ratio <= limit),
            Target::RatioAtLeast(limit) => self.ratio.is_some_and(|ratio| ratio >= limit),
        })
    }

    fn row(&self) -> String {
        let number = |value: Option<f64>| value.map(readable).unwrap_or_default();
        let mut rounds = self.rounds.to_string();
        if self.dropped > 0 {
            rounds += &format!(" of {}", self.rounds + self.dropped);
        }
        if self.noisy > 0 {
            rounds += &format!(", {} noisy", self.noisy);
        }
        let target = match self.target {
            None => String::new(),
            Some(Target::OursAtMost(limit)) => format!("at most {}", readable(limit)),
            Some(Target::RatioAtMost(limit)) => format!("ratio at most {}", readable(limit)),
            Some(Target::RatioAtLeast(limit)) => format!("ratio at least {}", readable(limit)),
        };
        let verdict = match self.met() {
            None => "",
            Some(true) => ": met",
            Some(false) => ": NOT MET",
        };
        let ratio = self.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default();
        let row = format!(
            "{:<44} {:>10} {:>10} {ratio:>8}  {:<9} {rounds:<18} {target}{verdict}",
            self.name,
            readable(self.ours),
            number(self.other),
            self.unit,
        );
        row.trim_end().to_owned()
    }
}

/// Says each figure as soon as it is known, and keeps all.
#[derive(Default, Serialize)]
pub struct Report {
    results: Vec<Figure>,
}

impl Report {
    pub fn begin(cores: Cores, plan: &Plan) -> Result<Self> {
        let report = Self::default();
        report.say(&format!(
            "{} rounds by turns, medians; {cores}.\nA round is noisy in which others had more than {:.0} % of \
             these cores: it is repeated, up to a bound.\n",
            plan.rounds,
            NOISE * 100.0
        ))?;
        report.say(&format!(
            "{:<44} {:>10} {:>10} {:>8}  {:<9} {:<18} target",
            "", "ours", "other", "ratio", "unit", "rounds"
        ))?;
        Ok(report)
    }

    pub fn section(&self, title: &str) -> Result<()> {
        self.say(&format!("\n{title}"))
    }

    pub fn add(&mut self, figure: Figure) -> Result<()> {
        self.say(&figure.row())?;
        self.results.push(figure);
        Ok(())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
        let verdicts: Vec<bool> = self.results.iter().filter_map(Figure::met).collect();
        let met = verdicts.iter().filter(|met| **met).count();
        self.say(&format!(
            "\n{met} of {} targets met; all figures are in {}.",
            verdicts.len(),
            path.display()
        ))
    }

    fn say(&self, text: &str) -> Result<()> {
        Ok(writeln!(io::stdout(), "{text}")?)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    let upper = quantile(&mut sorted, 0.5);
    match sorted.len() {
        even if even % 2 == 0 && even > 0 => (upper + sorted.get(even / 2).copied().unwrap_or(upper)) / 2.0,
        _ => upper,
    }
}

/// The value that a share `of` all values does not exceed. Sorts them.
pub fn quantile(values: &mut [f64], of: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * of).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Four digits are more than any of this is good for.
fn readable(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        medium if medium >= 100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut hundred, 0.99), 99.0);
        assert_eq!(quantile(&mut hundred, 1.0), 100.0);
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine was twice as slow in the second round, for both.
        let rounds = Rounds::from(vec![(3.0, 1.0), (6.0, 2.0), (3.3, 1.0)]);
        let figure = Figure::compare("x", "s", &rounds).target(Target::RatioAtMost(3.1));
        assert_eq!((figure.ours, figure.other, figure.ratio), (3.3, Some(1.0), Some(3.0)));
        assert_eq!(figure.met(), Some(true));
        assert_eq!(figure.clone().target(Target::OursAtMost(3.0)).met(), Some(false));
    }

    #[test]
    fn the_json_has_these_fields_and_no_others() {
        let mut report = Report::default();
        report
            .results
            .push(Figure::alone("x", "MB", &Rounds::from(vec![1.0])).target(Target::OursAtMost(2.0)));
        let json = serde_json::to_value(&report).unwrap();
        let expected = serde_json::json!({"results": [
            {"name": "x", "ours": 1.0, "other": null, "ratio": null, "unit": "MB", "rounds": 1}
        ]});
        assert_eq!(json, expected);
    }
}
