//! What a gateway serves, as discovery says it, and which of its listeners a host is for.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    sync::Arc,
};

use tracing::warn;
use trellis_api::{evidence::Class, proto::discovery as wire};
use trellis_pki::public::{Certificate, Clients, Front, KeyExchange, PublicError};

use super::proof::Proof;
use crate::route::{
    Routes,
    host::{self, Hosts, Wanted},
};

/// All listeners of a gateway, by port.
pub struct Serving {
    pub ports: BTreeMap<u16, Arc<Layout>>,
    pub proof: Proof,
    /// What cannot be served, in words.
    pub troubles: Vec<Trouble>,
}

/// What is wrong with a part of what a gateway is to serve. The rest goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Empty where it is the gateway's own.
    pub listener: Arc<str>,
    /// The Secret, where it is a certificate.
    pub certificate: Option<Arc<str>>,
    pub why: Arc<str>,
}

/// The listeners of one port.
pub struct Layout {
    pub family: Family,
    hosts: Hosts<Option<Arc<Listener>>>,
    all: Vec<Arc<Listener>>,
}

/// What the first bytes on a port are, which its listeners have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Http,
    Tls,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Http,
    Https,
    /// TLS ends here, and what is in it is bytes.
    Tls,
    /// TLS goes through.
    Passthrough,
    Tcp,
}

pub struct Listener {
    pub name: Arc<str>,
    pub kind: Kind,
    pub routes: Arc<Routes>,
    /// Of those in which TLS ends; why it cannot, where it cannot.
    pub front: Option<Result<Front, PublicError>>,
    terms: Terms,
    key_exchange: KeyExchange,
    plaintext_denied: bool,
}

/// On what terms connections came in: those of a listener whose terms have changed are not its own any more.
#[derive(Clone, Debug, PartialEq)]
struct Terms {
    name: Arc<str>,
    kind: Kind,
    hostname: String,
    clients: Option<wire::ClientValidation>,
}

// === impl Serving ===

impl Serving {
    /// Certificates that stay are not read again.
    pub fn read(wire: &wire::Gateway, before: Option<&Self>) -> Self {
        let known: Vec<Arc<Certificate>> = before
            .into_iter()
            .flat_map(Self::listeners)
            .filter_map(|listener| listener.front.as_ref()?.as_ref().ok())
            .flat_map(|front| front.certificates().iter().cloned())
            .collect();
        let mut serving = Self { ports: BTreeMap::new(), proof: Proof::Needless, troubles: Vec::new() };
        serving.proof =
            Proof::read(wire, before.map(|before| &before.proof)).unwrap_or_else(|(source, why)| {
                serving.trouble("", source, why);
                Proof::Missing
            });
        let mut layouts: BTreeMap<u16, Layout> = BTreeMap::new();
        for wire in &wire.listeners {
            if let Err(why) = serving.add(&mut layouts, wire, &known) {
                serving.trouble(&wire.name, None, why);
            }
        }
        serving.ports = layouts.into_iter().map(|(port, layout)| (port, Arc::new(layout))).collect();
        for Trouble { listener, certificate, why } in &serving.troubles {
            warn!(%listener, certificate = certificate.as_deref(), %why, "a part of the gateway cannot be served");
        }
        serving
    }

    fn add(
        &mut self,
        layouts: &mut BTreeMap<u16, Layout>,
        wire: &wire::Listener,
        known: &[Arc<Certificate>],
    ) -> Result<(), String> {
        let port = u16::try_from(wire.port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("port {} is not one of 1 to 65535", wire.port))?;
        let kind = Kind::read(wire.kind).ok_or_else(|| {
            format!("this proxy does not know listeners of kind {}; a newer one may", wire.kind)
        })?;
        let wanted = match kind {
            Kind::Tcp => Wanted::Any,
            _ => Wanted::read(&wire.hostname).map_err(|why| why.to_string())?,
        };
        let layout = match layouts.entry(port) {
            btree_map::Entry::Vacant(place) => place.insert(Layout::new(kind.family())),
            btree_map::Entry::Occupied(place) => place.into_mut(),
        };
        if layout.family != kind.family() {
            return Err(format!("port {port} has listeners of another protocol"));
        }
        let place = layout.hosts.entry(wanted);
        if let Some(other) = place {
            return Err(format!("listener {} has its port and hostname already", other.name));
        }
        let tls = wire.tls.clone().unwrap_or_default();
        let key_exchange = key_exchange(tls.key_exchange);
        let front = match kind {
            Kind::Https | Kind::Tls => Some(self.front(wire, kind, &tls, known)),
            Kind::Http | Kind::Passthrough | Kind::Tcp => None,
        };
        let name: Arc<str> = wire.name.as_str().into();
        let listener = Arc::new(Listener {
            name: name.clone(),
            kind,
            routes: Arc::new(Routes::compile(&wire.routes.clone().unwrap_or_default())),
            front,
            terms: Terms { name, kind, hostname: wire.hostname.clone(), clients: tls.clients },
            key_exchange,
            plaintext_denied: wire.plaintext_denied,
        });
        if !listener.routes.describe().is_valid() {
            warn!(listener = %listener.name, "parts of its routes cannot be obeyed, and fail: /routes of the admin port names them");
        }
        *place = Some(listener.clone());
        layout.all.push(listener);
        Ok(())
    }

