//! The overview: a line per workload with what the connections at its end really negotiated, then why
//! those that are not quantum-safe are not, then adoption over all, both numbers.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use k8s_openapi::jiff::{SpanRound, Timestamp, Unit};
use trellis_api::evidence::{
    Adoption, Class, Connections, KUBELET_PROBE, OUTSIDE_MESH, ProxyEvidence, REFUSED,
};

use super::{Seen, document, workload::Workload};
use crate::table::Table;

/// What the proxies of one workload said together.
#[derive(Debug, Default)]
struct Line {
    meshed: usize,
    read: usize,
    open: u64,
    classes: BTreeMap<Class, u64>,
    rows: Vec<Connections>,
    groups: BTreeSet<String>,
    signatures: BTreeSet<String>,
    /// When the first of its leaves ends.
    leaf: Option<Timestamp>,
    sent: u64,
    received: u64,
    /// Bytes that a quantum computer will read.
    exposed: u64,
}

pub fn of(seen: &[Seen], now: Timestamp, wide: bool) -> String {
    if seen.is_empty() {
        return "no meshed pods here; label a namespace with trellis.dev/inject=enabled and restart its pods\n"
            .to_owned();
    }
    let mut lines: BTreeMap<&Workload, Line> = BTreeMap::new();
    for one in seen {
        let line = lines.entry(&one.workload).or_default();
        line.meshed += 1;
        if let Ok(evidence) = &one.evidence {
            line.read += 1;
            line.add(evidence);
        }
    }
    let mut text = table(&lines, now, wide).to_string();
    let connections = document::connections(seen);
    text.push_str(&reasons(&connections));
    let adoption = Adoption::of(&connections);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\nadoption: {}, each connection once, without what was refused, {KUBELET_PROBE} and {OUTSIDE_MESH}",
        ratio(adoption)
    );
    text
}

impl Line {
    fn add(&mut self, evidence: &ProxyEvidence) {
        self.open += evidence.open_connections;
        for row in evidence.inbound.iter().chain(&evidence.outbound) {
            if !refused(row) {
                *self.classes.entry(row.class).or_default() += row.count;
                self.groups.extend(row.group.clone());
                self.signatures.extend(row.signatures.client.clone());
                self.signatures.extend(row.signatures.server.clone());
            }
            self.rows.push(row.clone());
        }
        let ends = evidence.leaf.as_ref().and_then(|leaf| leaf.not_after.parse().ok());
        self.leaf = self.leaf.into_iter().chain(ends).min();
        for bytes in &evidence.bytes {
            self.sent += bytes.sent;
            self.received += bytes.received;
            if !bytes.class.is_quantum_safe() {
                self.exposed += bytes.sent + bytes.received;
            }
        }
    }

    fn count(&self, class: Class) -> u64 {
        self.classes.get(&class).copied().unwrap_or_default()
    }
}

fn table(lines: &BTreeMap<&Workload, Line>, now: Timestamp, wide: bool) -> Table {
    let mut head = vec![
        "NAMESPACE",
        "WORKLOAD",
        "PODS",
        "CONNECTIONS",
        "PQ",
        "HYBRID",
        "CLASSICAL",
        "PLAINTEXT",
        "ADOPTION",
        "GROUP",
        "SIGNATURES",
        "LEAF ENDS IN",
    ];
    if wide {
        head.extend(["OPEN", "SENT", "RECEIVED", "EXPOSED"]);
    }
    let mut table = Table::new(head);
    for (workload, line) in lines {
        let mut cells = vec![
            workload.namespace.clone(),
            workload.name.clone(),
            format!("{}/{}", line.read, line.meshed),
            line.classes.values().sum::<u64>().to_string(),
        ];
        cells.extend(Class::ALL.map(|class| line.count(class).to_string()));
        cells.extend([
            ratio(Adoption::of(&line.rows)),
            listed(&line.groups),
            listed(&line.signatures),
            line.leaf.map_or_else(|| "-".to_owned(), |end| left(end, now)),
        ]);
        if wide {
            cells.push(line.open.to_string());
            cells.extend([line.sent, line.received, line.exposed].map(bytes));
        }
        table.row(cells);
    }
    table
}

