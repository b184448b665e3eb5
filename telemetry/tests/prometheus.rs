//! The text that a Prometheus server scrapes, read back by a parser that knows only the format.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use trellis_telemetry::Registry;

#[test]
fn every_instrument_reads_back_as_recorded() -> Result<()> {
    let registry = Registry::new();
    let handshakes = registry.counter("trellis_handshakes_total", "Handshakes, by what was negotiated.");
    handshakes.with(&[("class", "pq"), ("peer", "spiffe://cluster.local/ns/a/sa/b")]).add(12);
    handshakes.with(&[("class", "plaintext"), ("peer", "")]).inc();
    registry.gauge("trellis_connections_open", "Open now.").with(&[]).set(-2.5);
    let seconds = registry.histogram("trellis_handshake_seconds", "Time.", &[0.1, 0.01, 1.0]);
    for milliseconds in [5, 10, 50, 3_000] {
        seconds.with(&[("direction", "inbound")]).observe_duration(Duration::from_millis(milliseconds));
    }

    let page = Page::parse(&registry.prometheus())?;
    assert_eq!(page.types["trellis_handshakes_total"], "counter");
    assert_eq!(page.types["trellis_connections_open"], "gauge");
    assert_eq!(page.types["trellis_handshake_seconds"], "histogram");
    assert_eq!(page.help["trellis_handshakes_total"], "Handshakes, by what was negotiated.");
    let peer = "spiffe://cluster.local/ns/a/sa/b";
    assert_eq!(page.value("trellis_handshakes_total", &[("class", "pq"), ("peer", peer)])?, 12.0);
    assert_eq!(page.value("trellis_handshakes_total", &[("class", "plaintext"), ("peer", "")])?, 1.0);
    assert_eq!(page.value("trellis_connections_open", &[])?, -2.5);
    let bucket = |le| page.value("trellis_handshake_seconds_bucket", &[("direction", "inbound"), ("le", le)]);
    // A bound is part of the range below it, and each range holds those before it.
    assert_eq!([bucket("0.01")?, bucket("0.1")?, bucket("1")?, bucket("+Inf")?], [2.0, 3.0, 3.0, 4.0]);
    let inbound = [("direction", "inbound")];
    assert_eq!(page.value("trellis_handshake_seconds_count", &inbound)?, 4.0);
    assert!((page.value("trellis_handshake_seconds_sum", &inbound)? - 3.065).abs() < 1e-9);
    Ok(())
}

#[test]
fn hostile_text_stays_inside_its_label() -> Result<()> {
    let registry = Registry::new();
    let hostile = "a\"} 1\nevil_total{x=\"\\";
    registry.counter("kind_total", "line one\nline \"two\" \\ three").with(&[("peer", hostile)]).inc();
    let text = registry.prometheus();
    let page = Page::parse(&text)?;
    assert_eq!(page.value("kind_total", &[("peer", hostile)])?, 1.0);
    assert_eq!(page.help["kind_total"], "line one\nline \"two\" \\ three");
    assert_eq!(page.samples.len(), 1, "{text}");
    Ok(())
}

#[test]
fn what_is_not_a_number_is_written_as_prometheus_reads_it() -> Result<()> {
    let registry = Registry::new();
    let gauge = registry.gauge("odd", "Odd values.");
    gauge.with(&[("is", "nan")]).set(f64::NAN);
    gauge.with(&[("is", "above")]).set(f64::INFINITY);
    gauge.with(&[("is", "below")]).set(f64::NEG_INFINITY);
    let histogram = registry.histogram("seconds", "Time.", &[f64::NAN, 1.0, f64::INFINITY, 1.0]);
    histogram.with(&[]).observe(f64::NAN);
    histogram.with(&[]).observe(0.5);

    let page = Page::parse(&registry.prometheus())?;
    assert!(page.value("odd", &[("is", "nan")])?.is_nan());
    assert_eq!(page.value("odd", &[("is", "above")])?, f64::INFINITY);
    assert_eq!(page.value("odd", &[("is", "below")])?, f64::NEG_INFINITY);
    let buckets = page.samples.keys().filter(|(name, _)| name == "seconds_bucket").count();
    assert_eq!((buckets, page.value("seconds_count", &[])?, page.value("seconds_sum", &[])?), (2, 1.0, 0.5));
    Ok(())
}

#[test]
fn names_that_no_page_could_hold_are_left_out() -> Result<()> {
    let registry = Registry::new();
    registry.counter("has-a-dash_total", "Unusable.").with(&[]).inc();
    registry.counter("good_total", "Good.").with(&[("bad-label", "x"), ("le", "1"), ("ok", "y")]).inc();
    let good = registry.counter("good_total", "Good.");
    good.with(&[("ok", "y")]).inc();
    // The same name as another kind of metric: what is recorded there goes nowhere, and nothing breaks.
    registry.gauge("good_total", "Not a counter.").with(&[("ok", "y")]).set(100.0);

    let page = Page::parse(&registry.prometheus())?;
    assert_eq!(page.samples.len(), 1);
    assert_eq!(page.value("good_total", &[("ok", "y")])?, 2.0);
    Ok(())
}