    fn front(
        &mut self,
        listener: &wire::Listener,
        kind: Kind,
        tls: &wire::ListenerTls,
        known: &[Arc<Certificate>],
    ) -> Result<Front, PublicError> {
        let mut certificates = Vec::new();
        for wire::Certificate { source, chain_pem, key_pem } in &tls.certificates {
            let same = known.iter().find(|one| one.is_of(source, chain_pem.as_bytes(), key_pem));
            match same.map_or_else(
                || Certificate::read(source, chain_pem.as_bytes(), key_pem).map(Arc::new),
                |same| Ok(same.clone()),
            ) {
                Ok(certificate) => certificates.push(certificate),
                Err(why) => self.trouble(&listener.name, Some(source), why.to_string()),
            }
        }
        let clients = tls.clients.as_ref();
        let clients = clients.map(|clients| Clients::new(&clients.authorities, clients.optional)).transpose();
        let clients = clients.inspect_err(|why| {
            self.trouble(&listener.name, None, format!("no client can be known: {why}"));
        })?;
        let protocols: &[&[u8]] = match kind {
            Kind::Https => &[b"h2", b"http/1.1"],
            _ => &[],
        };
        Ok(Front::new(certificates, key_exchange(tls.key_exchange), clients, protocols))
    }

    fn trouble(&mut self, listener: &str, certificate: Option<&str>, why: String) {
        self.troubles.push(Trouble {
            listener: listener.into(),
            certificate: certificate.map(Into::into),
            why: why.into(),
        });
    }

    pub fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.ports.values().flat_map(|layout| &layout.all)
    }
}

/// Without what is secret in it.
impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.listeners().map(|listener| &listener.name)).finish()
    }
}

// === impl Listener ===

impl Listener {
    /// Whether a client could come to this class by what is demanded now. Of TLS that goes through nothing is
    /// known.
    pub fn admits(&self, class: Class) -> bool {
        match (self.kind, self.key_exchange) {
            (Kind::Passthrough, _) | (Kind::Https | Kind::Tls, KeyExchange::Prefer) => true,
            (Kind::Http | Kind::Tcp, _) => !self.plaintext_denied,
            (Kind::Https | Kind::Tls, KeyExchange::Require) => class != Class::Classical,
            (Kind::Https | Kind::Tls, KeyExchange::Classical) => class == Class::Classical,
        }
    }
}

fn key_exchange(wire: i32) -> KeyExchange {
    use wire::listener_tls::KeyExchange as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Prefer) => KeyExchange::Prefer,
        Ok(Wire::Classical) => KeyExchange::Classical,
        // What a later version asks for is not less.
        Ok(Wire::Require) | Err(_) => KeyExchange::Require,
    }
}

// === impl Layout ===

impl Layout {
    fn new(family: Family) -> Self {
        Self { family, hosts: Hosts::default(), all: Vec::new() }
    }

    /// The one whose hostname is the most precise for `host`, which is as [`host::split`] gives it: no other
    /// has a say, whether or not it has a route for the request.
    pub fn of(&self, host: &str) -> Option<&Arc<Listener>> {
        self.hosts.of(host).flatten().next()
    }

    /// The one for a client of TLS that asks for `name`. Who names nobody gets what is there for everybody,
    /// and who names nonsense gets nothing.
    pub fn named(&self, name: Option<&str>) -> Option<&Arc<Listener>> {
        match name {
            None => self.of(""),
            Some(name) => match host::split(name) {
                Ok((host, None)) => self.of(&host),
                _ => None,
            },
        }
    }

    /// Whether TLS ends here for anybody.
    pub fn ends_tls(&self) -> bool {
        self.all.iter().any(|one| one.kind == Kind::Https || one.kind == Kind::Tls)
    }

    /// Whether connections of this listener that came to this class may go on, and with whom: it may have
    /// other routes by now.
    pub fn still(&self, listener: &Listener, class: Class) -> Option<&Arc<Listener>> {
        self.all.iter().find(|one| one.terms == listener.terms && one.admits(class))
    }

    /// Whether nobody may come without TLS.
    pub fn denies_plaintext(&self) -> bool {
        self.all.iter().all(|one| !one.admits(Class::Plaintext))
    }
}

