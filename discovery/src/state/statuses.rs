//! Which statuses a change concerns, and what they say.

use std::{collections::BTreeSet, sync::Arc};

use super::{Stale, State};
use crate::{
    gateway::{
        route::{Key, To},
        serving::{Gateway, Serving},
        status::{
            Address, Condition, Object, Says, Status,
            board::{Board, Due},
            gateway::{self as status, Infrastructure},
            route_status,
        },
    },
    name::Name,
    slice::Standing,
};

/// Objects whose statuses may have to say something else.
#[derive(Debug, Default)]
pub(super) struct Reported {
    pub(super) gateways: BTreeSet<Name>,
    routes: BTreeSet<Key>,
    policies: BTreeSet<Name>,
}

impl State {
    /// Those that depend on how it was until now.
    pub(super) fn begin_report(&mut self, stale: &Stale) -> Reported {
        let mut reported = Reported { routes: self.routing.take_changed(), ..Reported::default() };
        for gateway in &stale.gateways {
            if let Some(serving) = self.gateways.serving(gateway).cloned() {
                self.gather(&serving, &mut reported);
            }
        }
        reported
    }

    pub(super) fn report(&mut self, stale: &Stale, mut reported: Reported) {
        for gateway in &stale.gateways {
            if let Some(serving) = self.gateways.serving(gateway).cloned() {
                self.gather(&serving, &mut reported);
            }
        }
        for service in &stale.routes {
            reported.routes.extend(self.routing.children(&To::Service(service.clone())).iter().cloned());
        }
        for service in &stale.policies {
            reported.policies.extend(self.policies.targeting(service).iter().cloned());
        }
        reported.gateways.extend(stale.gateways.iter().cloned());
        reported.gateways.extend(stale.statuses.iter().cloned());
        let mut said = Vec::new();
        for class in &stale.classes {
            let status = self.gateways.classes().get(class);
            let status = status.map(|class| status::class(class.generation, class.parameters));
            said.push((Object::Class(class.clone()), status));
        }
        for gateway in &reported.gateways {
            self.report_gateway(gateway, &mut said);
        }
        for route in reported.routes {
            let status = self.route_status(&route);
            said.push((Object::Route(route), status));
        }
        for policy in reported.policies {
            let status = self.policy_status(&policy);
            said.push((Object::Policy(policy), status));
        }
        said.into_iter().for_each(|(object, status)| self.board.want(object, status));
    }

    /// What has to be written. `now` in RFC 3339.
    pub fn due(&mut self, now: &str) -> Vec<Due> {
        self.report_policies();
        self.board.take(now)
    }

    /// What every status shall be.
    pub fn wanted_statuses(&mut self, now: &str) -> Vec<(String, serde_json::Value)> {
        self.report_policies();
        self.board.wanted(now)
    }

    /// The gateways that are ours.
    pub fn served(&self) -> Vec<(Name, Gateway, Arc<Serving>)> {
        let all = self.gateways.served();
        all.filter_map(|(name, serving)| {
            Some((name.clone(), self.gateways.get(name)?.clone(), serving.clone()))
        })
        .collect()
    }

    pub fn board(&mut self) -> &mut Board {
        &mut self.board
    }

    /// Takes in whether what belongs to a gateway could be made.
    pub fn made(&mut self, gateway: &Name, obstacle: Option<String>) {
        if self.obstacles.get(gateway) == obstacle.as_ref() {
            return;
        }
        match obstacle {
            Some(obstacle) => drop(self.obstacles.insert(gateway.clone(), obstacle)),
            None => drop(self.obstacles.remove(gateway)),
        }
        self.stale.statuses.insert(gateway.clone());
    }

    fn gather(&self, serving: &Arc<Serving>, reported: &mut Reported) {
        reported.routes.extend(serving.routes.iter().map(|verdict| verdict.key.clone()));
        for service in &serving.backends {
            reported.policies.extend(self.policies.targeting(service).iter().cloned());
        }
    }

    fn report_gateway(&self, name: &Name, said: &mut Vec<(Object, Option<Status>)>) {
        let own = self.gateways.get(name).zip(self.gateways.serving(name));
        let infrastructure = self.infrastructure(name);
        let status = own.map(|(gateway, serving)| status::gateway(gateway, serving, &infrastructure));
        said.push((Object::Gateway(name.clone()), status));
        for set in self.gateways.extensions(name) {
            let status = own.and_then(|(gateway, serving)| {
                let (_, verdict) = serving.sets.iter().find(|(known, _)| known == set)?;
                let set = self.gateways.set(set)?;
                Some(status::listener_set(set, verdict, gateway, serving, &infrastructure))
            });
            said.push((Object::ListenerSet(set.clone()), status));
        }
    }

    /// What there is of a gateway in the cluster.
    fn infrastructure(&self, gateway: &Name) -> Infrastructure {
        let workload = gateway.beside(&trellis_api::names::gateway_workload(&gateway.name));
        let ingress = self.services.get(&workload).map(|service| &service.ingress);
        let addresses = ingress.iter().flat_map(|ingress| ingress.iter()).map(|value| {
            let kind = if value.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
            Address { kind, value: value.to_string() }
        });
        let slices = self.backs.get(&workload).iter().filter_map(|slice| self.slices.get(slice));
        let ready = slices.flat_map(|slice| &slice.endpoints).any(|one| one.standing == Standing::Ready);
        let problem = self.obstacles.get(gateway).cloned();
        Infrastructure { addresses: addresses.collect(), ready, problem }
    }

    fn route_status(&self, key: &Key) -> Option<Status> {
        let route = self.routing.get(key)?;
        let parents = route.parents.iter().enumerate().filter_map(|(at, parent)| {
            let conditions = match &parent.to {
                To::Service(name) => route_status::at_service(route, parent, name, &self.services),
                to => {
                    let gateway = self.gateways.of_parent(to)?;
                    let verdict = self.gateways.serving(gateway)?.verdict(key, at)?;
                    route_status::conditions(&verdict.accepted, verdict.partial.as_ref(), &verdict.resolved)
                }
            };
            Some((parent.given.clone(), conditions))
        });
        Some(Status { generation: route.generation, says: Says::Route(parents.collect()) })
    }

    fn policy_status(&self, name: &Name) -> Option<Status> {
        let policy = self.policies.get(name)?;
        let verdict = self.policies.verdict(name, policy, &self.vault);
        let conditions = vec![
            Condition::of("Accepted", "Accepted", &verdict.accepted),
            Condition::of("ResolvedRefs", "ResolvedRefs", &verdict.resolved),
        ];
        let mut gateways: Vec<_> = self
            .gateways
            .served()
            .filter(|(_, serving)| policy.targets.iter().any(|one| serving.backends.contains(&one.service)))
            .map(|(gateway, _)| gateway)
            .collect();
        gateways.sort_unstable();
        // Whether or not a route leads there: who connects to it within the mesh obeys it.
        let services: BTreeSet<_> = policy
            .targets
            .iter()
            .map(|target| &target.service)
            .filter(|name| self.services.contains_key(*name))
            .collect();
        let gateways = gateways.into_iter().map(status::ancestor);
        let ancestors = gateways.chain(services.into_iter().map(status::mesh_ancestor));
        let ancestors = ancestors.map(|ancestor| (ancestor, conditions.clone()));
        Some(Status { generation: policy.generation, says: Says::Policy(ancestors.collect()) })
    }
}
