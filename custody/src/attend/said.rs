//! What is written into statuses, and said in Events when that changes.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use trellis_api::crypto::{Standing, VersionState, Word, condition};

use super::Attendant;
use crate::{
    herald::{Tone, about},
    kept::Kept,
    ledger,
    object::Object,
    sources::CIRCLE,
    trouble::Trouble,
};

impl Attendant {
    /// A patch over the object as it was seen, of what differs. Whoever sees it fail looks again.
    pub(super) async fn write(&self, object: &Object, status: Value) -> Result<(), Trouble> {
        let before = object.status();
        if status == before {
            return Ok(());
        }
        let mut fields = status.as_object().cloned().unwrap_or_default();
        for name in before.as_object().into_iter().flat_map(|fields| fields.keys()) {
            // What a patch does not name would stay.
            fields.entry(name.clone()).or_insert(Value::Null);
        }
        let patch = json!({ "metadata": { "resourceVersion": object.resource_version }, "status": fields });
        let objects = self.objects(&object.id);
        let patched =
            objects.patch_status(&object.id.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        if let Some(seen) = Object::of(object.id.group, object.id.kind, &patched) {
            self.view.lock().object_seen(seen);
        }
        self.tell(object, &before, &status);
        Ok(())
    }

    /// Says that an object is gone, and what goes with it.
    pub fn told_gone(&self, object: &Object, kept: &[Arc<Kept>]) {
        if let [first, ..] = kept {
            let more = kept.len() - 1;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let note = format!("Secret {}{more} goes with it", first.name);
            self.herald.say(&about(object), Tone::Normal, "Deleted", &note);
        }
        if let Err(why) = ledger::deleted(&*self.ledger, object, kept) {
            tracing::error!(object = %object.id, %why, "it is not on record that this was deleted");
        }
    }

    /// Says so where an object begins or ceases to be as wished.
    fn tell(&self, object: &Object, before: &Value, after: &Value) {
        let (before, after): (Standing, Standing) = (parsed(before), parsed(after));
        for version in &after.versions {
            let was = before.versions.iter().find(|was| was.version == version.version);
            if (was.map(|was| was.state), version.state) == (Some(VersionState::Retired), VersionState::Lost)
            {
                let note = format!("version {}, which was kept for its grace, is gone", version.version);
                self.herald.say(&about(object), Tone::Warning, condition::LOST, &note);
            }
        }
        let reason = |standing: &Standing| {
            standing.condition(condition::READY).map(|ready| ready.reason.clone()).unwrap_or_default()
        };
        if reason(&before) == reason(&after) && before.status == after.status {
            return;
        }
        let Some(ready) = after.condition(condition::READY) else { return };
        let reason = FAILURES.into_iter().find(|known| *known == ready.reason).unwrap_or("NotReady");
        if matches!(after.status, Word::Failed | Word::Invalid) {
            self.herald.say(&about(object), Tone::Warning, reason, &ready.message);
        }
    }
}

/// Reasons that Events have as well.
const FAILURES: [&str; 16] = [
    condition::LOST,
    condition::SECRET_CONFLICT,
    condition::NO_ACCESS,
    condition::REF_NOT_PERMITTED,
    condition::DENIED,
    "InvalidSpec",
    "SourceLost",
    "AmbiguousReference",
    CIRCLE,
    "AlgorithmMismatch",
    "KeyNotConfirmed",
    "UnfitSource",
    "NotAdopted",
    "Refused",
    "VersionUnavailable",
    "Invalid",
];

pub(super) fn parsed(status: &Value) -> Standing {
    serde_json::from_value(status.clone()).unwrap_or_default()
}
