//! Why a request would go where it would go. The same code decides as for requests; only the dice are not
//! thrown, and each side of them is shown with its share.

use std::{net::SocketAddr, str::FromStr};

use http::{HeaderName, HeaderValue, Method, Request, Uri, header, request::Parts};
use tokio::{net::lookup_host, time::Instant};
use trellis_api::{
    annotations::{Egress, Ports, Verdict},
    diag::{Backend, Endpoint, Explanation, Failure, Route},
    proto::discovery::Protocol as Said,
};
use trellis_telemetry::http::Query;

use super::{Knowledge, endpoints, round};
use crate::{
    directory::{Answer, NoAnswer, Subject},
    ledger::Direction,
    route::{Found, Matched, Routes, Slashes, Target},
};

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum Question {
    #[error("to: say which request, as to=http://shop/cart")]
    Missing,
    #[error("to={0:?} is no URL of HTTP; write one as http://shop/cart")]
    NoUrl(String),
    #[error("method={0:?} is no method of HTTP")]
    Method(String),
    #[error("header={0:?} is no header; write it as NAME:VALUE")]
    Header(String),
    #[error("`{0}` is no part of a question; there are to, method and header")]
    Unknown(String),
    #[error(
        "{host}: no address is known for it ({why}); ask for an address, or for a Service that this proxy \
         knows"
    )]
    NoAddress { host: String, why: String },
}

/// A request as it is asked about.
struct Asked {
    text: String,
    host: String,
    port: u16,
    tls: bool,
    parts: Parts,
}

impl Knowledge {
    pub async fn explain(&self, query: &Query) -> Result<Explanation, Question> {
        let asked = Asked::read(query)?;
        let mut told = Explanation {
            to: asked.text.clone(),
            method: asked.parts.method.to_string(),
            ..Explanation::default()
        };
        let gateway = self.directory.known().into_iter().find_map(|(subject, answer)| {
            let answer = answer.filter(|answer| matches!(**answer, Answer::Gateway(_)))?;
            Some((subject, answer))
        });
        match gateway {
            Some((subject, answer)) => {
                told.subject = Some(subject.to_string());
                if let Answer::Gateway(serving) = &*answer {
                    self.at_gateway(serving, &asked, &mut told).await;
                }
            }
            None => {
                let address = self.address(&asked).await?;
                told.subject = Some(address.to_string());
                self.of_application(address, &asked, &mut told).await;
            }
        }
        Ok(told)
    }

    async fn at_gateway(&self, serving: &crate::gateway::Serving, asked: &Asked, told: &mut Explanation) {
        let Some(layout) = serving.ports.get(&asked.port) else {
            let detail = format!("no listener has port {}", asked.port);
            return told.fails(None, "no_listener", detail);
        };
        let Some(target) = told.target(asked, Slashes::Separators) else { return };
        let Some(listener) = layout.of(target.host()) else {
            let detail = format!("no listener of port {} is for host {}", asked.port, target.host());
            return told.fails(Some(404), "no_listener_for_host", detail);
        };
        told.say(format!(
            "port {} and host {} lead to listener {}",
            asked.port,
            target.host(),
            listener.name
        ));
        self.routed(&listener.routes, &target, asked, told).await;
    }

    async fn of_application(&self, address: SocketAddr, asked: &Asked, told: &mut Explanation) {
        let answer = match self.directory.resolve(&address.into()).await {
            Ok(answer) => answer,
            Err(error) => {
                let reason = match error {
                    NoAnswer::Unavailable => "discovery_unavailable",
                    NoAnswer::Full => "too_many_destinations",
                };
                return told.fails(None, reason, error.to_string());
            }
        };
        match &*answer {
            Answer::Unknown => {
                told.say(format!("{address} is outside of the mesh: what goes there is carried as bytes"));
                self.outside(address, asked, told);
            }
            Answer::Gateway(_) | Answer::Policy(_) => {}
            Answer::Workload(endpoint) => {
                told.say(format!("{address} is a pod of {}, and no Service", endpoint.workload));
                told.backends.push(self.of(address.to_string(), 1.0, &answer));
            }
            Answer::Service(service) => {
                told.say(format!("{address} is Service {}", service.backend));
                if self.is_opaque(address.port(), service.protocol) {
                    told.say("what is said there is not read: it is carried as bytes, and no route for HTTP counts");
                    return told.backends.push(self.of(service.backend.to_string(), 1.0, &answer));
                }
                let Some(target) = told.target(asked, Slashes::Data) else { return };
                match service.routes.as_ref().filter(|routes| routes.has_http()) {
                    Some(routes) => self.routed(routes, &target, asked, told).await,
                    None => {
                        told.say("no route for HTTP is attached to it: its own endpoints answer");
                        told.backends.push(self.of(service.backend.to_string(), 1.0, &answer));
                    }
                }
            }
        }
    }

