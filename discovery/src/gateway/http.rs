//! HTTPRoutes as proxies read them.

use regex::Regex;
use trellis_api::{
    gateway::{BackendRef, HttpMatch, HttpRetry, HttpRule, NamedMatch},
    proto::discovery::{self as proto, path_match},
};

use super::{duration::milliseconds, filter::filters, reference::References};

/// Every rule stays, so that requests that are meant for one that cannot be obeyed fail, instead of
/// falling to another.
pub fn rules(given: Option<&Vec<HttpRule>>, references: &mut References) -> Vec<proto::HttpRule> {
    given.into_iter().flatten().enumerate().map(|(at, rule)| one(at, rule, references)).collect()
}

fn one(at: usize, given: &HttpRule, references: &mut References) -> proto::HttpRule {
    let field = format!("rules[{at}]");
    let mut wrong = Wrong::default();
    let matches = given.matches.iter().flatten().enumerate();
    let matches =
        matches.map(|(at, one)| matched(one, &format!("{field}.matches[{at}]"), &mut wrong)).collect();
    let filters = wrong.or_default(filters(given.filters.as_ref(), &format!("{field}.filters"), references));
    let backends = backends(given.backend_refs.as_ref(), &field, references);
    let mut limit = |text: Option<&String>, name: &str| match text.map(|text| (text, milliseconds(text))) {
        None => 0,
        Some((_, Some(limit))) => limit,
        Some((text, None)) => {
            wrong.say(format!(
                "{field}.timeouts.{name}: {text:?} is no duration; write it as in `1m30s` or `500ms`"
            ));
            0
        }
    };
    let timeouts = given.timeouts.as_ref();
    let request_timeout_ms = limit(timeouts.and_then(|all| all.request.as_ref()), "request");
    let backend_timeout_ms = limit(timeouts.and_then(|all| all.backend_request.as_ref()), "backendRequest");
    let retry = given.retry.as_ref().map(|given| retry(given, &field, &mut wrong));
    if given.session_persistence.is_some() {
        wrong.say(format!("{field}.sessionPersistence: Trellis does not have it; remove it"));
    }
    proto::HttpRule {
        name: given.name.clone().unwrap_or_default(),
        matches,
        filters,
        backends,
        request_timeout_ms,
        backend_timeout_ms,
        retry,
        invalid: wrong.0,
    }
}

/// What is wrong with a rule; of several things, the first.
#[derive(Debug, Default)]
pub struct Wrong(pub String);

impl Wrong {
    pub fn say(&mut self, what: String) {
        if self.0.is_empty() {
            self.0 = what;
        }
    }

    pub fn or_default<T: Default>(&mut self, result: Result<T, String>) -> T {
        result.unwrap_or_else(|what| {
            self.say(what);
            T::default()
        })
    }
}

pub fn backends(
    given: Option<&Vec<BackendRef>>,
    field: &str,
    references: &mut References,
) -> Vec<proto::WeightedBackend> {
    let given = given.into_iter().flatten().enumerate();
    given
        .map(|(at, one)| {
            let backend = references.add(
                one.group.as_deref(),
                one.kind.as_deref(),
                one.namespace.as_deref(),
                &one.name,
                one.port,
            );
            let mut wrong = Wrong::default();
            let filters =
                filters(one.filters.as_ref(), &format!("{field}.backendRefs[{at}].filters"), references);
            proto::WeightedBackend {
                backend: Some(backend),
                weight: one.weight.map_or(1, |weight| u32::try_from(weight).unwrap_or_default()),
                filters: wrong.or_default(filters),
                invalid: wrong.0,
            }
        })
        .collect()
}

fn matched(given: &HttpMatch, field: &str, wrong: &mut Wrong) -> proto::HttpMatch {
    let path = given.path.as_ref().map(|path| {
        let value = path.value.clone().unwrap_or_else(|| "/".into());
        let kind = match path.r#type.as_deref().unwrap_or("PathPrefix") {
            "PathPrefix" => path_match::Kind::Prefix,
            "Exact" => path_match::Kind::Exact,
            "RegularExpression" => {
                check(&value, &format!("{field}.path.value"), wrong);
                path_match::Kind::Regex
            }
            other => {
                wrong.say(format!(
                    "{field}.path.type: {other} is not known; use PathPrefix, Exact or RegularExpression"
                ));
                path_match::Kind::Exact
            }
        };
        proto::PathMatch { kind: kind.into(), value }
    });
    proto::HttpMatch {
        path,
        method: given.method.clone().unwrap_or_default(),
        headers: headers(given.headers.as_ref(), field, wrong),
        query: named(given.query_params.as_ref(), &format!("{field}.queryParams"), wrong, str::to_owned),
    }
}

pub fn headers(given: Option<&Vec<NamedMatch>>, field: &str, wrong: &mut Wrong) -> Vec<proto::NamedMatch> {
    named(given, &format!("{field}.headers"), wrong, str::to_ascii_lowercase)
}

/// Of several with one name, the first counts.
fn named(
    given: Option<&Vec<NamedMatch>>,
    field: &str,
    wrong: &mut Wrong,
    spelling: fn(&str) -> String,
) -> Vec<proto::NamedMatch> {
    let mut all: Vec<proto::NamedMatch> = Vec::new();
    for (at, one) in given.into_iter().flatten().enumerate() {
        let name = spelling(&one.name);
        if all.iter().any(|known| known.name == name) {
            continue;
        }
        let regex = match one.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => false,
            "RegularExpression" => {
                check(&one.value, &format!("{field}[{at}].value"), wrong);
                true
            }
            other => {
                wrong
                    .say(format!("{field}[{at}].type: {other} is not known; use Exact or RegularExpression"));
                false
            }
        };
        all.push(proto::NamedMatch { name, value: one.value.clone(), regex });
    }
    all
}

/// The proxy reads regular expressions by the same rules.
pub fn check(regex: &str, field: &str, wrong: &mut Wrong) {
    if let Err(error) = Regex::new(regex) {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default();
        wrong.say(format!("{field}: {regex:?} is no regular expression that Trellis reads: {last}"));
    }
}

fn retry(given: &HttpRetry, field: &str, wrong: &mut Wrong) -> proto::Retry {
    let backoff = given.backoff.as_ref().map(|text| {
        milliseconds(text)
            .ok_or_else(|| format!("{field}.retry.backoff: {text:?} is no duration; write it as in `100ms`"))
    });
    proto::Retry {
        codes: given.codes.iter().flatten().filter_map(|code| u32::try_from(*code).ok()).collect(),
        attempts: given.attempts.map_or(1, |attempts| u32::try_from(attempts).unwrap_or_default()),
        backoff_ms: wrong.or_default(backoff.unwrap_or(Ok(0))),
    }
}
