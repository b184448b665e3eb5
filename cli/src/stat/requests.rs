//! What requests came to between two readings of proxies' metrics: by workload, route and class, and by who
//! answered.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Serialize;

use super::fetch::Metrics;
use crate::{proxies::plain, table::Table};

const TOTAL: &str = "trellis_requests_total";
const BUCKET: &str = "trellis_request_duration_seconds_bucket";
/// What says nothing about who answers.
const CLIENT_LEFT: &str = "client_left";

/// Requests that are alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub workload: String,
    pub service: String,
    pub route: String,
    pub peer: String,
    pub class: String,
    pub requests_per_second: f64,
    /// Of those whose client waited for the answer, the share without a 5xx and without a reason; null where
    /// there was none.
    pub success: Option<f64>,
    /// Of all that have workload, Service, route and class in common; null where none was answered.
    pub latency: Option<Latency>,
}

/// In milliseconds, as close as the buckets of the histogram tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    workload: String,
    service: String,
    route: String,
    class: String,
}

#[derive(Default)]
struct Count {
    all: f64,
    judged: f64,
    good: f64,
}

/// What was counted between two readings, and which proxies could not be read.
pub fn between(before: &[Metrics], after: &[Metrics], length: Duration) -> (Vec<Row>, Vec<(String, String)>) {
    let mut unread = Vec::new();
    let mut counts: BTreeMap<(Key, String), Count> = BTreeMap::new();
    let mut buckets: BTreeMap<Key, BTreeMap<u64, f64>> = BTreeMap::new();
    for Metrics { name, workload, text } in after {
        // One that was not there before has counted nothing by then.
        let known =
            before.iter().find(|known| known.name == *name).map_or(Ok(""), |known| known.text.as_deref());
        let (known, text) = match (known, text) {
            (Ok(known), Ok(text)) => (known, text),
            (_, Err(reason)) | (Err(reason), _) => {
                unread.push((name.clone(), reason.clone()));
                continue;
            }
        };
        let known: HashMap<&str, f64> =
            known.lines().filter_map(|line| line.rsplit_once(' ')).filter_map(value).collect();
        for (series, now) in text.lines().filter_map(|line| line.rsplit_once(' ')).filter_map(value) {
            let Some((family, labels)) = read(series) else { continue };
            let was = known.get(series).copied().unwrap_or_default();
            // What was started anew has counted all of it since.
            let came = if now >= was { now - was } else { now };
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let key = Key {
                workload: workload.clone(),
                service: label("service"),
                route: label("route"),
                class: label("class"),
            };
            match family {
                TOTAL => {
                    let count = counts.entry((key, label("peer"))).or_default();
                    count.all += came;
                    let failed = label("status").starts_with('5') || !label("reason").is_empty();
                    if label("reason") != CLIENT_LEFT {
                        count.judged += came;
                        count.good += if failed { 0.0 } else { came };
                    }
                }
                BUCKET => {
                    let bound = label("le").parse::<f64>().unwrap_or(f64::INFINITY);
                    *buckets.entry(key).or_default().entry(bound.to_bits()).or_default() += came;
                }
                _ => {}
            }
        }
    }
    let seconds = length.as_secs_f64().max(1e-3);
    let row = |((key, peer), count): ((Key, String), Count)| {
        let latency = buckets.get(&key).and_then(Latency::of);
        let Key { workload, service, route, class } = key;
        let success = (count.judged > 0.0).then(|| (count.good / count.judged).clamp(0.0, 1.0));
        let requests_per_second = count.all / seconds;
        Row { workload, service, route, peer, class, requests_per_second, success, latency }
    };
    let counted = counts.into_iter().filter(|(_, count)| count.all > 0.0);
    (counted.map(row).collect(), unread)
}

impl Latency {
    /// `buckets` are cumulative.
    fn of(buckets: &BTreeMap<u64, f64>) -> Option<Self> {
        let buckets: Vec<(f64, f64)> =
            buckets.iter().map(|(bound, count)| (f64::from_bits(*bound), *count)).collect();
        let total = buckets.last().map(|(_, count)| *count).filter(|total| *total > 0.0)?;
        let quantile = |share: f64| {
            let wanted = share * total;
            let mut below = (0.0, 0.0);
            for (bound, count) in &buckets {
                if *count >= wanted {
                    if bound.is_infinite() {
                        return below.0;
                    }
                    let part = (wanted - below.1) / (count - below.1).max(f64::MIN_POSITIVE);
                    return below.0 + (bound - below.0) * part;
                }
                below = (*bound, *count);
            }
            below.0
        };
        let milliseconds = |share| (quantile(share) * 1e5).round() / 100.0;
        Some(Self { p50: milliseconds(0.5), p95: milliseconds(0.95), p99: milliseconds(0.99) })
    }
}

