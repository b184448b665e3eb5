//! GRPCRoutes as what they are in HTTP: a method is a path.

use trellis_api::{
    gateway::{GrpcMatch, GrpcMethodMatch, GrpcRule},
    proto::discovery::{self as proto, path_match::Kind},
};

use super::{
    filter::filters,
    http::{Wrong, backends, check, headers},
    reference::References,
};

/// What stands between two slashes of a path.
const ELEMENT: &str = "[^/]+";

pub fn rules(given: Option<&Vec<GrpcRule>>, references: &mut References) -> Vec<proto::HttpRule> {
    given.into_iter().flatten().enumerate().map(|(at, rule)| one(at, rule, references)).collect()
}

fn one(at: usize, given: &GrpcRule, references: &mut References) -> proto::HttpRule {
    let field = format!("rules[{at}]");
    let mut wrong = Wrong::default();
    let matches = given.matches.iter().flatten().enumerate();
    let matches =
        matches.map(|(at, one)| matched(one, &format!("{field}.matches[{at}]"), &mut wrong)).collect();
    let filters = wrong.or_default(filters(given.filters.as_ref(), &format!("{field}.filters"), references));
    proto::HttpRule {
        name: given.name.clone().unwrap_or_default(),
        matches,
        filters,
        backends: backends(given.backend_refs.as_ref(), &field, references),
        invalid: wrong.0,
        ..Default::default()
    }
}

fn matched(given: &GrpcMatch, field: &str, wrong: &mut Wrong) -> proto::HttpMatch {
    proto::HttpMatch {
        path: given.method.as_ref().and_then(|method| path(method, &format!("{field}.method"), wrong)),
        headers: headers(given.headers.as_ref(), field, wrong),
        ..Default::default()
    }
}

/// Nothing where every method is meant.
fn path(given: &GrpcMethodMatch, field: &str, wrong: &mut Wrong) -> Option<proto::PathMatch> {
    let service = given.service.as_deref().filter(|service| !service.is_empty());
    let method = given.method.as_deref().filter(|method| !method.is_empty());
    let (kind, value) = match (given.r#type.as_deref().unwrap_or("Exact"), service, method) {
        (_, None, None) => return None,
        ("Exact", Some(service), Some(method)) => (Kind::Exact, format!("/{service}/{method}")),
        ("Exact", Some(service), None) => (Kind::Prefix, format!("/{service}")),
        ("Exact", None, Some(method)) => (Kind::Regex, format!("^/{ELEMENT}/{}$", regex::escape(method))),
        ("RegularExpression", service, method) => {
            let part = |text: Option<&str>| text.map_or(ELEMENT.to_owned(), |text| format!("(?:{text})"));
            let value = format!("^/{}/{}$", part(service), part(method));
            check(&value, field, wrong);
            (Kind::Regex, value)
        }
        (other, ..) => {
            wrong.say(format!("{field}.type: {other} is not known; use Exact or RegularExpression"));
            (Kind::Exact, String::new())
        }
    };
    Some(proto::PathMatch { kind: kind.into(), value })
}