impl Kind {
    fn read(wire: i32) -> Option<Self> {
        use wire::listener::Kind as Wire;
        match Wire::try_from(wire).ok()? {
            Wire::Http => Some(Self::Http),
            Wire::Https => Some(Self::Https),
            Wire::Tls => Some(Self::Tls),
            Wire::Passthrough => Some(Self::Passthrough),
            Wire::Tcp => Some(Self::Tcp),
            Wire::Unspecified => None,
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Http => Family::Http,
            Self::Https | Self::Tls | Self::Passthrough => Family::Tls,
            Self::Tcp => Family::Bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str, port: u32, kind: wire::listener::Kind, hostname: &str) -> wire::Listener {
        wire::Listener {
            name: name.into(),
            port,
            kind: kind.into(),
            hostname: hostname.into(),
            ..Default::default()
        }
    }

    fn read(listeners: Vec<wire::Listener>) -> Serving {
        Serving::read(&wire::Gateway { listeners, ..Default::default() }, None)
    }

    #[test]
    fn a_host_has_one_listener_and_it_is_the_most_precise() {
        use wire::listener::Kind::Http;
        let serving = read(vec![
            listener("any", 80, Http, ""),
            listener("org", 80, Http, "*.example.org"),
            listener("deep", 80, Http, "*.a.example.org"),
            listener("exact", 80, Http, "a.example.org"),
            listener("else", 8080, Http, "b.example.org"),
        ]);
        let of = |port: u16, host: &str| serving.ports[&port].of(host).map(|one| one.name.to_string());
        for (host, expected) in [
            ("a.example.org", "exact"),
            ("b.example.org", "org"),
            ("x.a.example.org", "deep"),
            ("example.org", "any"),
            ("10.0.0.1", "any"),
        ] {
            assert_eq!(of(80, host).as_deref(), Some(expected), "{host}");
        }
        assert_eq!(of(8080, "b.example.org").as_deref(), Some("else"));
        assert_eq!(of(8080, "a.example.org"), None);
    }

    #[test]
    fn one_port_of_tls_holds_what_ends_here_and_what_goes_through() {
        use wire::listener::Kind::{Http, Https, Passthrough, Tcp, Tls};
        let serving = read(vec![
            listener("web", 443, Https, "web.example.org"),
            listener("through", 443, Passthrough, "*.example.org"),
            listener("bytes", 443, Tls, "db.example.org"),
            listener("wrong", 443, Http, ""),
            listener("twice", 443, Https, "web.example.org"),
            listener("raw", 5432, Tcp, ""),
            listener("far", 70_000, Tcp, ""),
            listener("odd", 80, Http, "a..b"),
        ]);
        let named = |name| serving.ports[&443].named(name).map(|one| (one.name.to_string(), one.kind));
        assert_eq!(named(Some("Web.Example.org")), Some(("web".into(), Kind::Https)));
        assert_eq!(named(Some("other.example.org")), Some(("through".into(), Kind::Passthrough)));
        assert_eq!(named(Some("db.example.org")), Some(("bytes".into(), Kind::Tls)));
        assert_eq!((named(None), named(Some("a b")), named(Some("a:80"))), (None, None, None));
        let troubled: Vec<&str> = serving.troubles.iter().map(|trouble| &*trouble.listener).collect();
        assert_eq!(troubled, ["wrong", "twice", "far", "odd"]);
        assert_eq!(serving.ports[&5432].family, Family::Bytes);
    }

    #[test]
    fn a_connection_outlives_new_routes_and_certificates_and_no_other_terms() {
        use wire::listener::Kind::Https;
        let before = read(vec![listener("web", 443, Https, "")]);
        let web = before.ports[&443].of("").unwrap().clone();
        let with = |change: fn(&mut wire::Listener)| {
            let mut listener = listener("web", 443, Https, "");
            change(&mut listener);
            read(vec![listener]).ports[&443].still(&web, Class::Hybrid).is_some()
        };
        assert!(with(|_| {}));
        assert!(with(
            |one| one.routes = Some(wire::Routes { http: vec![Default::default()], ..Default::default() })
        ));
        assert!(with(|one| {
            let certificates = vec![wire::Certificate { source: "a/b".into(), ..Default::default() }];
            one.tls = Some(wire::ListenerTls { certificates, ..Default::default() });
        }));
        assert!(!with(|one| one.hostname = "web.example.org".into()));
        assert!(!with(|one| {
            let clients = Some(wire::ClientValidation { authorities: vec!["x".into()], optional: false });
            one.tls = Some(wire::ListenerTls { clients, ..Default::default() });
        }));
        // What the key exchange must be is judged by what it was.
        let demands = |key_exchange, class| {
            let tls = Some(wire::ListenerTls { key_exchange, ..Default::default() });
            let listener = wire::Listener { tls, ..listener("web", 443, Https, "") };
            read(vec![listener]).ports[&443].still(&web, class).is_some()
        };
        for (key_exchange, hybrid, classical) in [(0, true, true), (1, true, false), (2, false, true)] {
            let classes = [Class::Hybrid, Class::Classical].map(|class| demands(key_exchange, class));
            assert_eq!(classes, [hybrid, classical], "{key_exchange}");
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_named_and_its_key_is_not() {
        use wire::listener::Kind::Https;
        let mut web = listener("web", 443, Https, "");
        let certificates = vec![wire::Certificate {
            source: "shop/web-tls".into(),
            chain_pem: "nonsense".into(),
            key_pem: b"very secret".to_vec(),
        }];
        web.tls = Some(wire::ListenerTls { certificates, ..Default::default() });
        let serving = read(vec![web]);
        assert_eq!(serving.troubles[0].certificate.as_deref(), Some("shop/web-tls"));
        assert!(!format!("{serving:?} {:?}", serving.troubles).contains("secret"));
    }
}
