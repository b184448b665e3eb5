//! Statuses to the Kubernetes API, each over the version of the object that it was made from.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use trellis_api::{
    gateway::{
        BackendTlsPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, TcpRoute, TlsRoute,
    },
    pq_policy::PqPolicy,
};
use trellis_pki::clock::Clock;

use super::{MANAGER, each};
use crate::{
    gateway::{
        route::Kind,
        status::{Object, board::Due},
    },
    hub::Hub,
};

/// Whether all that was due could be written.
pub async fn write(client: &Client, hub: &Hub, clock: &Arc<dyn Clock>) -> bool {
    let due = hub.due_statuses(&now(clock));
    each(due, "write a status", async |due: Due| {
        let object = due.object.clone();
        let result = match one(client, due).await {
            // It has changed, or is gone: what was seen last is not what is there, and the next look shows it.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(()),
            result => result,
        };
        if result.is_err() {
            hub.put_back_status(object.clone());
        }
        (object.to_string(), result)
    })
    .await
}

/// In the words of the API.
pub fn now(clock: &Arc<dyn Clock>) -> String {
    let seconds = Timestamp::try_from(clock.now()).map(|now| now.as_second()).unwrap_or_default();
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

async fn one(client: &Client, due: Due) -> Result<(), kube::Error> {
    let resource = resource(&due.object);
    let api: Api<DynamicObject> = match due.object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let patch = json!({"metadata": {"resourceVersion": due.version}, "status": due.status});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_status(due.object.name(), &params, &Patch::Merge(patch)).await.map(|_| ())
}

fn resource(object: &Object) -> ApiResource {
    match object {
        Object::Class(_) => ApiResource::erase::<GatewayClass>(&()),
        Object::Gateway(_) => ApiResource::erase::<Gateway>(&()),
        Object::ListenerSet(_) => ApiResource::erase::<ListenerSet>(&()),
        Object::Policy(_) => ApiResource::erase::<BackendTlsPolicy>(&()),
        Object::PqPolicy(_) => ApiResource::erase::<PqPolicy>(&()),
        Object::Route(key) => match key.kind {
            Kind::Http => ApiResource::erase::<HttpRoute>(&()),
            Kind::Grpc => ApiResource::erase::<GrpcRoute>(&()),
            Kind::Tcp => ApiResource::erase::<TcpRoute>(&()),
            Kind::Tls => ApiResource::erase::<TlsRoute>(&()),
        },
    }
}
