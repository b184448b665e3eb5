//! Another path, for rewrites and redirects.

use trellis_api::proto::discovery as wire;

use super::super::{Invalid, target};

/// Both are in the form in which requests have their paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    Full(String),
    /// What stands in place of the prefix that matched, without the slash at its end.
    Prefix(String),
}

impl PathChange {
    /// `None` where nothing is to be changed.
    pub fn read(wire: Option<&wire::PathChange>) -> Result<Option<Self>, Invalid> {
        use wire::path_change::Change;
        let Some(wire) = wire else { return Ok(None) };
        match &wire.change {
            Some(Change::Full(path)) => normal(path).map(|path| Some(Self::Full(path))),
            Some(Change::Prefix(path)) => {
                let mut path = normal(path)?;
                while path.ends_with('/') {
                    path.pop();
                }
                Ok(Some(Self::Prefix(path)))
            }
            None => Err(Invalid::new(format_args!(
                "this proxy does not know how the path is to be changed; a newer one may"
            ))),
        }
    }

    /// `matched` is how much of `path` a rule's prefix took, without the slash at its end.
    pub fn apply(&self, path: &str, matched: usize) -> String {
        match self {
            Self::Full(path) => path.clone(),
            Self::Prefix(replacement) => {
                let rest = path.get(matched..).unwrap_or_default();
                match (replacement.is_empty(), rest.is_empty()) {
                    (true, true) => "/".to_owned(),
                    _ => format!("{replacement}{rest}"),
                }
            }
        }
    }
}

/// The empty path stands for `/`.
fn normal(path: &str) -> Result<String, Invalid> {
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err(Invalid::new(format_args!("path {path:?} has a query; only the path can be changed")));
    }
    target::normal_path(path).map_err(|why| Invalid::new(format_args!("path {path:?}: {why}")))
}
