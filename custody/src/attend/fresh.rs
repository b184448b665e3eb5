//! A look at what the API server says at this moment.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{Attendant, Turn};
use crate::{
    id::Id,
    kept::{Holder, Kept, State},
    lifecycle::Taken,
    object::Object,
    trade::{Look, Trade},
    trouble::Trouble,
};

impl Attendant {
    /// What the API server says of an object and of all that is its own. Nothing where it is gone.
    pub(super) async fn look(
        &self,
        trade: &dyn Trade,
        id: &Id,
        turn: &Turn,
    ) -> Result<Option<Look>, Trouble> {
        let found = self.objects(id).get_opt(&id.name).await.map_err(Trouble::from)?;
        let Some(object) = found.and_then(|found| Object::of(id.group, id.kind, &found)) else {
            return Ok(None);
        };
        if object.deleting {
            return Ok(None);
        }
        let own = self.vault.of(&object).await?;
        let mut kept: Vec<Kept> = own
            .into_iter()
            .filter(|secret| Holder::of(&secret.metadata) == Holder::Object(object.uid.clone()))
            .filter_map(|secret| Kept::of(secret, &object.uid, &self.vault.marks).map(|(kept, _)| kept))
            .collect();
        let mut taken = Taken::No;
        let name = trade.secret(&object).unwrap_or_default();
        if !name.is_empty() && !kept.iter().any(|kept| kept.name == name) {
            // One that another controller made, or whose labels are gone.
            let there = self.vault.get(&id.namespace, &name).await?;
            let given = format!("{}/{}", id.kind.as_str(), id.name);
            match there.as_ref().map(|secret| Holder::of(&secret.metadata)) {
                None => {}
                Some(Holder::Object(uid)) if uid == object.uid => {
                    kept.extend(there.and_then(|secret| self.unlabelled(secret, &object)));
                }
                Some(Holder::Given(to)) if to == given => {
                    kept.extend(there.and_then(|secret| self.unlabelled(secret, &object)));
                }
                Some(_) => taken = Taken::Foreign,
            }
        }
        for kept in &mut kept {
            if turn.hopeless.contains(&(kept.uid.clone(), kept.resource_version.clone())) {
                kept.state = State::Hopeless;
            }
        }
        let asks = crate::kinds::asks(&object).unwrap_or_default();
        let mut view = self.view.lock();
        for kept in &kept {
            if kept.labelled && kept.state != State::Hopeless {
                view.secret_seen(kept.clone());
            }
        }
        let (looked, dependants) = (view.resolve(id, &asks), view.made_from(id));
        let kept = kept.into_iter().map(Arc::new).collect();
        Ok(Some(Look { object, kept, taken, looked, closed: None, dependants }))
    }

    /// What is ours without saying so is written anew with labels, whatever its annotations say.
    fn unlabelled(&self, secret: core::Secret, object: &Object) -> Option<Kept> {
        let (mut kept, _) = Kept::of(secret, &object.uid, &self.vault.marks)?;
        kept.state = State::Unread;
        Some(kept)
    }
}
