//! Who lives by the trust of this domain, and what each really holds: what the world shows to be alive,
//! beside what those that are in reach say of themselves.

use std::collections::{BTreeMap, BTreeSet};

use trellis_api::proto::ca::Holding;

/// All members, by NAMESPACE/NAME of their pods.
#[derive(Clone, Debug, Default)]
pub struct Census {
    members: BTreeMap<String, Member>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Member {
    /// The world shows a pod whose proxy, or service, works.
    alive: bool,
    /// It is in reach, and this is what it said last.
    holding: Option<(Origin, Holding)>,
}

/// The stream by which something was told: one that ended must not take with it what a newer one said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The member's own.
    Member(u64),
    /// That of another replica, which passes on what its members say.
    Replica(u64),
}

/// Why a phase cannot end yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub pod: String,
    pub why: String,
}

impl Census {
    /// The whole set of pods that are alive.
    pub fn alive(&mut self, pods: &BTreeSet<String>) {
        for (pod, member) in &mut self.members {
            member.alive = pods.contains(pod);
        }
        for pod in pods {
            self.members.entry(pod.clone()).or_default().alive = true;
        }
        self.forget();
    }

    /// Of a member's own streams the newest speaks for it: what an older one still says, and that it ends,
    /// means nothing.
    pub fn holds(&mut self, origin: Origin, holding: Holding) {
        let member = self.members.entry(holding.pod.clone()).or_default();
        if let (Origin::Member(told), Some((Origin::Member(newest), _))) = (origin, &member.holding)
            && told < *newest
        {
            return;
        }
        member.holding = Some((origin, holding));
    }

    /// Its stream has ended. What it held is not known any more.
    pub fn left(&mut self, origin: Origin, pod: &str) {
        if let Some(member) = self.members.get_mut(pod) {
            member.holding.take_if(|(told_by, _)| *told_by == origin);
        }
        self.forget();
    }

    /// Nothing that was told by this stream is known any more.
    pub fn lost(&mut self, origin: Origin) {
        for member in self.members.values_mut() {
            member.holding.take_if(|(told_by, _)| *told_by == origin);
        }
        self.forget();
    }

    pub fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.members.values().filter_map(|member| member.holding.as_ref()).map(|(_, holding)| holding)
    }

    /// What members told this replica themselves.
    pub fn own_holdings(&self) -> impl Iterator<Item = &Holding> {
        let told = self.members.values().filter_map(|member| member.holding.as_ref());
        told.filter(|(origin, _)| matches!(origin, Origin::Member(_))).map(|(_, holding)| holding)
    }

    /// Everybody who is alive or in reach.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    pub fn in_reach(&self) -> usize {
        self.holdings().count()
    }

    pub fn held_by(&self, anchor: &str) -> usize {
        self.holdings().filter(|holding| holding.anchors.iter().any(|held| held == anchor)).count()
    }

    pub fn leaves(&self, anchor: &str) -> usize {
        let chains = |holding: &&Holding| holding.leaf_anchor == anchor || holding.companion_anchor == anchor;
        self.holdings().filter(chains).count()
    }

    /// Those who do not trust `anchor` yet.
    pub fn lacking(&self, anchor: &str) -> Vec<Missing> {
        self.missing(|holding| {
            let holds = holding.anchors.iter().any(|held| held == anchor);
            (!holds)
                .then(|| format!("does not trust the new anchor yet (it has revision {})", holding.revision))
        })
    }

    /// Those of whose certificates one chains to `anchor`.
    pub fn living_by(&self, anchor: &str) -> Vec<Missing> {
        self.missing(|holding| {
            let what = match anchor {
                _ if holding.leaf_anchor == anchor => "certificate",
                _ if holding.companion_anchor == anchor => "companion certificate",
                _ => return None,
            };
            Some(format!("its {what} chains to the old anchor"))
        })
    }

    /// Those who still trust `anchor`, or have connections open that rest on it.
    pub fn clinging_to(&self, anchor: &str) -> Vec<Missing> {
        self.missing(|holding| {
            if holding.anchors.iter().any(|held| held == anchor) {
                return Some(format!("still trusts the old anchor (it has revision {})", holding.revision));
            }
            let draining = holding.draining;
            (draining > 0).then(|| format!("drains {draining} connections that rest on the old anchor"))
        })
    }

    /// Those who accept no classical signature.
    pub fn refusing_classical(&self) -> Vec<Missing> {
        self.holdings()
            .filter(|holding| holding.refuses_classical)
            .map(|holding| Missing {
                pod: holding.pod.clone(),
                why: "its policy requires post-quantum signatures".to_owned(),
            })
            .collect()
    }

    /// Who is out of reach cannot confirm anything.
    fn missing(&self, why: impl Fn(&Holding) -> Option<String>) -> Vec<Missing> {
        self.members
            .iter()
            .filter_map(|(pod, member)| {
                let why = match &member.holding {
                    Some((_, holding)) => why(holding)?,
                    None => "is alive and not in reach of the CA".to_owned(),
                };
                Some(Missing { pod: pod.clone(), why })
            })
            .collect()
    }

    fn forget(&mut self) {
        self.members.retain(|_, member| member.alive || member.holding.is_some());
    }
}
