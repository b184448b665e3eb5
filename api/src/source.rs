//! The one border towards the world: a stream of typed objects and their changes. The Kubernetes API
//! and a folder of the same manifests both stand behind it; no service knows which.

use std::{fmt::Debug, sync::Arc};

use futures::stream::BoxStream;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use serde::de::DeserializeOwned;

/// A change of the set of objects of one kind.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The whole set, sorted by nothing; what is not in it is gone.
    Reset(Vec<Arc<K>>),
    /// The object is new, or differs from what was seen before.
    Applied(Arc<K>),
    /// The object is gone.
    Deleted(Arc<K>),
}

/// What is seen of a part of the world that may be closed to the one who looks.
#[derive(Clone, Debug)]
pub enum Sight<K> {
    Seen(Change<K>),
    /// It may not be looked at. Should that change, what is seen next is a [`Change::Reset`].
    Forbidden,
}

impl<K> Sight<K> {
    pub fn seen(self) -> Option<Change<K>> {
        match self {
            Self::Seen(change) => Some(change),
            Self::Forbidden => None,
        }
    }
}

/// Which objects of a kind are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub namespace: String,
    /// A field selector, where the source can spare itself what it leaves out: others may come all the same.
    pub fields: Option<&'static str>,
}

/// A kind that a source can watch: those of Kubernetes itself, and custom resources derived with kube.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Where objects come from.
pub trait Source {
    /// Watches every object of a kind. The stream begins with [`Change::Reset`] once the state is known,
    /// and never ends by itself: a source that loses its world keeps the last good state, says so in the
    /// log, and resumes with another `Reset`.
    fn watch<K: Watched>(&self) -> BoxStream<'static, Change<K>>;

    /// Watches a kind that the world may not know. As long as it does not, there is no object of it.
    fn watch_if_known<K: Watched>(&self) -> BoxStream<'static, Change<K>>;

    /// Watches the objects of one namespace, which may be closed.
    fn watch_in<K>(&self, selection: Selection) -> BoxStream<'static, Sight<K>>
    where
        K: Watched + Resource<Scope = NamespaceResourceScope>;
}
