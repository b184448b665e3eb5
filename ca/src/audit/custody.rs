//! What happens to keys and secrets of the cryptographic resources, told by the room that keeps them.

use serde_json::json;
use trellis_custody::{Deed, Ledger, Unrecorded};

use super::{Audit, Event, Full};

pub struct Recorded(pub Audit);

impl Ledger for Recorded {
    fn room(&self) -> Result<(), Unrecorded> {
        self.0.room().map_err(unrecorded)
    }

    fn record(&self, deed: &Deed<'_>) -> Result<(), Unrecorded> {
        let fields = json!({
            "act": deed.act.as_str(),
            "group": deed.group,
            "kind": deed.kind,
            "namespace": deed.namespace,
            "object": deed.object,
            "uid": deed.uid,
            "secret": deed.secret,
            "version": deed.version,
            "algorithm": deed.algorithm,
            "fingerprint": deed.fingerprint,
        });
        self.0.record(Event::Custody, fields).map_err(unrecorded)
    }
}

fn unrecorded(full: Full) -> Unrecorded {
    Unrecorded(full.to_string())
}
