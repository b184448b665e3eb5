//! What becomes of a request that a rule holds for.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use rand::{Rng, RngExt};
use trellis_api::proto::discovery as wire;

use super::{Invalid, filter::Filters};
use crate::directory::Backend;

/// The route that a rule is of.
#[derive(Debug)]
pub struct Identity {
    pub kind: &'static str,
    /// `namespace/name`, for labels of metrics.
    pub label: Arc<str>,
}

#[derive(Debug)]
pub struct Rule {
    pub route: Arc<Identity>,
    /// Empty where the route gives it none.
    pub name: String,
    pub filters: Filters,
    pub backends: Backends,
    /// From the first byte of the request to the last of the answer.
    pub request_timeout: Option<Duration>,
    /// Of each attempt.
    pub backend_timeout: Option<Duration>,
    pub retry: Option<Retry>,
    /// Why every request that it holds for is answered with 500.
    pub invalid: Option<Invalid>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    pub codes: Vec<StatusCode>,
    /// Beyond the first.
    pub attempts: u32,
    pub backoff: Duration,
}

/// Backends, each of which gets a share of requests.
#[derive(Debug, Default)]
pub struct Backends {
    all: Vec<Weighted>,
    total: u64,
}

#[derive(Debug)]
pub struct Weighted {
    /// Where its share goes, or why it fails.
    pub backend: Result<Backend, Invalid>,
    pub filters: Filters,
    pub weight: u32,
}

/// What the weights say about one request.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    Backend(&'a Backend, &'a Filters),
    /// It is answered with 500.
    Invalid(&'a Invalid),
    /// No backend has a weight: it is answered with 500.
    Nobody,
}

impl Rule {
    /// `invalid` is what is wrong with the whole route.
    pub fn read(route: Arc<Identity>, invalid: Option<&Invalid>, wire: &wire::HttpRule) -> Self {
        let mut invalid = invalid.cloned().or_else(|| Invalid::said(&wire.invalid));
        let filters = Filters::read(&wire.filters).unwrap_or_else(|why| {
            invalid.get_or_insert(why);
            Filters::default()
        });
        let backends = Backends::read(&wire.backends);
        let needs_prefix =
            filters.needs_prefix() || backends.all.iter().any(|weighted| weighted.filters.needs_prefix());
        if needs_prefix && !wire.matches.iter().all(is_prefix) {
            invalid.get_or_insert(Invalid::new(format_args!(
                "a prefix is to be replaced, and not every match of the rule is by prefix"
            )));
        }
        let retry = wire.retry.as_ref().map(Retry::read).transpose().unwrap_or_else(|why| {
            invalid.get_or_insert(why);
            None
        });
        Self {
            route,
            name: wire.name.clone(),
            filters,
            backends,
            request_timeout: limit(wire.request_timeout_ms),
            backend_timeout: limit(wire.backend_timeout_ms),
            retry,
            invalid,
        }
    }

    pub fn choose(&self, random: &mut impl Rng) -> Choice<'_> {
        self.backends.choose(random)
    }
}

fn is_prefix(wire: &wire::HttpMatch) -> bool {
    wire.path.as_ref().is_none_or(|path| path.kind == wire::path_match::Kind::Prefix as i32)
}

fn limit(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

impl Retry {
    fn read(wire: &wire::Retry) -> Result<Self, Invalid> {
        let code = |code: &u32| match u16::try_from(*code).map(StatusCode::from_u16) {
            Ok(Ok(status)) if (400..600).contains(code) => Ok(status),
            _ => Err(Invalid::new(format_args!("retry: code {code} is not one of 400 to 599"))),
        };
        Ok(Self {
            codes: wire.codes.iter().map(code).collect::<Result<_, _>>()?,
            attempts: wire.attempts,
            backoff: Duration::from_millis(wire.backoff_ms),
        })
    }
}

// === impl Backends ===

impl Backends {
    pub fn read(wire: &[wire::WeightedBackend]) -> Self {
        let all: Vec<Weighted> = wire.iter().map(Weighted::read).collect();
        let total = all.iter().map(|weighted| u64::from(weighted.weight)).sum();
        Self { all, total }
    }

    pub fn choose(&self, random: &mut impl Rng) -> Choice<'_> {
        if self.total == 0 {
            return Choice::Nobody;
        }
        // One backend, as most rules have, costs no random number.
        let mut at = if self.all.len() == 1 { 0 } else { random.random_range(0..self.total) };
        for weighted in &self.all {
            match at.checked_sub(weighted.weight.into()) {
                Some(left) => at = left,
                None => {
                    return match &weighted.backend {
                        Ok(backend) => Choice::Backend(backend, &weighted.filters),
                        Err(why) => Choice::Invalid(why),
                    };
                }
            }
        }
        Choice::Nobody
    }

    pub fn iter(&self) -> impl Iterator<Item = &Weighted> {
        self.all.iter()
    }
}

impl Weighted {
    fn read(wire: &wire::WeightedBackend) -> Self {
        let (filters, trouble) = match Filters::read(&wire.filters) {
            Ok(filters) => (filters, None),
            Err(why) => (Filters::default(), Some(why)),
        };
        let backend = match Invalid::said(&wire.invalid).or(trouble) {
            Some(why) => Err(why),
            None => backend(wire.backend.as_ref()),
        };
        Self { backend, filters, weight: wire.weight }
    }
}

/// The port of a Service that can be asked for.
pub(super) fn backend(wire: Option<&wire::Backend>) -> Result<Backend, Invalid> {
    match wire {
        Some(wire) if !wire.namespace.is_empty() && !wire.name.is_empty() => Backend::read(wire)
            .filter(|backend| backend.port > 0)
            .ok_or_else(|| Invalid::new(format_args!("port {} is not one of 1 to 65535", wire.port))),
        Some(_) | None => Err(Invalid::new(format_args!("it names no Service"))),
    }
}

impl Identity {
    pub fn new(kind: &'static str, namespace: &str, name: &str) -> Self {
        Self { kind, label: format!("{namespace}/{name}").into() }
    }
}
