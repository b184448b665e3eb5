//! TLS that an application wants to be spoken to in, whatever the mesh does beneath it.

use std::sync::{Arc, OnceLock};

use trellis_api::proto::discovery as wire;
use trellis_pki::{
    clock::Clock,
    public::{Call, Name, PublicError},
};

use crate::webroots::WebRoots;

/// How applications of one Service are spoken to, and known.
pub struct ApplicationTls {
    wire: wire::BackendTls,
    call: OnceLock<Result<Call, PublicError>>,
}

/// Whose connections are alike: those under one policy.
#[derive(Clone, Debug)]
pub struct Same(pub Arc<ApplicationTls>);

impl ApplicationTls {
    /// One that has not changed stays the same, and with it the connections that were made by it.
    pub fn read(wire: &wire::BackendTls, before: Option<&Arc<Self>>) -> Arc<Self> {
        match before.filter(|before| before.wire == *wire) {
            Some(before) => before.clone(),
            None => Arc::new(Self { wire: wire.clone(), call: OnceLock::new() }),
        }
    }

    /// Why nobody can be spoken to.
    pub fn invalid(&self) -> Option<&str> {
        Some(self.wire.invalid.as_str()).filter(|why| !why.is_empty())
    }

    /// How to call them. It is known once it was needed: where the web's authorities count, they are many.
    pub fn call(&self, roots: &WebRoots, clock: &Arc<dyn Clock>) -> Result<&Call, &PublicError> {
        use wire::subject_alt_name::Name as Wire;
        let call = self.call.get_or_init(|| {
            let wire::BackendTls { hostname, authorities, names, .. } = &self.wire;
            let names = names.iter().filter_map(|name| name.name.as_ref());
            let names: Vec<Name> = names
                .map(|name| match name {
                    Wire::Hostname(name) => Name::Host(name.clone()),
                    Wire::Uri(uri) => Name::Uri(uri.clone()),
                })
                .collect();
            if names.len() < self.wire.names.len() {
                // A kind of name that only a newer proxy knows must not leave any name to be good enough.
                return Err(PublicError::Hostname("of a kind that this proxy does not know".into()));
            }
            match authorities.is_empty() {
                true => Call::new(hostname, [roots.pem()], &names, clock.clone()),
                false => Call::new(hostname, authorities.iter().map(String::as_bytes), &names, clock.clone()),
            }
        });
        call.as_ref()
    }
}

impl std::fmt::Debug for ApplicationTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplicationTls").field("hostname", &self.wire.hostname).finish_non_exhaustive()
    }
}

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}
