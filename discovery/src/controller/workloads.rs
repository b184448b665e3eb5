//! What gateways consist of, to the Kubernetes API: applied when it is something else than was applied
//! last, and every now and then in any case, so that what somebody changed does not stay.

use std::collections::HashMap;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::Value;
use trellis_api::injection::Settings;

use super::{MANAGER, each};
use crate::{
    gateway::infrastructure::{Made, made},
    hub::Hub,
    name::Name,
};

/// How gateways are made.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The proxy's image and settings.
    pub settings: Settings,
    pub replicas: u16,
}

#[derive(Default)]
pub struct Workloads {
    /// What was applied, by gateway.
    applied: HashMap<Name, Vec<Made>>,
}

impl Workloads {
    pub fn forget(&mut self) {
        self.applied.clear();
    }

    pub fn forget_if(&mut self, so: bool) {
        if so {
            self.forget();
        }
    }

    /// Makes what is not there yet, and tells whether all could be made.
    pub async fn make(&mut self, client: &Client, hub: &Hub, blueprint: &Blueprint) -> bool {
        let gateways = hub.gateways();
        self.applied.retain(|name, _| gateways.iter().any(|(known, ..)| known == name));
        let wanted = gateways.into_iter().filter_map(|(name, gateway, serving)| {
            let wanted = made(&name, &gateway, &serving, &blueprint.settings, blueprint.replicas);
            let same = self.applied.get(&name) == Some(&wanted);
            (!same && !wanted.is_empty()).then_some((name, wanted))
        });
        let applied = Mutex::new(Vec::new());
        let done = each(wanted.collect(), "make a gateway", async |(name, wanted): (Name, Vec<Made>)| {
            let result = all(client, &wanted).await;
            hub.made(&name, result.as_ref().err().map(|error| format!("its parts cannot be made: {error}")));
            let gateway = format!("Gateway {name}");
            if result.is_ok() {
                tracing::info!(gateway, "made what the gateway consists of");
                applied.lock().push((name, wanted));
            }
            (gateway, result)
        })
        .await;
        self.applied.extend(applied.into_inner());
        done
    }
}

async fn all(client: &Client, wanted: &[Made]) -> Result<(), kube::Error> {
    for one in wanted {
        apply(client, &one.resource, &one.object).await?;
    }
    Ok(())
}

async fn apply(client: &Client, resource: &ApiResource, object: &Value) -> Result<(), kube::Error> {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), field("namespace"), resource);
    // Names are ours by their suffix: what stands in the way was made by somebody else, and is taken over.
    let params = PatchParams::apply(MANAGER).force();
    api.patch(field("name"), &params, &Patch::Apply(object)).await.map(|_| ())
}
