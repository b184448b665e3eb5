//! The Prometheus text format, version 0.0.4.

use std::fmt::{self, Write};

use crate::registry::{FamilySnapshot, Kind, Sample, Value};

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn encode(families: &[FamilySnapshot]) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write_family(&mut out, family);
    }
    out
}

fn write_family(out: &mut String, family: &FamilySnapshot) -> fmt::Result {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    write!(out, "# HELP {} ", family.name)?;
    escape(out, &family.help, false)?;
    writeln!(out, "\n# TYPE {} {kind}", family.name)?;
    for sample in &family.samples {
        write_sample(out, &family.name, sample)?;
    }
    Ok(())
}

fn write_sample(out: &mut String, name: &str, sample: &Sample) -> fmt::Result {
    match &sample.value {
        Value::Counter(value) => {
            write_series(out, name, "", sample, None)?;
            writeln!(out, " {value}")
        }
        Value::Gauge(value) => {
            write_series(out, name, "", sample, None)?;
            writeln!(out, " {}", Number(*value))
        }
        Value::Histogram { bounds, counts, sum } => {
            let mut total = 0u64;
            let limits = bounds.iter().copied().chain([f64::INFINITY]);
            for (limit, count) in limits.zip(counts) {
                total = total.saturating_add(*count);
                write_series(out, name, "_bucket", sample, Some(limit))?;
                writeln!(out, " {total}")?;
            }
            write_series(out, name, "_sum", sample, None)?;
            writeln!(out, " {}", Number(*sum))?;
            write_series(out, name, "_count", sample, None)?;
            writeln!(out, " {total}")
        }
    }
}

fn write_series(
    out: &mut String,
    name: &str,
    suffix: &str,
    sample: &Sample,
    limit: Option<f64>,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    if sample.labels.is_empty() && limit.is_none() {
        return Ok(());
    }
    let mut separator = '{';
    for (label, value) in &sample.labels {
        write!(out, "{separator}{label}=\"")?;
        escape(out, value, true)?;
        out.push('"');
        separator = ',';
    }
    if let Some(limit) = limit {
        write!(out, "{separator}le=\"{}\"", Number(limit))?;
    }
    out.push('}');
    Ok(())
}

fn escape(out: &mut String, text: &str, quotes: bool) -> fmt::Result {
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '"' if quotes => out.write_str("\\\"")?,
            c => out.write_char(c)?,
        }
    }
    Ok(())
}

/// A number as Prometheus reads it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            f.write_str("NaN")
        } else if self.0 == f64::INFINITY {
            f.write_str("+Inf")
        } else if self.0 == f64::NEG_INFINITY {
            f.write_str("-Inf")
        } else {
            write!(f, "{}", self.0)
        }
    }
}
