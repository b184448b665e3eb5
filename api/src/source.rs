//! The one border towards the world: a stream of typed objects and their changes. The Kubernetes API
//! and a folder of the same manifests both stand behind it; no service knows which.

use std::{fmt::Debug, sync::Arc};

use futures::stream::BoxStream;
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
}
