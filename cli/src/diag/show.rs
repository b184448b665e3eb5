//! Documents of `trellis diag`, for people.

use std::fmt::Write;

use trellis_api::{
    access::Direction,
    diag::{Backend, Demand, Destination, Diag, Endpoint, Explanation, Failure, Kind, Tunnel},
    evidence::Leaf,
};

use crate::{proxies::plain, tap::posture};

/// A text under way: writing to one does not fail.
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: impl AsRef<str>) {
        let _ = writeln!(self.0, "{:1$}{2}", "", depth * 2, plain(line.as_ref()));
    }
}

pub fn knowledge(diag: &Diag) -> String {
    let mut text = Text(String::new());
    text.line(0, format!("{}, trellis-proxy {}", diag.workload, diag.version));
    text.line(0, "identity");
    text.line(1, &diag.identity);
    match &diag.leaf {
        Some(one) => text.line(1, leaf("certificate", one)),
        None => text.line(1, "it has no certificate"),
    }
    if let Some(one) = &diag.companion {
        text.line(1, leaf("certificate for peers without ML-DSA", one));
    }
    text.line(0, "trust");
    for anchor in &diag.trust {
        let short = anchor.fingerprint.get(..16).unwrap_or(&anchor.fingerprint);
        text.line(
            1,
            format!(
                "{}: {} ({}, {short}) until {}",
                anchor.trust_domain, anchor.subject, anchor.algorithm, anchor.not_after
            ),
        );
    }
    text.line(0, "policy");
    for Demand { direction, field, level, source } in &diag.policy {
        text.line(1, format!("{} {field}: {level}, by {source}", direction.as_str()));
    }
    text.line(0, "settings");
    for (name, value) in &diag.settings {
        text.line(1, format!("{name}: {}", if value.is_empty() { "none" } else { value }));
    }
    text.line(0, format!("tunnels ({})", diag.tunnels.len()));
    diag.tunnels.iter().for_each(|one| text.line(1, tunnel(one)));
    text.line(0, format!("destinations ({})", diag.destinations.len()));
    diag.destinations.iter().for_each(|one| destination(&mut text, one));
    text.0
}

fn leaf(what: &str, leaf: &Leaf) -> String {
    format!("{what}: {}, serial {}, until {}", leaf.algorithm, leaf.serial, leaf.not_after)
}

fn tunnel(tunnel: &Tunnel) -> String {
    let arrow = match tunnel.direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    format!(
        "{arrow} {} at {} since {}, until {} at most, {} open {}",
        tunnel.peer,
        tunnel.address,
        tunnel.since,
        tunnel.expires,
        tunnel.streams,
        posture(&tunnel.posture)
    )
}

fn destination(text: &mut Text, one: &Destination) {
    let kind = match one.kind {
        Kind::Service => "Service",
        Kind::Workload => "a pod",
        Kind::Gateway => "what this gateway serves",
        Kind::Outside => "outside of the mesh",
        Kind::Unanswered => "discovery has not answered yet",
    };
    let mut line = format!("{}: {kind}", one.subject);
    if let Some(service) = &one.service {
        let _ = write!(line, " {service}");
    }
    if let Some(protocol) = &one.protocol {
        let _ = write!(line, ", {protocol}");
    }
    text.line(1, line);
    if !one.routes.is_empty() {
        text.line(2, format!("routes: {}", one.routes.join(", ")));
    }
    one.endpoints.iter().for_each(|one| text.line(2, endpoint(one)));
    if one.endpoints.is_empty() && one.kind == Kind::Service {
        text.line(2, "no endpoint is ready");
    }
}

