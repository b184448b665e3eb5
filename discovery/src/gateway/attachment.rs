//! Which listeners a route is attached to, or why to none.

use super::{
    World,
    hostname::intersect,
    listener::{Judged, Owner, Problem},
    route::{Key, Parent, Route, To},
};

/// Listeners, by their place among those of the gateway, and the hostnames that a route has there.
pub type Attached = Vec<(usize, Vec<String>)>;

/// Whether the parent is a listener's owner.
pub fn is(parent: &Parent, owner: Owner<'_>) -> bool {
    match (&parent.to, owner) {
        (To::Gateway(name), Owner::Gateway(own)) | (To::ListenerSet(name), Owner::ListenerSet(own)) => {
            name == own
        }
        _ => false,
    }
}

pub fn attach(
    key: &Key,
    route: &Route,
    parent: &Parent,
    listeners: &[Judged<'_>],
    world: &World<'_>,
) -> Result<Attached, Problem> {
    let all = listeners.iter().enumerate().filter(|(_, one)| is(parent, one.entry.owner));
    let meant: Vec<_> =
        all.filter(|(_, one)| parent.means(one.entry.port(), &one.entry.listener.name)).collect();
    if meant.is_empty() {
        let given = &parent.given;
        let port = given.port.map_or_else(String::new, |port| format!(" on port {port}"));
        let section = given.section_name.as_ref().map_or_else(String::new, |name| format!(" called {name}"));
        return Err(Problem::new(
            "NoMatchingParent",
            format!("{} has no listener{section}{port}", given.name),
        ));
    }
    let allowed: Vec<_> = meant
        .into_iter()
        .filter(|(_, one)| one.kinds.contains(&key.kind) && one.entry.takes_from(&key.name.namespace, world))
        .collect();
    if allowed.is_empty() {
        return Err(Problem::new(
            "NotAllowedByListeners",
            format!("no listener takes a {} of namespace {}", key.kind.name(), key.name.namespace),
        ));
    }
    // One that is itself refused takes nobody; a route is told so as if it were not there.
    let standing: Vec<_> = allowed.into_iter().filter(|(_, one)| one.accepted.is_ok()).collect();
    if standing.is_empty() {
        return Err(Problem::new(
            "NoMatchingParent",
            "each listener that would take it was itself not accepted",
        ));
    }
    let attached: Attached = standing
        .into_iter()
        .filter_map(|(at, one)| Some((at, intersect(Some(one.entry.hostname()), &route.hostnames)?)))
        .collect();
    match attached.is_empty() {
        true => Err(Problem::new(
            "NoMatchingListenerHostname",
            format!("hostnames: no listener has any of {}", route.hostnames.join(", ")),
        )),
        false => Ok(attached),
    }
}
