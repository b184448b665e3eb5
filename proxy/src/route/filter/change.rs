//! Headers that are set, added and removed.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};
use trellis_api::proto::discovery as wire;

use super::{super::Invalid, header_name};

/// What belongs to a connection, frames a message, or says whom it is for. The proxy writes these; whoever
/// could change them could make two requests of one.
const OURS: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// No header is in two of its lists.
#[derive(Clone, Debug, Default)]
pub struct HeaderChange {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl HeaderChange {
    pub fn read(wire: &wire::HeaderChange) -> Result<Self, Invalid> {
        let change = Self {
            set: headers(&wire.set)?,
            add: headers(&wire.add)?,
            remove: wire.remove.iter().map(|name| changeable(name)).collect::<Result<_, _>>()?,
        };
        let mut names: Vec<&HeaderName> =
            change.set.iter().chain(&change.add).map(|(name, _)| name).collect();
        for name in &change.remove {
            if names.contains(&name) {
                return Err(twice(name));
            }
        }
        while let Some(name) = names.pop() {
            if names.contains(&name) {
                return Err(twice(name));
            }
        }
        Ok(change)
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            if let Entry::Occupied(entry) = headers.entry(name) {
                entry.remove_entry_mult();
            }
        }
    }
}

/// Of several for one name in one list the first counts.
fn headers(wire: &[wire::Header]) -> Result<Vec<(HeaderName, HeaderValue)>, Invalid> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(wire.len());
    for header in wire {
        let name = changeable(&header.name)?;
        let value = HeaderValue::from_str(header.value.trim_matches([' ', '\t'])).map_err(|_| {
            Invalid::new(format_args!("the value for header {name} has characters that a header may not"))
        })?;
        if !headers.iter().any(|(one, _)| *one == name) {
            headers.push((name, value));
        }
    }
    Ok(headers)
}

fn changeable(name: &str) -> Result<HeaderName, Invalid> {
    let name = header_name(name)?;
    if name == header::HOST {
        return Err(Invalid::new(format_args!(
            "header host is not to be changed so; use a rewrite's hostname"
        )));
    }
    if OURS.contains(&name) {
        return Err(Invalid::new(format_args!("header {name} is the proxy's own to write; leave it out")));
    }
    Ok(name)
}

fn twice(name: &HeaderName) -> Invalid {
    Invalid::new(format_args!("header {name} is changed twice; do one thing to it"))
}
