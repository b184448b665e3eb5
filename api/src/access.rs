//! One request or connection, `trellis.dev/access/v1`: what a line of the access log says, and what
//! `trellis tap` shows. A field that does not apply is left out.

use serde::{Deserialize, Serialize};

use crate::evidence::{Class, Connections, Signatures};

/// The media type of a stream of entries, one a line.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// RFC 3339, in milliseconds: when it began.
    pub time: String,
    pub kind: Kind,
    pub direction: Direction,
    /// `namespace/pod` of the proxy that says so.
    pub workload: String,
    /// A proven identity, or `unverified:...` and what is known of who proved none.
    pub source: String,
    /// Where the client is, as far as this proxy sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Empty where nobody was chosen.
    pub destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `namespace/name:port` of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `namespace/name` of the route that led there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Without its query, in which secrets travel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// As the client speaks it: `HTTP/1.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What the client was told; left out where it was told nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer of an application or not all of one, why a connection was refused or broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the source to the destination.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub duration_ms: f64,
    /// Attempts beyond the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What the connection to the destination negotiated; left out where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posture: Option<Posture>,
    /// What the connection of a gateway's client negotiated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_posture: Option<Posture>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Of HTTP.
    Request,
    /// Of bytes.
    Connection,
}

/// As the proxy sees it that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// What a connection negotiated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Posture {
    pub class: Class,
    /// The version of TLS, null where there was none.
    pub tls: Option<String>,
    pub group: Option<String>,
    pub signatures: Signatures,
    /// Why the class is weaker than it could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weakness: Option<String>,
}

impl Posture {
    pub fn of(connections: &Connections) -> Self {
        Self {
            class: connections.class,
            tls: connections.tls.clone(),
            group: connections.group.clone(),
            signatures: connections.signatures.clone(),
            weakness: connections.reason.clone(),
        }
    }
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection => "connection",
        }
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Entry {
    /// Whether it failed as seen from the mesh: it has a reason, or its application says that it failed.
    pub fn failed(&self) -> bool {
        self.reason.is_some() || self.status.is_some_and(|status| status >= 500)
    }
}

/// The entry in one line of plain ASCII. What came from a peer can neither end the line nor steer a
/// terminal: control characters, and all else beyond ASCII, are escaped as JSON has it.
pub fn line(entry: &impl Serialize) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(entry)?;
    if json.bytes().all(is_plain) {
        return Ok(json);
    }
    let mut line = String::with_capacity(json.len() + 64);
    for character in json.chars() {
        match u8::try_from(character) {
            Ok(byte) if is_plain(byte) => line.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    line.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    Ok(line)
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            time: "2026-01-01T00:00:00.000Z".into(),
            kind: Kind::Request,
            direction: Direction::Outbound,
            workload: "shop/web-0".into(),
            source: "spiffe://cluster.local/ns/shop/sa/web".into(),
            client: None,
            destination: String::new(),
            address: None,
            service: None,
            route: None,
            method: None,
            authority: None,
            path: Some(path.to_owned()),
            protocol: None,
            status: Some(200),
            reason: None,
            bytes_sent: 0,
            bytes_received: 0,
            duration_ms: 0.5,
            retries: 0,
            trace: None,
            posture: None,
            client_posture: None,
        }
    }

    #[test]
    fn nothing_of_a_peer_ends_a_line_or_steers_a_terminal() {
        let hostile =
            "/\r\n{\"forged\":1}\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}\u{9b}31m\u{1f600}\u{fffd}\0\"\\\t\u{8}";
        let entry = entry(hostile);
        let line = line(&entry).unwrap();
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{line}");
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    }

    #[test]
    fn what_failed_has_a_reason_or_a_status_that_says_so() {
        let failed = |status, reason: Option<&str>| {
            Entry { status, reason: reason.map(Into::into), ..entry("/") }.failed()
        };
        assert!(!failed(Some(200), None) && !failed(Some(404), None) && !failed(None, None));
        assert!(failed(Some(503), None) && failed(Some(404), Some("no_route")));
        assert!(failed(None, Some("client_left")));
    }
}