#[test]
fn series_beyond_the_limit_keep_the_totals_by_closed_labels() -> Result<()> {
    let registry = Registry::new();
    let family = registry.counter("handshakes_total", "Handshakes.").max_series(4).open_labels(&["peer"]);
    for peer in 0..50 {
        let class = if peer % 2 == 0 { "pq" } else { "classical" };
        family.with(&[("class", class), ("peer", &format!("peer-{peer}"))]).inc();
    }
    let page = Page::parse(&registry.prometheus())?;
    let by_class = |class: &str| -> f64 {
        let of = |labels: &Labels| labels.get("class").is_some_and(|found| found == class);
        page.samples
            .iter()
            .filter(|((name, labels), _)| name == "handshakes_total" && of(labels))
            .map(|(_, v)| v)
            .sum()
    };
    assert_eq!((by_class("pq"), by_class("classical")), (25.0, 25.0));
    assert_eq!(page.samples.keys().filter(|(name, _)| name == "handshakes_total").count(), 6);
    let dropped = page.value("trellis_metric_series_dropped_total", &[("metric", "handshakes_total")])?;
    assert_eq!(dropped, 46.0);
    Ok(())
}

#[test]
fn without_open_labels_everything_beyond_the_limit_is_other() -> Result<()> {
    let registry = Registry::new();
    let family = registry.counter("requests_total", "Requests.").max_series(2);
    for code in 0..10 {
        family.with(&[("code", &code.to_string())]).inc();
    }
    // Known series stay reachable.
    family.with(&[("code", "1")]).inc();
    let page = Page::parse(&registry.prometheus())?;
    assert_eq!(page.value("requests_total", &[("code", "1")])?, 2.0);
    assert_eq!(page.value("requests_total", &[("code", "other")])?, 8.0);
    Ok(())
}

#[test]
fn gauges_are_set_from_live_state_before_each_page() -> Result<()> {
    let registry = Registry::new();
    let streams = registry.gauge("trellis_discovery_streams", "Streams.").with(&[]);
    let live = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(3));
    let state = live.clone();
    registry.on_collect(Box::new(move || {
        streams.set(f64::from(state.load(std::sync::atomic::Ordering::Relaxed)));
    }));
    assert_eq!(Page::parse(&registry.prometheus())?.value("trellis_discovery_streams", &[])?, 3.0);
    live.store(7, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(Page::parse(&registry.prometheus())?.value("trellis_discovery_streams", &[])?, 7.0);
    Ok(())
}

#[test]
fn handles_count_the_same_series_from_many_threads() -> Result<()> {
    let registry = Registry::new();
    let family = registry.counter("bytes_total", "Bytes.");
    let histogram = registry.histogram("seconds", "Time.", &[1.0]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let counter = family.with(&[("class", "pq"), ("direction", "in")]);
                let time = histogram.with(&[]);
                for _ in 0..10_000 {
                    counter.inc();
                    time.observe(0.5);
                }
            });
        }
    });
    let page = Page::parse(&registry.prometheus())?;
    // Labels in another order name the same series.
    assert_eq!(family.with(&[("direction", "in"), ("class", "pq")]).get(), 40_000);
    assert_eq!(page.value("seconds_sum", &[])?, 20_000.0);
    assert_eq!(page.value("seconds_count", &[])?, 40_000.0);
    Ok(())
}

type Labels = BTreeMap<String, String>;

/// A page as the format describes it; anything else is an error.
#[derive(Default)]
struct Page {
    help: BTreeMap<String, String>,
    types: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Page {
    fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line must end");
        let mut page = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("help without text")?;
                let help = unescape(&mut help.chars(), None)?;
                ensure!(page.help.insert(name.to_owned(), help).is_none(), "second HELP of {name}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("type without kind")?;
                ensure!(["counter", "gauge", "histogram"].contains(&kind), "kind {kind}");
                ensure!(
                    page.types.insert(name.to_owned(), kind.to_owned()).is_none(),
                    "second TYPE of {name}"
                );
            } else {
                let (key, value) = sample(line).with_context(|| format!("in {line:?}"))?;
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| {
                        key.0.strip_suffix(suffix).filter(|name| page.types.contains_key(*name))
                    })
                    .unwrap_or(&key.0);
                ensure!(page.types.contains_key(family), "sample of {family} before its TYPE");
                ensure!(page.samples.insert(key, value).is_none(), "the same series twice: {line}");
            }
        }
        Ok(page)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.samples
            .get(&(name.to_owned(), labels))
            .copied()
            .with_context(|| format!("no such series of {name}"))
    }
}

fn sample(line: &str) -> Result<((String, Labels), f64)> {
    let mut chars = line.chars();
    let mut name = String::new();
    let mut labels = Labels::new();
    loop {
        match chars.next().context("no value")? {
            ' ' => break,
            '{' => {
                loop {
                    let mut label = String::new();
                    loop {
                        match chars.next().context("open label")? {
                            '=' => break,
                            c => label.push(c),
                        }
                    }
                    ensure!(chars.next() == Some('"'), "label value without quotes");
                    let value = unescape(&mut chars, Some('"'))?;
                    ensure!(labels.insert(label, value).is_none(), "a label twice");
                    match chars.next() {
                        Some(',') => {}
                        Some('}') => break,
                        other => bail!("{other:?} after a label"),
                    }
                }
                ensure!(chars.next() == Some(' '), "no space before the value");
                break;
            }
            c => name.push(c),
        }
    }
    let value = match chars.as_str() {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse()?,
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    ensure!(!name.is_empty() && name.chars().all(fits), "name {name:?}");
    Ok(((name, labels), value))
}

fn unescape(chars: &mut std::str::Chars<'_>, end: Option<char>) -> Result<String> {
    let mut text = String::new();
    loop {
        match chars.next() {
            c if c == end => return Ok(text),
            Some('\\') => match chars.next() {
                Some('n') => text.push('\n'),
                Some('\\') => text.push('\\'),
                Some('"') => text.push('"'),
                other => bail!("escape of {other:?}"),
            },
            Some(c) => text.push(c),
            None => bail!("text without end"),
        }
    }
}
