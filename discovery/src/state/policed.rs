//! What of the state is PQPolicies: which pods and gateways a change of one concerns.

use std::sync::Arc;

use trellis_api::{pq_policy::PqPolicy, source::Change};

use super::{State, Touched};
use crate::{
    answer::Answer,
    change::puts,
    gateway::status::Object,
    name::Name,
    policing::{Concerned, members::Member, policy::Policy},
};

impl State {
    pub(super) fn apply_policies(&mut self, change: Change<PqPolicy>, touched: &mut Touched) {
        let object = |one: &PqPolicy| Object::PqPolicy(Name::of(&one.metadata));
        self.board.see(&change, object, |one| matches!(one, Object::PqPolicy(_)));
        let policies = puts(change, self.policing.names(), Name::of, |one| Some(Policy::of(one)));
        for (name, policy) in policies {
            let Some(Concerned { namespace, gateways }) = self.policing.put(&name, policy) else { continue };
            let pods =
                self.policing.pods().filter(|pod| namespace.as_ref().is_none_or(|one| *one == pod.namespace));
            touched.pods.extend(pods.cloned());
            self.stale.gateways.extend(gateways);
        }
    }

    pub(super) fn put_member(&mut self, name: Name, member: Option<Member>, touched: &mut Touched) {
        if self.policing.put_pod(&name, member) {
            touched.pods.insert(name);
        }
    }

    pub(super) fn policy_of(&self, pod: &Name) -> Answer {
        match self.policing.of_pod(pod) {
            Some((account, policy)) => Answer::Policy(account, Arc::new(policy)),
            None => Answer::Unknown,
        }
    }

    /// Works out what the statuses of policies shall say, where that may be something else. Only who writes
    /// or shows them needs it.
    pub(super) fn report_policies(&mut self) {
        if !self.policing.is_unreported() {
            return;
        }
        let gateways = &self.gateways;
        let reports = self.policing.report(|gateway| gateways.serving(gateway).is_some());
        for (policy, status) in reports {
            self.board.want(Object::PqPolicy(policy), Some(status));
        }
    }
}
