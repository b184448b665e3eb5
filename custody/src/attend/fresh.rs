//! A look at what the API server says at this moment.

use std::sync::Arc;

use trellis_api::crypto::archive;

use super::{Attendant, Turn};
use crate::{
    id::Id,
    kept::{Facts, Holder, Kept, State},
    lifecycle::Taken,
    object::Object,
    trade::{Look, Trade, former},
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
            match self.unlabelled(&object, &name).await? {
                Unlabelled::Nothing => {}
                Unlabelled::Own(found) => kept.push(*found),
                Unlabelled::Foreign => taken = Taken::Foreign,
            }
        }
        // Under another name before anybody knew of it here: where its status says.
        if let Some(former) = former(&object).filter(|former| kept.is_empty() && *former != name)
            && let Unlabelled::Own(found) = self.unlabelled(&object, &former).await?
        {
            kept.push(*found);
        }
        // Versions that are kept for their grace, and may have lost nothing but their labels.
        for version in trade.record(&object).missing(kept.iter()) {
            if let Unlabelled::Own(found) = self.unlabelled(&object, &archive(&name, version)).await? {
                let facts = Facts { version, ..found.facts.clone() };
                kept.push(Kept { archive: true, facts, ..*found });
            }
        }
        for kept in &mut kept {
            let known = turn.unread.get(&(kept.uid.clone(), kept.resource_version.clone()));
            kept.state = known.cloned().unwrap_or_else(|| kept.state.clone());
        }
        let asks = crate::kinds::asks(&object).unwrap_or_default();
        let mut view = self.view.lock();
        for kept in &kept {
            if kept.labelled && !matches!(kept.state, State::Hopeless | State::Unfit(_)) {
                view.secret_seen(kept.clone());
            }
        }
        let (looked, dependants) = (view.resolve(id, &asks), view.made_from(id));
        let kept = kept.into_iter().map(Arc::new).collect();
        Ok(Some(Look { object, kept, taken, looked, closed: None, dependants }))
    }

    /// What another controller made, or whose labels are gone, is written anew with labels, whatever its annotations
    /// say.
    async fn unlabelled(&self, object: &Object, name: &str) -> Result<Unlabelled, Trouble> {
        let Id { kind, namespace, name: own, .. } = &object.id;
        let Some(secret) = self.vault.get(namespace, name).await? else { return Ok(Unlabelled::Nothing) };
        let own = match Holder::of(&secret.metadata) {
            Holder::Object(uid) => uid == object.uid,
            Holder::Given(to) => to == format!("{}/{own}", kind.as_str()),
            Holder::Foreign => false,
        };
        let found = Kept::of(secret, &object.uid, &self.vault.marks).filter(|_| own);
        Ok(found.map_or(Unlabelled::Foreign, |(kept, _)| {
            Unlabelled::Own(Box::new(Kept { state: State::Unread, ..kept }))
        }))
    }
}

/// A Secret that does not say by labels whose it is.
enum Unlabelled {
    Nothing,
    Own(Box<Kept>),
    Foreign,
}
