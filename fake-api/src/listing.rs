//! Lists, page by page.

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    FakeApi,
    answer::{Answer, reason, reply, status},
    form::Form,
    path::Path,
    selector::{Selector, parameter},
};

/// Where a list goes on: what the API server was at when it began, so that whoever watches from there misses
/// nothing that happened between two pages, and the last path of the page before.
struct Rest {
    version: u64,
    after: String,
}

impl Rest {
    fn read(token: &str) -> Option<Self> {
        let (version, after) = token.split_once(':')?;
        Some(Self { version: version.parse().ok()?, after: after.to_owned() })
    }
}

impl FakeApi {
    pub(crate) fn list(&self, collection: &Path<'_>, query: &str, form: Form) -> Answer {
        if collection.kind == ("/api/v1", "configmaps") && collection.namespace.is_none() {
            assert!(query.contains("fieldSelector=metadata.name%3Dtrellis-trust"), "{query}");
        }
        let now = *self.0.version.borrow();
        let (folder, selector) = (collection.folder(), Selector::of(query));
        let limit = parameter(query, "limit").map(|limit| limit.parse().unwrap()).filter(|limit| *limit > 0);
        let Rest { version, after } = match parameter(query, "continue").filter(|token| !token.is_empty()) {
            None => Rest { version: now, after: folder.clone() },
            Some(token) => match Rest::read(&token).filter(|rest| rest.version <= now) {
                Some(rest) => rest,
                None => return status(StatusCode::GONE, reason(StatusCode::GONE)),
            },
        };
        let mut state = self.0.state.lock();
        let selected = state.objects.selected(&folder, &after, &selector);
        let mut listed = selected.filter(|(path, _)| collection.lists(path));
        let page: Vec<(&str, &Value)> = listed.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
        let rest = listed.next().and(page.last()).map(|(last, _)| format!("{version}:{last}"));
        let items: Vec<Value> = page.iter().map(|(_, object)| form.shown(object)).collect();
        drop(listed);
        if form == Form::Whole {
            state.sent += items.len();
        }
        reply(
            StatusCode::OK,
            &json!({
                "kind": "List", "apiVersion": "v1",
                "metadata": { "resourceVersion": version.to_string(), "continue": rest.unwrap_or_default() },
                "items": items,
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta};
    use kube::{Api, api::ListParams};

    use super::*;

    fn put(api: &FakeApi, namespace: &str, name: &str, label: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "data": { "key": "AAAA" },
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": label } },
        });
        api.put(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"), object);
    }

    fn names(objects: &[DynamicObject]) -> Vec<&str> {
        objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect()
    }

    fn secrets(api: &FakeApi) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
        Api::all_with(api.client(), &kind)
    }

    #[tokio::test]
    async fn a_list_comes_in_pages_that_go_on_where_the_last_one_ended() {
        let (api, two) = (FakeApi::new(), ListParams::default().limit(2));
        for (namespace, name) in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "3"), ("c", "1")] {
            put(&api, namespace, name, "shop");
            put(&api, namespace, &format!("{name}-other"), "other");
        }
        let secrets = secrets(&api);
        let whole = secrets.list(&ListParams::default()).await.unwrap();
        assert_eq!((whole.items.len(), whole.metadata.continue_), (10, Some(String::new())));
        let two = two.labels("app=shop");
        let page = secrets.list(&two).await.unwrap();
        assert_eq!(names(&page.items), ["1", "2"]);
        let began = page.metadata.resource_version.clone();
        // What was there already is seen by who watches from where the list began.
        put(&api, "a", "0", "shop");
        put(&api, "b", "2", "shop");
        let next = two.clone().continue_token(&page.metadata.continue_.unwrap());
        let page = secrets.list(&next).await.unwrap();
        assert_eq!((names(&page.items), &page.metadata.resource_version), (vec!["1", "2"], &began));
        let next = two.clone().continue_token(&page.metadata.continue_.unwrap());
        let page = secrets.list(&next).await.unwrap();
        assert_eq!((names(&page.items), page.metadata.continue_), (vec!["3", "1"], Some(String::new())));
    }

    #[tokio::test]
    async fn a_token_that_is_none_is_gone() {
        let api = FakeApi::new();
        for token in ["nonsense", "99:/api/v1/namespaces/a/secrets/1", ":"] {
            let error = secrets(&api).list(&ListParams::default().limit(1).continue_token(token)).await;
            let kube::Error::Api(status) = error.unwrap_err() else { panic!("no answer") };
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"), "{token}");
        }
    }

    #[tokio::test]
    async fn who_wants_metadata_gets_nothing_else() {
        let api = FakeApi::new();
        put(&api, "a", "1", "shop");
        let asked = secrets(&api).list(&ListParams::default()).await.unwrap();
        assert_eq!((asked.items[0].data["data"]["key"].as_str(), api.sent()), (Some("AAAA"), 1));
        let asked = secrets(&api).list_metadata(&ListParams::default()).await.unwrap();
        let [PartialObjectMeta { metadata, .. }] = asked.items.as_slice() else { panic!("not one") };
        assert_eq!((metadata.name.as_deref(), api.sent()), (Some("1"), 1));
        let shown = Form::Metadata.shown(&api.get("/api/v1/namespaces/a/secrets/1").unwrap());
        assert!(!shown.to_string().contains("AAAA"), "{shown}");
    }
}