fn value<'a>((series, value): (&'a str, &str)) -> Option<(&'a str, f64)> {
    Some((series, value.parse().ok()?))
}

/// Name and labels of a series in the Prometheus text format, as our own proxies write it.
fn read(series: &str) -> Option<(&str, BTreeMap<&str, String>)> {
    let (name, rest) = series.split_once('{')?;
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(label.trim_start_matches(','), value);
        rest = quoted.get(end + 1..)?;
        if rest.starts_with('}') {
            break;
        }
    }
    rest.starts_with('}').then_some((name, labels))
}

pub fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no requests\n".to_owned();
    }
    let mut table =
        Table::new(["WORKLOAD", "SERVICE", "ROUTE", "PEER", "CLASS", "RPS", "SUCCESS", "P50", "P95", "P99"]);
    for row in rows {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { plain(text) };
        let took = |pick: fn(&Latency) -> f64| {
            row.latency.as_ref().map_or_else(|| "-".to_owned(), |latency| format!("{} ms", pick(latency)))
        };
        table.row(vec![
            text(&row.workload),
            text(&row.service),
            text(&row.route),
            text(&row.peer),
            text(&row.class),
            format!("{:.1}", row.requests_per_second),
            row.success.map_or_else(|| "-".to_owned(), |success| format!("{:.2} %", success * 100.0)),
            took(|latency| latency.p50),
            took(|latency| latency.p95),
            took(|latency| latency.p99),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use trellis_telemetry::Registry;

    use super::*;

    /// Metrics as a proxy writes them, after so many requests of each kind.
    fn metrics(good: u64, failed: u64, left: u64) -> String {
        let registry = Registry::new();
        let total = registry.counter(TOTAL, "").open_labels(&["service", "route", "peer"]);
        let took = registry
            .histogram("trellis_request_duration_seconds", "", &[0.001, 0.01, 0.1])
            .open_labels(&["service", "route"]);
        let kind = [("service", "shop/cart:80"), ("route", "shop/\"r\"")];
        for (count, status, reason) in
            [(good, "200", ""), (failed, "503", "no_endpoint"), (left, "", CLIENT_LEFT)]
        {
            let more = [
                ("peer", "spiffe://a/ns/shop/sa/cart"),
                ("class", "pq"),
                ("status", status),
                ("reason", reason),
            ];
            total.with(&[&kind[..], &more].concat()).add(count);
        }
        let took = took.with(&[&kind[..], &[("class", "pq")]].concat());
        (0..good).for_each(|number| took.observe(if number % 10 == 9 { 0.05 } else { 0.005 }));
        registry.prometheus()
    }

    fn proxy(name: &str, text: Result<String, &str>) -> Metrics {
        let workload = "shop/deployment/web".to_owned();
        Metrics { name: name.to_owned(), workload, text: text.map_err(str::to_owned) }
    }

    #[test]
    fn what_is_shown_is_what_came_between_two_readings() {
        let before = [proxy("shop/web-0", Ok(metrics(1_000, 0, 0))), proxy("shop/web-1", Err("gone"))];
        let after =
            [proxy("shop/web-0", Ok(metrics(1_090, 10, 100))), proxy("shop/web-1", Ok(metrics(5, 5, 5)))];
        let (rows, unread) = between(&before, &after, Duration::from_secs(10));
        let [row] = &*rows else { panic!("{rows:?}") };
        assert_eq!((row.service.as_str(), row.route.as_str()), ("shop/cart:80", "shop/\"r\""));
        assert_eq!((row.requests_per_second, row.success), (20.0, Some(0.9)));
        let latency = row.latency.unwrap();
        assert!(latency.p50 > 1.0 && latency.p50 < 10.0 && latency.p99 > 10.0, "{latency:?}");
        assert_eq!(unread, [("shop/web-1".to_owned(), "gone".to_owned())]);
        assert!(table(&rows).contains("20.0   90.00 %"), "{}", table(&rows));
    }

    #[test]
    fn replicas_are_one_and_a_new_start_counts_from_nothing() {
        let of = |name, count| proxy(name, Ok(metrics(count, 0, 0)));
        let (before, after) = ([of("a", 100), of("b", 9)], [of("a", 105), of("b", 2), of("c", 3)]);
        let (rows, _) = between(&before, &after, Duration::from_secs(1));
        assert_eq!((rows.len(), rows[0].requests_per_second), (1, 10.0));
        assert!(between(&before, &before, Duration::from_secs(1)).0.is_empty());
        assert_eq!(table(&[]), "no requests\n");
    }
}
