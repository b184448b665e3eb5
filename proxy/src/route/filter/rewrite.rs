//! Another target for what is sent on.

use http::HeaderValue;
use trellis_api::proto::discovery as wire;

use super::{
    super::{Invalid, target::Target},
    PathChange, hostname,
};

#[derive(Clone, Debug)]
pub struct Rewrite {
    host: Option<HeaderValue>,
    path: Option<PathChange>,
}

impl Rewrite {
    pub fn read(wire: &wire::Rewrite) -> Result<Self, Invalid> {
        let host = match wire.hostname.as_str() {
            "" => None,
            name => Some(hostname(name)?),
        };
        Ok(Self { host, path: PathChange::read(wire.path.as_ref())? })
    }

    pub fn path(&self) -> Option<&PathChange> {
        self.path.as_ref()
    }

    /// The target as the backend shall see it; the query stays. `matched` is how much of the path a prefix
    /// took. `None` where the result would be longer than a target may be.
    pub fn apply(&self, target: &Target, matched: usize) -> Option<Target> {
        let mut changed = target.clone();
        if let Some(path) = &self.path
            && !target.is_server()
        {
            changed = changed.with_path(path.apply(target.path(), matched))?;
        }
        match &self.host {
            Some(host) => changed.with_host(host),
            None => Some(changed),
        }
    }
}
