//! A Kubernetes resource as far as its author wrote it, spelt in one way.

use serde_json::{Map, Number, Value};

use super::AttestationError;

/// Where a resource carries its own attestation.
pub const RESOURCE_ANNOTATION: &str = "crypto.trellis.dev/attestation";

/// What of the metadata is an author's.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];
/// Annotations that others write.
const FOREIGN: [&str; 3] = [
    RESOURCE_ANNOTATION,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
];

/// Deeper than any resource.
const MAX_DEPTH: usize = 100;

/// The resource without its status and without what the API server adds to the metadata, as canonical JSON
/// (RFC 8785).
pub fn canonical(resource: &Value) -> Result<Vec<u8>, AttestationError> {
    let problem = |text: &str| AttestationError::Resource(text.to_owned());
    let resource = resource.as_object().ok_or_else(|| problem("it is not an object"))?;
    let mut kept = Map::new();
    for (key, value) in resource.iter().filter(|(key, _)| key.as_str() != "status") {
        let value = if key == "metadata" { metadata(value)? } else { value.clone() };
        kept.insert(key.clone(), value);
    }
    let mut text = String::new();
    write(&Value::Object(kept), MAX_DEPTH, &mut text).ok_or_else(|| problem("it is nested too deeply"))?;
    Ok(text.into_bytes())
}

/// Group, version, kind, namespace and name, with slashes between.
pub(super) fn name(resource: &Value) -> Result<String, AttestationError> {
    let field = |path: &'static str| {
        let found = resource.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
        found.ok_or_else(|| {
            let path = path.trim_start_matches('/').replace('/', ".");
            AttestationError::Resource(format!(
                "{path} is missing or no text: give one resource as it is applied"
            ))
        })
    };
    let (version, kind, name) = (field("/apiVersion")?, field("/kind")?, field("/metadata/name")?);
    if (version, kind) == ("v1", "Secret") {
        let why = "a digest of a Secret would let others find out short values by trying; attest what it is made from";
        return Err(AttestationError::Resource(why.to_owned()));
    }
    Ok(match resource.pointer("/metadata/namespace").and_then(Value::as_str) {
        Some(namespace) => format!("{version}/{kind}/{namespace}/{name}"),
        None => format!("{version}/{kind}/{name}"),
    })
}

fn metadata(value: &Value) -> Result<Value, AttestationError> {
    let Some(metadata) = value.as_object() else {
        return Err(AttestationError::Resource("metadata is not an object".to_owned()));
    };
    let mut kept = Map::new();
    for key in METADATA {
        let Some(value) = metadata.get(key) else { continue };
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.retain(|name, _| key != "annotations" || !FOREIGN.contains(&name.as_str()));
            if map.is_empty() {
                continue;
            }
        }
        kept.insert(key.to_owned(), value);
    }
    Ok(Value::Object(kept))
}

/// `None` if there is more nesting than `depth`.
fn write(value: &Value, depth: usize, text: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (at, (key, value)) in entries.into_iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(value, depth, text)?;
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (at, value) in values.iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                write(value, depth, text)?;
            }
            text.push(']');
        }
        Value::Number(number) => text.push_str(&spelt(number)),
        other => text.push_str(&other.to_string()),
    }
    Some(())
}

/// A number as ECMAScript writes it.
fn spelt(number: &Number) -> String {
    let Some(value) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let shortest = format!("{value:e}");
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (count, point) = (digits.len() as i32, exponent + 1);
    let zeros = |count: i32| "0".repeat(count.unsigned_abs() as usize);
    if value == 0.0 {
        return "0".to_owned();
    }
    match point {
        1..=21 if point >= count => format!("{sign}{digits}{}", zeros(point - count)),
        1..=21 => {
            let (whole, fraction) = digits.split_at(point as usize);
            format!("{sign}{whole}.{fraction}")
        }
        -5..=0 => format!("{sign}0.{}{digits}", zeros(point)),
        _ => {
            let (first, rest) = digits.split_at(1);
            let fraction = if rest.is_empty() { String::new() } else { format!(".{rest}") };
            let plus = if exponent > 0 { "+" } else { "" };
            format!("{sign}{first}{fraction}e{plus}{exponent}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_and_keys_are_spelt_as_rfc_8785_does() {
        // Of its appendix B, and what lies at the borders.
        for (value, spelling) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (4.5, "4.5"),
            (-0.002, "-0.002"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (333333333.3333332, "333333333.3333332"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (9.999999999999997e22, "9.999999999999997e+22"),
            (295147905179352830000.0, "295147905179352830000"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(spelt(&Number::from_f64(value).unwrap()), spelling);
        }
        let mut text = String::new();
        let value = json!({"\u{20ac}": 1, "\r": "\u{1}\"\\", "\u{1f600}": [true, null], "\u{fb33}": {}, "1": 18446744073709551615u64});
        write(&value, 5, &mut text).unwrap();
        assert_eq!(
            text,
            "{\"\\r\":\"\\u0001\\\"\\\\\",\"1\":18446744073709551615,\"\u{20ac}\":1,\"\u{1f600}\":[true,null],\"\u{fb33}\":{}}"
        );
    }

    #[test]
    fn what_the_api_server_adds_does_not_count_and_what_an_author_wrote_does() {
        let mut resource = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}
        });
        let written = canonical(&resource).unwrap();
        resource["status"] = json!({"phase": "Ready"});
        resource["metadata"]["uid"] = json!("1");
        resource["metadata"]["resourceVersion"] = json!("2");
        resource["metadata"]["managedFields"] = json!([{}]);
        resource["metadata"]["annotations"] = json!({RESOURCE_ANNOTATION: "{}"});
        assert_eq!(canonical(&resource).unwrap(), written);
        for (at, value) in [
            ("/data/k", json!("w")),
            ("/metadata/labels/x", json!("z")),
            ("/metadata/annotations", json!({"a": "b"})),
            ("/metadata/name", json!("b")),
            ("/kind", json!("Other")),
        ] {
            let mut changed = resource.clone();
            *changed.pointer_mut(at).unwrap() = value;
            assert_ne!(canonical(&changed).unwrap(), written, "{at}");
        }
        let mut deep = json!(1);
        for _ in 0..120 {
            deep = json!([deep]);
        }
        assert!(canonical(&json!({"spec": deep})).is_err());
    }
}
