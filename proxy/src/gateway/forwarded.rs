//! What a request says about where it came from. A gateway is the first whose word counts: whatever a client
//! says itself is dropped, and what is true is put in its place.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};

use crate::http::Failure;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Others that applications believe, and that nobody but a client has set: who it is, what the mesh says of
/// it, and what the first of a chain of calls hands on to all of them.
const CLAIMS: [&str; 2] = ["x-real-ip", "baggage"];
const PREFIXES: [&str; 2] = ["x-forwarded-", "trellis-"];

/// Makes a request say where it came from.
pub fn mark(parts: &mut Parts, client: SocketAddr, tls: bool) -> Result<(), Failure> {
    if parts.headers.keys().any(|name| name.as_str().contains('_')) {
        // To applications that read headers as variables, `x_a` and `x-a` are one.
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "underscore_in_header",
            "the name of a header has an underscore, which some applications take for a hyphen",
        ));
    }
    let host = match (parts.uri.authority(), parts.headers.get(header::HOST)) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).ok(),
        (None, host) => host.cloned(),
    };
    let headers = &mut parts.headers;
    keep_own(headers);
    let claimed: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let ip = client.ip().to_canonical();
    let proto = if tls { "https" } else { "http" };
    if let Ok(value) = HeaderValue::from_str(&ip.to_string()) {
        headers.insert(FOR, value);
    }
    headers.insert(PROTO, HeaderValue::from_static(proto));
    let said = host.as_ref().and_then(|host| host.to_str().ok()).filter(|host| !host.contains(['"', '\\']));
    let said = said.map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    let whence = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    };
    if let Ok(value) = HeaderValue::from_str(&format!("for={whence}{said};proto={proto}")) {
        headers.insert(header::FORWARDED, value);
    }
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    Ok(())
}

fn is_claim(name: &HeaderName) -> bool {
    let text = name.as_str();
    name == header::FORWARDED
        || PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || CLAIMS.contains(&text)
}

/// A client may not have them dropped again as what belongs to its connection.
fn keep_own(headers: &mut HeaderMap) {
    let is_one = |word: &str| word.trim().parse::<HeaderName>().is_ok_and(|name| is_claim(&name));
    let lists = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.split(',').any(is_one));
    if !headers.get_all(header::CONNECTION).iter().any(lists) {
        return;
    }
    let kept: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter(|word| !is_one(word))
        .map(|word| word.trim().to_owned())
        .collect();
    headers.remove(header::CONNECTION);
    if let Ok(value) = HeaderValue::from_str(&kept.join(", "))
        && !value.is_empty()
    {
        headers.insert(header::CONNECTION, value);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn marked(client: &str, tls: bool, headers: &[(&str, &str)]) -> Result<Vec<String>, &'static str> {
        let mut request = Request::get("/").header("host", "shop.example:8443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        mark(&mut parts, client.parse().unwrap(), tls).map_err(|failure| failure.reason)?;
        let mut said: Vec<String> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .filter(|line| !line.starts_with("host"))
            .collect();
        said.sort();
        Ok(said)
    }

    #[test]
    fn what_a_client_says_about_itself_is_replaced() {
        let said = marked(
            "[::ffff:192.0.2.7]:4711",
            true,
            &[
                ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
                ("x-forwarded-for", "10.0.0.3"),
                ("x-forwarded-client-cert", "By=spiffe://cluster.local/ns/a/sa/admin"),
                ("x-forwarded-port", "1"),
                ("x-real-ip", "10.0.0.1"),
                ("trellis-error", "denied"),
                ("Trellis-Peer", "spiffe://cluster.local/ns/a/sa/admin"),
                ("baggage", "user=admin"),
                ("forwarded", "for=10.0.0.1"),
                ("connection", "close, X-Forwarded-For , forwarded, Baggage"),
                ("accept", "a"),
            ],
        );
        assert_eq!(
            said.unwrap(),
            [
                "accept: a",
                "connection: close",
                "forwarded: for=192.0.2.7;host=\"shop.example:8443\";proto=https",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example:8443",
                "x-forwarded-proto: https",
            ]
        );
        let said = marked("[2001:db8::7]:4711", false, &[("connection", "forwarded")]).unwrap();
        assert_eq!(said[0], "forwarded: for=\"[2001:db8::7]\";host=\"shop.example:8443\";proto=http");
        assert_eq!(said[1], "x-forwarded-for: 2001:db8::7");
    }

    #[test]
    fn a_header_that_two_could_read_differently_is_refused() {
        let refused = marked("192.0.2.7:1", true, &[("x_forwarded_for", "10.0.0.1")]);
        assert_eq!(refused.unwrap_err(), "underscore_in_header");
    }
}
