//! What is said on a port of a Service, as far as the Service tells: its `appProtocol`, else the name of
//! the port, else its number.

use trellis_api::proto::discovery::Protocol;

/// Ports of protocols in which the server speaks first, or that are no HTTP to be looked for: SMTP, POP3,
/// IMAP, SMTP submission, MySQL and its group replication, PostgreSQL, Redis, Elasticsearch's transport,
/// memcached and MongoDB.
const OPAQUE_PORTS: [u16; 14] =
    [25, 110, 143, 587, 3306, 4444, 5432, 6379, 9300, 11211, 27017, 27018, 27019, 33061];

pub fn of(app_protocol: Option<&str>, port_name: &str, number: u16) -> Protocol {
    if let Some(protocol) = app_protocol.and_then(named) {
        return protocol;
    }
    // `http` and `http-admin`; `grpc-web` is one word.
    let first = match port_name {
        name if name == "grpc-web" || name.starts_with("grpc-web-") => "grpc-web",
        name => name.split('-').next().unwrap_or_default(),
    };
    match named(first) {
        Some(protocol) => protocol,
        None if OPAQUE_PORTS.contains(&number) => Protocol::Opaque,
        None => Protocol::Detect,
    }
}

fn named(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "http" | "grpc-web" => Protocol::Http1,
        "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Protocol::Http2,
        "ws" | "kubernetes.io/ws" => Protocol::WebSocket,
        "https" | "tls" | "wss" | "kubernetes.io/wss" => Protocol::ApplicationTls,
        "tcp" | "mysql" | "mongo" | "redis" | "postgres" | "postgresql" | "smtp" | "imap" | "pop3" => {
            Protocol::Opaque
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_tells_by_its_protocol_its_name_or_its_number() {
        use Protocol::{ApplicationTls, Detect, Http1, Http2, Opaque, WebSocket};
        for (app_protocol, name, number, expected) in [
            (None, "", 80, Detect),
            (None, "web", 8080, Detect),
            (None, "http", 80, Http1),
            (None, "http-admin", 80, Http1),
            (None, "https", 443, ApplicationTls),
            (None, "httpish", 80, Detect),
            (None, "http2-web", 80, Http2),
            (None, "grpc", 7070, Http2),
            (None, "grpc-web", 80, Http1),
            (None, "tcp-stream", 80, Opaque),
            (None, "tls", 443, ApplicationTls),
            (None, "mongo", 1, Opaque),
            (None, "redis-main", 1, Opaque),
            // By number where nothing is said, and not where something is.
            (None, "db", 5432, Opaque),
            (None, "", 27017, Opaque),
            (None, "http", 3306, Http1),
            (Some("http"), "tcp", 25, Http1),
            (Some("HTTP"), "", 80, Http1),
            (Some("kubernetes.io/h2c"), "http", 80, Http2),
            (Some("kubernetes.io/ws"), "", 80, WebSocket),
            (Some("kubernetes.io/wss"), "", 443, ApplicationTls),
            (Some("https"), "", 443, ApplicationTls),
            (Some("tcp"), "http", 80, Opaque),
            // A protocol that means nothing here leaves it to what else is said.
            (Some("example.com/thing"), "", 80, Detect),
            (Some("example.com/thing"), "http", 80, Http1),
        ] {
            assert_eq!(of(app_protocol, name, number), expected, "{app_protocol:?} {name:?} {number}");
        }
    }
}
