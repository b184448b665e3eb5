//! How many connections one client address may have open: enough for a household behind one address, and not
//! so many that one takes the places of all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// Clones are the same.
#[derive(Clone)]
pub struct Sources {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One open connection of a source.
pub struct Held {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    pub fn new(most: usize) -> Self {
        Self { most, open: Arc::default() }
    }

    /// A place for one more connection from `ip`, if it may have it.
    pub fn enter(&self, ip: IpAddr) -> Option<Held> {
        let source = whole(ip);
        let mut open = self.open.lock();
        let count = open.entry(source).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Held { sources: self.clone(), source })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.sources.open.lock();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

/// Of IPv6, whoever has one address has the other 2^64 of its network.
fn whole(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_at_its_limit_leaves_others_theirs() {
        let sources = Sources::new(2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let held = [sources.enter(ip("192.0.2.1")), sources.enter(ip("::ffff:192.0.2.1"))];
        assert!(held.iter().all(Option::is_some) && sources.enter(ip("192.0.2.1")).is_none());
        assert!(sources.enter(ip("192.0.2.2")).is_some());
        let one_network = [sources.enter(ip("2001:db8::1")), sources.enter(ip("2001:db8::2:1"))];
        assert!(sources.enter(ip("2001:db8::ffff:0:0:3")).is_none());
        assert!(sources.enter(ip("2001:db8:0:1::1")).is_some());
        drop((held, one_network));
        assert!(sources.enter(ip("192.0.2.1")).is_some());
        assert!(sources.open.lock().is_empty(), "who has left is forgotten");
    }
}
