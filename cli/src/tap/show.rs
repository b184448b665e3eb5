//! An entry in one line, for people.

use trellis_api::access::{Direction, Entry, Kind, Posture};

use crate::proxies::plain;

pub fn line(entry: &Entry) -> String {
    // Hours and so on: whoever watches knows what day it is.
    let time = entry.time.get(11..23).unwrap_or(&entry.time);
    let arrow = match entry.direction {
        Direction::Inbound => "<-",
        Direction::Outbound => "->",
    };
    let mut words = vec![time.to_owned(), entry.workload.clone(), arrow.to_owned()];
    words.push(match entry.direction {
        Direction::Outbound => party(entry.service.as_deref().unwrap_or(&entry.destination)),
        Direction::Inbound => party(&entry.source),
    });
    match entry.kind {
        Kind::Request => {
            if entry.direction == Direction::Inbound {
                words.extend(entry.client.clone());
                words.push(format!("for {}", party(entry.service.as_deref().unwrap_or(&entry.destination))));
            }
            words.extend(entry.method.clone());
            let target = [entry.authority.as_deref(), entry.path.as_deref()];
            words.push(target.into_iter().flatten().collect());
            words.push(entry.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string()));
        }
        Kind::Connection => words.push("connection".to_owned()),
    }
    words.push(format!("{} ms", entry.duration_ms));
    words.push(format!("{} B out, {} B in", entry.bytes_sent, entry.bytes_received));
    if entry.retries > 0 {
        words.push(format!("{} retries", entry.retries));
    }
    words.extend(entry.route.as_ref().map(|route| format!("route {route}")));
    words.extend(entry.posture.as_ref().map(posture));
    words.extend(entry.client_posture.as_ref().map(|client| format!("client {}", posture(client))));
    words.extend(entry.reason.as_ref().map(|reason| format!("({reason})")));
    words.iter().map(|word| plain(word)).collect::<Vec<_>>().join(" ")
}

/// Of an identity, what tells it from others of the mesh.
fn party(name: &str) -> String {
    match name.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/")) {
        Some((namespace, account)) => format!("{namespace}/{account}"),
        None if name.is_empty() => "nobody".to_owned(),
        None => name.to_owned(),
    }
}

pub fn posture(posture: &Posture) -> String {
    let signature = |one: &Option<String>| one.clone().unwrap_or_else(|| "none".to_owned());
    let mut text = format!("[{}", posture.class.as_str());
    if let Some(tls) = &posture.tls {
        text.push_str(&format!(" TLS {tls}"));
    }
    if let Some(group) = &posture.group {
        text.push_str(&format!(" {group}"));
    }
    if posture.tls.is_some() {
        let signatures = &posture.signatures;
        text.push_str(&format!(" {}/{}", signature(&signatures.client), signature(&signatures.server)));
    }
    if let Some(weakness) = &posture.weakness {
        text.push_str(&format!(", {weakness}"));
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_one_line_that_steers_nothing() {
        let entry = json!({
            "time": "2026-01-01T08:00:01.042Z", "kind": "request", "direction": "outbound",
            "workload": "shop/web-0", "source": "spiffe://cluster.local/ns/shop/sa/web",
            "destination": "spiffe://cluster.local/ns/shop/sa/cart", "service": "shop/cart:80",
            "route": "shop/cart", "method": "GET", "authority": "cart", "path": "/\u{1b}[2J", "status": 503,
            "reason": "no_endpoint", "bytesSent": 3, "bytesReceived": 5, "durationMs": 1.5, "retries": 2,
            "posture": {"class": "pq", "tls": "1.3", "group": "X25519MLKEM768",
                "signatures": {"client": "ML-DSA-65", "server": "ML-DSA-65"}},
        });
        let entry: Entry = serde_json::from_value(entry).unwrap();
        assert_eq!(
            line(&entry),
            "08:00:01.042 shop/web-0 -> shop/cart:80 GET cart/\\u{1b}[2J 503 1.5 ms 3 B out, 5 B in 2 retries \
             route shop/cart [pq TLS 1.3 X25519MLKEM768 ML-DSA-65/ML-DSA-65] (no_endpoint)"
        );
        let entry = json!({
            "time": "2026-01-01T08:00:01.042Z", "kind": "connection", "direction": "inbound",
            "workload": "shop/db-0", "source": "unverified:shop/web", "client": "10.0.0.7:4711",
            "destination": "spiffe://cluster.local/ns/shop/sa/db", "bytesSent": 3, "bytesReceived": 5,
            "durationMs": 1.5,
            "posture": {"class": "plaintext", "tls": null, "group": null,
                "signatures": {"client": null, "server": null}, "weakness": "peer_without_tls"},
        });
        let entry: Entry = serde_json::from_value(entry).unwrap();
        assert_eq!(
            line(&entry),
            "08:00:01.042 shop/db-0 <- unverified:shop/web connection 1.5 ms 3 B out, 5 B in [plaintext, peer_without_tls]"
        );
    }
}