fn endpoint(one: &Endpoint) -> String {
    let mut line = format!("{} {}", one.address, one.peer);
    match &one.plaintext {
        Some(reason) => {
            let _ = write!(line, ", in plaintext ({reason})");
        }
        None => line.push_str(", by tunnel"),
    }
    if !one.zone.is_empty() {
        let _ = write!(line, ", zone {}", one.zone);
    }
    let latency =
        one.latency_ms.map_or_else(|| "no answer yet".to_owned(), |took| format!("{took} ms lately"));
    let _ = write!(line, ", {latency}, {} in flight", one.in_flight);
    if one.failures > 0 {
        let _ = write!(line, ", {} failures in a row", one.failures);
    }
    match one.ejected_ms {
        Some(left) => {
            let _ = write!(line, ", left alone for {left} ms more");
        }
        None => {
            let _ = write!(line, ", gets {} %", percent(one.share));
        }
    }
    line
}

pub fn explanation(told: &Explanation) -> String {
    let mut text = Text(String::new());
    text.line(0, format!("{} {}", told.method, told.to));
    for (number, step) in told.steps.iter().enumerate() {
        text.line(1, format!("{}. {step}", number + 1));
    }
    if let Some(one) = &told.failure {
        text.line(1, failure(one));
    }
    for Backend { name, share, endpoints, failure: failed } in &told.backends {
        text.line(1, format!("{name}, {} % of requests", percent(*share)));
        endpoints.iter().for_each(|one| text.line(2, endpoint(one)));
        if let Some(one) = failed {
            text.line(2, failure(one));
        }
    }
    if told.backends.iter().any(|one| one.endpoints.len() > 1) {
        text.line(1, "of two endpoints drawn at random, the one that is expected to be done sooner gets it");
    }
    text.0
}

fn failure(failure: &Failure) -> String {
    let status =
        failure.status.map_or_else(|| "refused".to_owned(), |status| format!("answered with {status}"));
    format!("fails: {status}, {}: {}", failure.reason, failure.detail)
}

fn percent(share: f64) -> f64 {
    (share * 1_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_names_every_decision_and_steers_nothing() {
        let endpoint = |address: &str, share: f64, ejected: Option<u64>| {
            json!({"address": address, "peer": "spiffe://cluster.local/ns/shop/sa/cart", "inFlight": 2,
                "latencyMs": 1.5, "failures": 0, "share": share, "ejectedMs": ejected})
        };
        let told: Explanation = serde_json::from_value(json!({
            "to": "http://cart/\u{1b}[2J", "method": "GET", "subject": "10.96.0.7:80",
            "steps": ["10.96.0.7:80 is Service shop/cart:80", "HTTPRoute shop/cart holds for it"],
            "route": {"kind": "HTTPRoute", "name": "shop/cart"},
            "backends": [
                {"name": "shop/cart-v1:80", "share": 0.9,
                 "endpoints": [endpoint("10.0.0.1:80", 1.0, None), endpoint("10.0.0.2:80", 0.0, Some(7_000))]},
                {"name": "shop/cart-v2:80", "share": 0.1, "endpoints": [],
                 "failure": {"status": 503, "reason": "no_endpoint", "detail": "none is ready"}},
            ],
        }))
        .unwrap();
        assert_eq!(
            explanation(&told),
            "GET http://cart/\\u{1b}[2J\n\
             \u{20} 1. 10.96.0.7:80 is Service shop/cart:80\n\
             \u{20} 2. HTTPRoute shop/cart holds for it\n\
             \u{20} shop/cart-v1:80, 90 % of requests\n\
             \u{20}   10.0.0.1:80 spiffe://cluster.local/ns/shop/sa/cart, by tunnel, 1.5 ms lately, 2 in flight, gets 100 %\n\
             \u{20}   10.0.0.2:80 spiffe://cluster.local/ns/shop/sa/cart, by tunnel, 1.5 ms lately, 2 in flight, left alone for 7000 ms more\n\
             \u{20} shop/cart-v2:80, 10 % of requests\n\
             \u{20}   fails: answered with 503, no_endpoint: none is ready\n\
             \u{20} of two endpoints drawn at random, the one that is expected to be done sooner gets it\n"
        );
    }
}