/// Every kind of connection that is weaker than post-quantum or was refused, with the reason: the weakest
/// and the most frequent first, what was refused last.
fn reasons(connections: &[Connections]) -> String {
    let text = |field: &Option<String>| field.as_deref().unwrap_or("-").to_owned();
    let mut counts: BTreeMap<(bool, Reverse<Class>, [String; 4]), u64> = BTreeMap::new();
    for row in connections.iter().filter(|row| row.class != Class::Pq || row.reason.is_some()) {
        // Kinds that differ in what is not shown are one line.
        let shown = [text(&row.reason), row.source.clone(), row.destination.clone(), text(&row.group)];
        *counts.entry((refused(row), Reverse(row.class), shown)).or_default() += row.count;
    }
    if counts.is_empty() {
        return String::new();
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|((refused, class, _), count)| (*refused, *class, Reverse(*count)));
    let mut table = Table::new(["NOT POST-QUANTUM", "REASON", "FROM", "TO", "GROUP", "COUNT"]);
    for ((refused, Reverse(class), shown), count) in rows {
        let mut cells = vec![if refused { "refused" } else { class.as_str() }.to_owned()];
        cells.extend(shown);
        cells.push(count.to_string());
        table.row(cells);
    }
    format!("\n{table}")
}

/// Whether the connection never was.
fn refused(row: &Connections) -> bool {
    row.reason.as_deref().is_some_and(|reason| reason.starts_with(REFUSED))
}

fn ratio(adoption: Adoption) -> String {
    let Adoption { numerator, denominator } = adoption;
    if denominator == 0 {
        return "0/0".to_owned();
    }
    // Rounded down: 100 % is said of all, and of nothing less.
    let tenths = u128::from(numerator) * 1_000 / u128::from(denominator);
    format!("{numerator}/{denominator} ({}.{} %)", tenths / 10, tenths % 10)
}

fn listed(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "-".to_owned();
    }
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

fn left(end: Timestamp, now: Timestamp) -> String {
    if end <= now {
        return "ENDED".to_owned();
    }
    let round = SpanRound::new().largest(Unit::Hour).smallest(Unit::Minute);
    match now.until(end).and_then(|span| span.round(round)) {
        Ok(span) => format!("{}h{:02}m", span.get_hours(), span.get_minutes()),
        Err(_) => end.to_string(),
    }
}

fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1_000.0 && unit + 1 < units.len() {
        value /= 1_000.0;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or_default();
    if count < 1_000 { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::samples::{WEB, seen, shop};

    fn shown(seen: &[Seen], wide: bool) -> String {
        // Alignment is the table's own matter.
        let text = of(seen, "2026-01-01T12:00:00Z".parse().unwrap(), wide);
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
    }

    #[test]
    fn what_each_workload_negotiated_and_why_some_did_not() {
        assert_eq!(
            shown(&shop(), false),
            "NAMESPACE WORKLOAD PODS CONNECTIONS PQ HYBRID CLASSICAL PLAINTEXT ADOPTION GROUP SIGNATURES LEAF ENDS IN\n\
             shop deployment/client 1/1 9 7 0 0 2 7/9 (77.7 %) X25519MLKEM768 ML-DSA-65 19h44m\n\
             shop deployment/web 2/3 7 7 0 0 0 7/7 (100.0 %) X25519MLKEM768 ML-DSA-65 19h44m\n\
             \n\
             NOT POST-QUANTUM REASON FROM TO GROUP COUNT\n\
             plaintext not_injected spiffe://cluster.local/ns/shop/sa/client unverified:shop/default - 2\n\
             refused refused_no_certificate unverified:10.0.0.9 spiffe://cluster.local/ns/shop/sa/web - 1\n\
             \n\
             adoption: 7/9 (77.7 %), each connection once, without what was refused, kubelet_probe and outside_mesh\n"
        );
    }

    #[test]
    fn wide_adds_what_is_open_and_what_is_exposed() {
        let text = shown(&shop(), true);
        assert!(text.contains("LEAF ENDS IN OPEN SENT RECEIVED EXPOSED\n"), "{text}");
        assert!(text.contains("19h44m 2 3.1 kB 1.0 kB 84 B\n"), "{text}");
    }

    #[test]
    fn a_leaf_that_ended_is_not_a_negative_time() {
        let mut one = seen("web-0", "deployment/web", WEB, vec![], vec![]);
        if let Some(leaf) = one.evidence.as_mut().unwrap().leaf.as_mut() {
            leaf.not_after = "2026-01-01T11:59:59Z".into();
        }
        assert!(shown(&[one], false).contains("0/0 - - ENDED\n"));
    }

    #[test]
    fn nothing_to_see_says_what_to_do() {
        assert!(shown(&[], false).starts_with("no meshed pods here; label a namespace"));
    }

    #[test]
    fn all_is_said_of_all_only() {
        assert_eq!(ratio(Adoption { numerator: 99_999, denominator: 100_000 }), "99999/100000 (99.9 %)");
        assert_eq!(ratio(Adoption { numerator: 3, denominator: 3 }), "3/3 (100.0 %)");
    }
}
