//! From the value of an object to its type.

use std::{
    any::{Any, TypeId},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use k8s_openapi::NamespaceResourceScope;
use serde_json::{Map, Value};
use trellis_api::source::Watched;

use super::manifest::{Object, Step};

/// Where objects without a namespace live, as with the API server's clients.
const DEFAULT_NAMESPACE: &str = "default";
const MAX_NAME: usize = 253;
const MAX_NAMESPACE: usize = 63;

/// Namespace (none for kinds without) and name.
pub(super) type Key = (Option<String>, String);

/// Reads objects of one kind that somebody watches.
#[derive(Clone)]
pub(super) struct Decoder {
    pub(super) type_id: TypeId,
    pub(super) group: String,
    pub(super) api_version: String,
    pub(super) kind: String,
    namespaced: bool,
    read: fn(&Value) -> Result<Typed, At>,
}

/// An object of a kind that somebody watches.
pub(super) struct Decoded {
    pub(super) key: Key,
    pub(super) object: Arc<dyn Any + Send + Sync>,
    /// Of everything that was written, so that two readings can be compared.
    pub(super) digest: u64,
    /// Fields that the type does not have.
    pub(super) unknown: Vec<Vec<Step>>,
}

/// An error and the field it is in.
#[derive(Debug)]
pub(super) struct At {
    pub(super) path: Vec<Step>,
    pub(super) message: String,
}

struct Typed {
    object: Arc<dyn Any + Send + Sync>,
    unknown: Vec<Vec<Step>>,
}

impl Decoder {
    pub(super) fn of<K: Watched>() -> Self {
        Self {
            type_id: TypeId::of::<K>(),
            group: K::group(&()).into(),
            api_version: K::api_version(&()).into(),
            kind: K::kind(&()).into(),
            namespaced: TypeId::of::<K::Scope>() == TypeId::of::<NamespaceResourceScope>(),
            read: read::<K>,
        }
    }

    pub(super) fn decode(&self, object: &Object) -> Result<Decoded, At> {
        let mut value = object.value.clone();
        let key = self.complete(&mut value)?;
        let typed = (self.read)(&value)?;
        let mut hasher = DefaultHasher::new();
        // Maps of `serde_json::Value` are sorted: the order of fields is no change.
        value.to_string().hash(&mut hasher);
        Ok(Decoded { key, object: typed.object, digest: hasher.finish(), unknown: typed.unknown })
    }

    /// Checks the name, and gives the object the namespace that it is in.
    fn complete(&self, value: &mut Value) -> Result<Key, At> {
        let metadata = metadata(value)?;
        let name = match metadata.get("name") {
            Some(Value::String(name)) => name.clone(),
            Some(_) => return Err(in_metadata("name", "must be a string; put it in quotes".to_owned())),
            None => {
                return Err(in_metadata("name", "is missing; an object in a folder needs a name".to_owned()));
            }
        };
        if let Some(reason) = wrong_name(&name, MAX_NAME) {
            return Err(in_metadata("name", format!("{name:?} {reason}")));
        }
        if !self.namespaced {
            metadata.remove("namespace");
            return Ok((None, name));
        }
        let namespace = match metadata.get("namespace") {
            Some(Value::String(namespace)) if !namespace.is_empty() => namespace.clone(),
            None | Some(Value::Null | Value::String(_)) => DEFAULT_NAMESPACE.to_owned(),
            Some(_) => return Err(in_metadata("namespace", "must be a string; put it in quotes".to_owned())),
        };
        if let Some(reason) = wrong_name(&namespace, MAX_NAMESPACE) {
            return Err(in_metadata("namespace", format!("{namespace:?} {reason}")));
        }
        metadata.insert("namespace".to_owned(), Value::String(namespace.clone()));
        Ok((Some(namespace), name))
    }
}

/// The `apiVersion` and `kind` of an object.
pub(super) fn api_version_and_kind(value: &Value) -> Result<(&str, &str), At> {
    let Value::Object(fields) = value else {
        return Err(At {
            path: Vec::new(),
            message: "must be an object with apiVersion and kind".to_owned(),
        });
    };
    let field = |name: &str, example: &str| match fields.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        Some(_) => Err(At {
            path: vec![Step::Key(name.to_owned())],
            message: format!("must be a name, such as {example}"),
        }),
        None => Err(At {
            path: vec![Step::Key(name.to_owned())],
            message: format!("is missing; add one, such as {example}"),
        }),
    };
    Ok((field("apiVersion", "v1")?, field("kind", "Service")?))
}

fn metadata(value: &mut Value) -> Result<&mut Map<String, Value>, At> {
    let path = || vec![Step::Key("metadata".to_owned())];
    match value.get_mut("metadata") {
        Some(Value::Object(metadata)) => Ok(metadata),
        Some(_) => Err(At { path: path(), message: "must be an object with a name".to_owned() }),
        None => Err(At { path: path(), message: "is missing; add it with a name".to_owned() }),
    }
}

fn in_metadata(field: &str, message: String) -> At {
    At { path: vec![Step::Key("metadata".to_owned()), Step::Key(field.to_owned())], message }
}

/// What every kind's names have in common; the API server asks more of some.
fn wrong_name(name: &str, limit: usize) -> Option<String> {
    if name.is_empty() || name.len() > limit {
        return Some(format!("must have 1 to {limit} characters"));
    }
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let good = name.bytes().all(fits) && ends(name.bytes().next()) && ends(name.bytes().next_back());
    (!good).then(|| {
        "must be lower-case letters, digits, '-' and '.', and begin and end with a letter or digit".to_owned()
    })
}

fn read<K: Watched>(value: &Value) -> Result<Typed, At> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let read: Result<K, serde_json::Error> =
        serde_ignored::deserialize(deserializer, |path| unknown.push(ignored_steps(&path)));
    match read {
        Ok(object) => Ok(Typed { object: Arc::new(object), unknown }),
        Err(error) => Err(At { path: failed_steps(&track.path()), message: error.to_string() }),
    }
}

fn failed_steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

fn ignored_steps(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let mut steps = Vec::new();
    let mut next = Some(path);
    while let Some(path) = next {
        next = match path {
            Path::Root => None,
            Path::Seq { parent, index } => {
                steps.push(Step::Index(*index));
                Some(parent)
            }
            Path::Map { parent, key } => {
                steps.push(Step::Key(key.clone()));
                Some(parent)
            }
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                Some(parent)
            }
        };
    }
    steps.reverse();
    steps
}
