//! What of the state is Gateway API's, and what changes of it make stale.

use std::sync::Arc;

use kube::{Resource, api::ObjectMeta, core::object::HasStatus};
use serde::Serialize;
use trellis_api::source::Change;

use super::{State, Touched};
use crate::{
    change::puts,
    event::Event,
    gateway::{
        World,
        gateways::Class,
        grant::Grant,
        namespace,
        policies::Policy,
        route::{AnyRoute, Key, Kind, To},
        routing::Parents,
        serving::{Gateway, ListenerSet},
        status::Object,
    },
    name::Name,
};

impl State {
    pub(super) fn apply_gateway_api(&mut self, event: Event) {
        match event {
            Event::HttpRoutes(change) => self.routes(change, Kind::Http),
            Event::GrpcRoutes(change) => self.routes(change, Kind::Grpc),
            Event::TcpRoutes(change) => self.routes(change, Kind::Tcp),
            Event::TlsRoutes(change) => self.routes(change, Kind::Tls),
            Event::Namespaces(change) => {
                for (name, labels) in puts(change, self.namespaces.keys(), namespace::name, namespace::labels)
                {
                    if self.namespaces.get(&name) != labels.as_ref() {
                        // Any of them may select by labels.
                        self.stale.gateways.extend(self.gateways.names().cloned());
                    }
                    match labels {
                        Some(labels) => drop(self.namespaces.insert(name, labels)),
                        None => drop(self.namespaces.remove(&name)),
                    }
                }
            }
            Event::Grants(change) => {
                for (name, grant) in puts(change, self.grants.names(), Name::of, |one| Some(Grant::of(one))) {
                    if self.grants.put(&name, grant) {
                        self.stale.gateways.extend(self.gateways.names().cloned());
                    }
                }
            }
            Event::Classes(change) => {
                let object = |one: &_| Object::Class(namespace::name(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Class(_)));
                for (name, class) in puts(change, self.gateways.classes().keys(), namespace::name, Class::of)
                {
                    self.stale.classes.insert(name.clone());
                    self.gateways.put_class(name, class, &mut self.stale.gateways);
                }
            }
            Event::Gateways(change) => {
                let object = |one: &_| Object::Gateway(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Gateway(_)));
                for (name, gateway) in
                    puts(change, self.gateways.names(), Name::of, |one| Some(Gateway::of(one)))
                {
                    self.gateways.put_gateway(&name, gateway, &mut self.stale.gateways);
                }
            }
            Event::ListenerSets(change) => {
                let object = |one: &_| Object::ListenerSet(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::ListenerSet(_)));
                for (name, set) in puts(change, self.gateways.set_names(), Name::of, ListenerSet::of) {
                    self.gateways.put_set(&name, set, &mut self.stale.gateways);
                }
            }
            Event::Policies(change) => {
                let object = |one: &_| Object::Policy(Name::of(meta(one)));
                self.board.see(&change, object, |one| matches!(one, Object::Policy(_)));
                for (name, policy) in
                    puts(change, self.policies.names(), Name::of, |one| Some(Policy::of(one)))
                {
                    self.policies.put(&name, policy, &mut self.stale.policies);
                }
            }
            Event::Secrets(namespace, sight) => {
                if self.vault.see_secrets(&namespace, sight) {
                    self.stale.gateways.extend(self.gateways.names().cloned());
                }
            }
            Event::ConfigMaps(namespace, sight) => {
                if self.vault.see_config_maps(&namespace, sight) {
                    self.stale.gateways.extend(self.gateways.names().cloned());
                    self.stale.policies.extend(self.policies.targets_in(&namespace).cloned());
                }
            }
            // The others are no part of it.
            Event::Services(_)
            | Event::Slices(_)
            | Event::Pods(_)
            | Event::Nodes(_)
            | Event::PqPolicies(_) => {}
        }
    }

    /// Works out anew what the changes so far have made stale. Tells whether statuses or gateways may be
    /// others.
    pub fn settle(&mut self, touched: &mut Touched) -> bool {
        let stale = std::mem::take(&mut self.stale);
        let mut reported = self.begin_report(&stale);
        for service in &stale.routes {
            if self.routing.renew(service, &self.services) {
                self.touch(service, touched);
            }
        }
        if !stale.policies.is_empty() || !stale.gateways.is_empty() {
            let mut wanted = self.gateways.wanted();
            wanted.extend(self.policies.wanted());
            if wanted != *self.wanted {
                self.vault.want(&wanted);
                self.wanted = Arc::new(wanted);
            }
        }
        for service in &stale.policies {
            if self.policies.renew(service, &self.services, &self.vault) {
                self.touch(service, touched);
            }
        }
        for gateway in &stale.gateways {
            let world = World {
                services: &self.services,
                namespaces: &self.namespaces,
                grants: &self.grants,
                vault: &self.vault,
                policing: &self.policing,
            };
            if self.gateways.renew(gateway, &self.routing, &world) {
                touched.gateways.insert(gateway.clone());
            }
        }
        let own = touched.services.iter().filter_map(|service| self.gateways.behind(service));
        reported.gateways.extend(own.cloned());
        self.report(&stale, reported);
        if !stale.gateways.is_empty() {
            self.policing.suspect();
        }
        !stale.gateways.is_empty() || self.board.is_due() || self.policing.is_unreported()
    }

    /// Notes that the routes of these may be others.
    pub(super) fn mark(&mut self, parents: Parents) {
        for parent in parents {
            match parent {
                To::Service(service) => drop(self.stale.routes.insert(service)),
                parent => self.stale.gateways.extend(self.gateways.of_parent(&parent).cloned()),
            }
        }
    }

    fn routes<K: AnyRoute + HasStatus<Status: Serialize>>(&mut self, change: Change<K>, kind: Kind) {
        let object = |one: &K| Object::Route(Key { kind, name: Name::of(one.meta()) });
        let is: fn(&Object) -> bool = match kind {
            Kind::Http => |one| matches!(one, Object::Route(key) if key.kind == Kind::Http),
            Kind::Grpc => |one| matches!(one, Object::Route(key) if key.kind == Kind::Grpc),
            Kind::Tcp => |one| matches!(one, Object::Route(key) if key.kind == Kind::Tcp),
            Kind::Tls => |one| matches!(one, Object::Route(key) if key.kind == Kind::Tls),
        };
        self.board.see(&change, object, is);
        let parents = self.routing.apply(change);
        self.mark(parents);
    }
}

fn meta<K: Resource>(object: &K) -> &ObjectMeta {
    object.meta()
}