    /// Whether the application may go there.
    fn outside(&self, to: SocketAddr, asked: &Asked, told: &mut Explanation) {
        let egress: Egress = self.setting("egress").unwrap_or_default();
        let allowed = match egress.of_address(to.ip(), to.port()) {
            Verdict::Allowed => true,
            Verdict::Denied => false,
            // Only a client of TLS says for certain whom it wants.
            Verdict::ByName => asked.tls && egress.of_name(&asked.host, to.port()),
        };
        match allowed {
            true => told.say(format!("applications may reach it: what they may reach outside is {egress}")),
            false => {
                let detail = format!("what applications may reach outside is {egress}");
                told.fails(None, "egress_denied", detail);
            }
        }
    }

    fn is_opaque(&self, port: u16, said: Said) -> bool {
        let ports: Ports = self.setting("opaquePorts").unwrap_or_default();
        ports.contains(port) || matches!(said, Said::Opaque | Said::ApplicationTls)
    }

    /// What the operator decided, as the flag has it.
    fn setting<T: FromStr>(&self, name: &str) -> Option<T> {
        self.settings.get(name)?.parse().ok()
    }

    async fn routed(&self, routes: &Routes, target: &Target, asked: &Asked, told: &mut Explanation) {
        let Matched { rule, prefix, invalid } =
            match routes.find(target, &asked.parts.method, &asked.parts.headers) {
                Found::Rule(matched) => matched,
                Found::NoHost => {
                    let detail = format!("no route is for host {}", target.host());
                    return told.fails(Some(404), "no_route_for_host", detail);
                }
                Found::NoMatch => {
                    let detail = "no rule of any route holds for this request".to_owned();
                    return told.fails(Some(404), "no_route", detail);
                }
            };
        let (kind, name) = (rule.route.kind.to_owned(), rule.route.label.to_string());
        let which = if rule.name.is_empty() { String::new() } else { format!(", rule {}", rule.name) };
        let how = match prefix {
            0 => String::new(),
            length => format!(" by the prefix {}", target.path().get(..length).unwrap_or_default()),
        };
        told.say(format!("{kind} {name}{which} holds for it{how}"));
        told.route = Some(Route { kind, name, rule: rule.name.clone() });
        if let Some(invalid) = invalid {
            return told.fails(Some(500), "route_invalid", invalid.to_string());
        }
        if let Some(redirect) = &rule.filters.redirect {
            return told.say(format!("the rule answers by itself: a redirect with {}", redirect.status()));
        }
        let total: u64 = rule.backends.iter().map(|one| u64::from(one.weight)).sum();
        if total == 0 {
            return told.fails(Some(500), "route_invalid", "no backend of the rule has a weight".to_owned());
        }
        for weighted in rule.backends.iter().filter(|one| one.weight > 0) {
            let share = f64::from(weighted.weight) / total as f64;
            let backend = match &weighted.backend {
                Ok(backend) => backend,
                Err(why) => {
                    told.backends.push(Backend {
                        name: "none".to_owned(),
                        share: round(share),
                        endpoints: Vec::new(),
                        failure: Some(failure(Some(500), "route_invalid", why.to_string())),
                    });
                    continue;
                }
            };
            told.say(format!("{backend} gets {:.1} % of what comes this way", share * 100.0));
            let backend = match self.directory.resolve(&Subject::Backend(backend.clone())).await {
                Ok(answer) => self.of(backend.to_string(), share, &answer),
                Err(error) => Backend {
                    name: backend.to_string(),
                    share: round(share),
                    endpoints: Vec::new(),
                    failure: Some(failure(Some(503), "discovery_unavailable", error.to_string())),
                },
            };
            told.backends.push(backend);
        }
    }

