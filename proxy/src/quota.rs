//! What one identity may have open on this proxy: enough for any honest peer, and not so much that others
//! find no place.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

/// The most that one identity may have open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub tunnels: usize,
    pub streams: usize,
}

/// All identities that have a tunnel open. Clones are the same.
#[derive(Clone)]
pub struct Quota(Arc<Inner>);

struct Inner {
    limits: Limits,
    accounts: Mutex<HashMap<String, Account>>,
}

struct Account {
    tunnels: usize,
    streams: Arc<AtomicUsize>,
}

/// One tunnel of an identity.
pub struct Tunnel {
    quota: Quota,
    identity: String,
    streams: Arc<AtomicUsize>,
}

/// One stream of an identity.
pub struct Stream(Arc<AtomicUsize>);

impl Quota {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner { limits, accounts: Mutex::default() }))
    }

    /// A place for one more tunnel, if the identity may have it.
    pub fn tunnel(&self, identity: &str) -> Option<Tunnel> {
        let mut accounts = self.0.accounts.lock();
        let account = accounts
            .entry(identity.to_owned())
            .or_insert_with(|| Account { tunnels: 0, streams: Arc::default() });
        if account.tunnels >= self.0.limits.tunnels {
            return None;
        }
        account.tunnels += 1;
        let streams = account.streams.clone();
        Some(Tunnel { quota: self.clone(), identity: identity.to_owned(), streams })
    }
}

impl Tunnel {
    /// A place for one more stream, on whichever of its tunnels the identity opens it.
    pub fn stream(&self) -> Option<Stream> {
        // Taken before it is judged, so that two at once cannot both have the last place.
        let stream = Stream(self.streams.clone());
        let before = self.streams.fetch_add(1, Relaxed);
        (before < self.quota.0.limits.streams).then_some(stream)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut accounts = self.quota.0.accounts.lock();
        if let Some(account) = accounts.get_mut(&self.identity) {
            account.tunnels -= 1;
            if account.tunnels == 0 {
                accounts.remove(&self.identity);
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_at_its_limits_leaves_others_theirs() {
        let quota = Quota::new(Limits { tunnels: 2, streams: 3 });
        let (one, two) = (quota.tunnel("a").unwrap(), quota.tunnel("a").unwrap());
        assert!(quota.tunnel("a").is_none());
        let streams = [one.stream(), two.stream(), one.stream()];
        assert!(streams.iter().all(Option::is_some));
        assert!(two.stream().is_none(), "streams count over all tunnels");
        let other = quota.tunnel("b").unwrap();
        assert!(other.stream().is_some());
        drop(streams);
        assert!(one.stream().is_some());
        drop((one, two));
        assert_eq!(quota.0.accounts.lock().len(), 1, "who has left is forgotten");
    }
}
