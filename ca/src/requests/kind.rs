//! In which version a cluster has a kind of the group certificates.k8s.io, if it has it at all.

use kube::{Client, api::ApiResource};

const GROUP: &str = "certificates.k8s.io";
/// The newest first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The kind as the cluster serves it.
pub async fn discover(client: &Client, plural: &str) -> Result<Option<ApiResource>, kube::Error> {
    for version in VERSIONS {
        let group_version = format!("{GROUP}/{version}");
        let served = match client.list_api_group_resources(&group_version).await {
            Ok(served) => served.resources,
            Err(kube::Error::Api(status)) if status.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if let Some(found) = served.into_iter().find(|resource| resource.name == plural) {
            return Ok(Some(ApiResource {
                group: GROUP.to_owned(),
                version: version.to_owned(),
                api_version: group_version,
                kind: found.kind,
                plural: plural.to_owned(),
            }));
        }
    }
    Ok(None)
}