    /// A backend and what is known of its endpoints.
    fn of(&self, name: String, share: f64, answer: &Answer) -> Backend {
        let endpoints = endpoints(answer, Instant::now());
        let tls = answer.tls().and_then(|tls| tls.invalid().map(|why| why.to_string()));
        let failure = match (tls, endpoints.is_empty()) {
            (Some(why), _) => Some(failure(Some(500), "backend_tls_invalid", why)),
            (None, true) => {
                Some(failure(Some(503), "no_endpoint", format!("no endpoint of {name} is ready")))
            }
            (None, false)
                if self.demands.is_strict(Direction::Outbound) && endpoints.iter().all(in_plaintext) =>
            {
                let why = format!("policy demands that nothing leaves in plaintext, and {name} has no proxy");
                Some(failure(Some(503), "plaintext_denied", why))
            }
            (None, false) => None,
        };
        Backend { name, share: round(share), endpoints, failure }
    }

    /// Where an application that asks so connects to.
    async fn address(&self, asked: &Asked) -> Result<SocketAddr, Question> {
        let Asked { host, port, .. } = asked;
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            return Ok(SocketAddr::new(ip, *port));
        }
        // A Service that the application has talked to, by any of the names that it has.
        let known = self.directory.known().into_iter().find_map(|(subject, answer)| {
            let (Subject::Address(address), Some(answer)) = (subject, answer) else { return None };
            let Answer::Service(service) = &*answer else { return None };
            let backend = &service.backend;
            let full = format!("{}.{}.svc.cluster.local", backend.name, backend.namespace);
            let rest = full.strip_prefix(host.as_str())?;
            let own = backend.namespace.as_ref() == self.own.namespace();
            let named = !host.is_empty() && (rest.is_empty() || rest.starts_with('.'));
            (named && (host.contains('.') || own) && backend.port == *port).then_some(address)
        });
        if let Some(address) = known {
            return Ok(address);
        }
        let no = |why: String| Question::NoAddress { host: host.clone(), why };
        let mut found = lookup_host((host.as_str(), *port)).await.map_err(|error| no(error.to_string()))?;
        found.next().ok_or_else(|| no("it has none".to_owned()))
    }
}

fn in_plaintext(endpoint: &Endpoint) -> bool {
    endpoint.plaintext.is_some()
}

fn failure(status: Option<u16>, reason: &str, detail: String) -> Failure {
    Failure { status, reason: reason.to_owned(), detail }
}

trait Tell {
    fn say(&mut self, step: impl Into<String>);
    fn fails(&mut self, status: Option<u16>, reason: &str, detail: String);
    /// The target in the form in which routes are chosen by it.
    fn target(&mut self, asked: &Asked, slashes: Slashes) -> Option<Target>;
}

impl Tell for Explanation {
    fn say(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn fails(&mut self, status: Option<u16>, reason: &str, detail: String) {
        self.failure = Some(failure(status, reason, detail));
    }

    fn target(&mut self, asked: &Asked, slashes: Slashes) -> Option<Target> {
        match Target::of(&asked.parts, slashes) {
            Ok(target) => Some(target),
            Err(refusal) => {
                self.fails(Some(400), refusal.as_str(), refusal.to_string());
                None
            }
        }
    }
}

impl Asked {
    fn read(query: &Query) -> Result<Self, Question> {
        let (mut text, mut method, mut headers) = (None, Method::GET, Vec::new());
        for (name, value) in query.pairs() {
            match name {
                "to" => text = Some(value),
                "method" => {
                    method = value.parse().map_err(|_| Question::Method(value.to_owned()))?;
                }
                "header" => headers.push(header(value)?),
                other => return Err(Question::Unknown(other.to_owned())),
            }
        }
        let text = text.filter(|text| !text.is_empty()).ok_or(Question::Missing)?;
        let no_url = || Question::NoUrl(text.to_owned());
        let uri: Uri = match text.contains("://") {
            true => text.parse(),
            false => format!("http://{text}").parse(),
        }
        .map_err(|_| no_url())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(no_url()),
        };
        let authority =
            uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(no_url)?;
        let (host, port) =
            (authority.host().to_owned(), authority.port_u16().unwrap_or(if tls { 443 } else { 80 }));
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::builder().method(method).uri(path).header(header::HOST, authority.as_str());
        let (mut parts, ()) = request.body(()).map_err(|_| no_url())?.into_parts();
        for (name, value) in headers {
            parts.headers.append(name, value);
        }
        Ok(Self { text: text.to_owned(), host, port, tls, parts })
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), Question> {
    let wrong = || Question::Header(text.to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse().map_err(|_| wrong())?;
    let value = value.trim().parse().map_err(|_| wrong())?;
    // Whom it is for stands in the URL.
    if name == header::HOST { Err(wrong()) } else { Ok((name, value)) }
}
