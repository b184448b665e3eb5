//! The key of fingerprints of what is secret: a Secret in the control plane's namespace, made once. Of several
//! who make it at the same time one wins, and the others take what is there.

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use trellis_api::{
    crypto::{FINGERPRINT_KEY, FINGERPRINT_KEY_SECRET},
    names::{CA, MANAGED_BY, MANAGER},
};
use trellis_crypto::random;

use crate::{
    content::{Content, Outgoing},
    marks::Marks,
};

const LENGTH: usize = 32;

pub(crate) async fn marks(client: &Client, namespace: &str) -> Result<Marks, String> {
    let secrets = Api::<core::Secret>::namespaced(client.clone(), namespace);
    let hint = |error: kube::Error| {
        format!(
            "Secret {namespace}/{FINGERPRINT_KEY_SECRET}: {error}; the CA needs the verbs get and create for it"
        )
    };
    let found = secrets.get_opt(FINGERPRINT_KEY_SECRET).await.map_err(hint)?;
    let mut secret = match found {
        Some(secret) => secret,
        None => {
            let key = random::bytes(LENGTH).map_err(|error| error.to_string())?;
            let secret = core::Secret {
                metadata: ObjectMeta {
                    name: Some(FINGERPRINT_KEY_SECRET.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                immutable: Some(true),
                type_: Some("Opaque".to_owned()),
                ..core::Secret::default()
            };
            let outgoing = Outgoing::new(secret, &Content::default().with(FINGERPRINT_KEY, key));
            let params = PostParams { field_manager: Some(CA.to_owned()), ..PostParams::default() };
            match secrets.create(&params, &outgoing.0).await {
                Ok(created) => created,
                Err(kube::Error::Api(status)) if status.is_already_exists() => {
                    secrets.get(FINGERPRINT_KEY_SECRET).await.map_err(hint)?
                }
                Err(error) => return Err(hint(error)),
            }
        }
    };
    let content = Content::take(&mut secret);
    match content.secret(FINGERPRINT_KEY) {
        Some(key) if key.as_bytes().len() == LENGTH => Ok(Marks::new(key.clone())),
        _ => Err(format!(
            "Secret {namespace}/{FINGERPRINT_KEY_SECRET} is damaged: its item {FINGERPRINT_KEY} has to have \
             {LENGTH} bytes; restore it from a backup, or delete it, and fingerprints are made anew"
        )),
    }
}
