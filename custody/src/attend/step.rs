//! One step, done.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use trellis_api::crypto::{MessageKind, archive};
use trellis_pki::clock::rfc3339;

use super::{Attendant, Turn};
use crate::{
    content::Content,
    craft::{ADOPTED, Failure, Input, Made, Making, Recipe},
    herald::{Tone, about},
    kept::{Facts, Kept},
    lifecycle::{Step, Why},
    object::Object,
    sources::{Item, Need, Obstacle},
    trade::{Decision, Look, Trade},
    trouble::Trouble,
};

/// Why a step was not done.
pub(super) enum Stopped {
    Trouble(Trouble),
    Obstacle(Obstacle),
    /// This name is somebody else's.
    Conflict(String),
}

impl From<Trouble> for Stopped {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<kube::Error> for Stopped {
    fn from(error: kube::Error) -> Self {
        Self::Trouble(error.into())
    }
}

impl Attendant {
    pub(super) async fn take(
        &self,
        trade: &'static dyn Trade,
        look: &mut Look,
        decision: &Decision,
        step: Step,
        turn: &mut Turn,
    ) -> Result<(), Stopped> {
        let object = look.object.clone();
        match step {
            Step::Make { version, next, over, why } => {
                let Some(recipe) = &decision.recipe else { return Ok(()) };
                let before = match &over {
                    Some(over) if over.is_sound() => Some(self.load(over).await?.1),
                    _ => None,
                };
                let made = self.make(trade, &object, recipe, before, why == Why::Asked).await?;
                let known = trade.record(&object);
                let known = known.versions.iter().find(|known| known.version == version);
                let known = known.and_then(|known| known.fingerprint.as_deref());
                let version = match (&over, why) {
                    // Of something else the same was derived.
                    (Some(over), Why::Changed) if over.facts.fingerprint == made.fingerprint => {
                        over.version()
                    }
                    (_, Why::Restored) if known.is_some_and(|known| known != made.fingerprint) => next,
                    _ => version,
                };
                let facts = Facts {
                    version,
                    fingerprint: made.fingerprint,
                    formerly: None,
                    algorithm: made.algorithm,
                    made_of: recipe.made_of.clone(),
                    form: made.form,
                    since: Some(self.now()),
                    until: trade.until(&made.content),
                    retired: None,
                    adopted: None,
                    rotated: object.rotate.clone(),
                };
                let kept = self.put(trade, &object, over.as_deref(), &facts, &made.content).await?;
                self.told_of(&object, over.as_deref(), &kept, why);
                seen(look, kept);
            }
            Step::Restore { from, over } => {
                let (_, content) = self.load(&from).await?;
                let facts = Facts { since: Some(self.now()), retired: None, ..from.facts.clone() };
                let kept = self.put(trade, &object, over.as_deref(), &facts, &content).await?;
                let note = format!("version {} is in use again, in Secret {}", kept.version(), kept.name);
                self.herald.say(&about(&object), Tone::Normal, "Restored", &note);
                seen(look, kept);
            }
            Step::Copy { from } => {
                let (_, content) = self.load(&from).await?;
                let name = trade.secret(&object).unwrap_or_default();
                let kept =
                    self.vault.create(&object, &name, &from.type_, &from.facts, &content, false).await?;
                let note = format!("version {} moves from Secret {} to {name}", from.version(), from.name);
                self.herald.say(&about(&object), Tone::Normal, "Moved", &note);
                seen(look, kept);
            }
            Step::Archive { of } => {
                let (_, content) = self.load(&of).await?;
                let wished = trade.secret(&object).unwrap_or_default();
                let name = archive(&wished, of.version());
                let facts = Facts { retired: None, ..of.facts.clone() };
                match self.vault.create(&object, &name, &of.type_, &facts, &content, true).await {
                    Ok(kept) => seen(look, kept),
                    // Either it is ours, of a turn before, which a fresh look shows, or somebody else's.
                    Err(kube::Error::Api(status))
                        if status.is_already_exists() && !turn.taken.insert(name.clone()) =>
                    {
                        return Err(Stopped::Conflict(name));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Step::Retire { archive } => {
                let kept = self.vault.retire(&object, &archive, Some(rfc3339(self.now()))).await?;
                seen(look, kept);
            }
            Step::Unretire { archive } => {
                let kept = self.vault.retire(&object, &archive, None).await?;
                seen(look, kept);
            }
            Step::Destroy { archive } => {
                self.vault.delete(&archive).await?;
                let note = format!("version {} is destroyed: its grace is over", archive.version());
                self.herald.say(&about(&object), Tone::Normal, "Destroyed", &note);
                gone(look, &archive);
            }
            Step::Remove { old } => {
                self.vault.delete(&old).await?;
                gone(look, &old);
            }
            Step::Read { kept } => self.read(trade, look, decision, kept, turn).await?,
            Step::Rewrite { kept } => {
                let (before, content) = self.load(&kept).await?;
                let wished = trade.salvage(&object, &kept, &content, &self.vault.marks);
                let same = wished.into_iter().find(|made| made.fingerprint == kept.facts.fingerprint);
                let mut facts = kept.facts.clone();
                if let (ADOPTED, Some(recipe)) = (facts.made_of.as_str(), &decision.recipe) {
                    let found = self.found(trade, &object, &content, Some(recipe)).await?;
                    let name = kept.name.clone();
                    let found = found
                        .map_err(|why| Stopped::Obstacle(Obstacle::NotAdopted { name, why: why.into() }))?;
                    facts.made_of = recipe.made_of.clone();
                    facts.algorithm = found.algorithm;
                }
                let written = match same {
                    Some(made) if made.form != facts.form => {
                        facts.form = made.form;
                        self.vault.replace(&object, &kept, before, &facts, &made.content).await?
                    }
                    _ => self.vault.replace(&object, &kept, before, &facts, &content).await?,
                };
                seen(look, written);
            }
        }
        Ok(())
    }

    /// Makes a content, of what it is made of at this moment.
    async fn make(
        &self,
        trade: &'static dyn Trade,
        object: &Object,
        recipe: &Recipe,
        before: Option<Content>,
        asked: bool,
    ) -> Result<Made, Stopped> {
        let inputs = self.inputs(recipe).await?;
        let (object, recipe, marks) = (object.clone(), recipe.clone(), self.vault.marks.clone());
        let (now, mesh) = (self.now(), self.mesh.clone());
        let made = self
            .calculate(move || {
                let (object, recipe, marks) = (&object, &recipe, &marks);
                let (before, mesh) = (before.as_ref(), mesh.as_deref());
                trade.make(&Making { object, marks, recipe, inputs, now, before, asked, mesh })
            })
            .await?;
        made.map_err(|failure| match failure {
            Failure::Obstacle(obstacle) => Stopped::Obstacle(obstacle),
            Failure::Library(error) => Stopped::Trouble(Trouble::Refused(error.to_string())),
            Failure::Unable(why) => Stopped::Trouble(Trouble::Refused(why)),
        })
    }

    /// The bytes of all that a recipe needs.
    pub(super) async fn inputs(&self, recipe: &Recipe) -> Result<Vec<Input>, Trouble> {
        let mut inputs = Vec::new();
        for need in &recipe.needs {
            inputs.push(self.input(need).await?);
        }
        Ok(inputs)
    }

    /// Off the thread that everything else runs on: a signature can take seconds.
    pub(super) async fn calculate<T: Send + 'static>(
        &self,
        calculation: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let busy = |why: String| Trouble::Busy { asked: None, why };
        let _turn = self.turns.acquire().await.map_err(|error| busy(error.to_string()))?;
        tokio::task::spawn_blocking(calculation).await.map_err(|error| busy(error.to_string()))
    }

    /// The bytes of a need, if it is still what was found.
    pub(super) async fn input(&self, need: &Need) -> Result<Input, Trouble> {
        match need {
            Need::Kept(kept) => {
                let (_, content) = self.load_as(kept, false).await?;
                Ok(Input::Kept(kept.clone(), content))
            }
            Need::Item(item) => self.item(item).await,
        }
    }

    async fn item(&self, item: &Item) -> Result<Input, Trouble> {
        let found = match item.kind {
            MessageKind::Secret => {
                let mut secret = self.vault.get(&item.namespace, &item.name).await?;
                secret.as_mut().map(Content::take).unwrap_or_default()
            }
            MessageKind::ConfigMap => self.vault.config_map(&item.namespace, &item.name).await?,
        };
        let bytes = found.secret(&item.item).ok_or(Trouble::Changed)?;
        if self.vault.marks.named(item.kind, &item.namespace, &item.name, &item.item, bytes.as_bytes())
            != item.mark
        {
            return Err(Trouble::Changed);
        }
        Ok(Input::Item(bytes.clone()))
    }

    /// A Secret of ours as it was seen, and what is in it.
    pub(super) async fn load(&self, kept: &Kept) -> Result<(core::Secret, Content), Trouble> {
        self.load_as(kept, true).await
    }

    /// `exactly` as it was seen, or at least with the same version in it.
    async fn load_as(&self, kept: &Kept, exactly: bool) -> Result<(core::Secret, Content), Trouble> {
        let mut secret = self.vault.get(&kept.namespace, &kept.name).await?.ok_or(Trouble::Changed)?;
        let content = Content::take(&mut secret);
        let mut again = secret.clone();
        again.data = None;
        let meta = &secret.metadata;
        let same = meta.uid.as_ref() == Some(&kept.uid)
            && (!exactly || meta.resource_version.as_ref() == Some(&kept.resource_version));
        let mark = kept.facts.mark(&content, &self.vault.marks);
        if !same || kept.is_sound() && kept.content_mark.as_ref() != Some(&mark) {
            return Err(Trouble::Changed);
        }
        Ok((again, content))
    }

    /// Under the wished name: over what is there, or anew.
    async fn put(
        &self,
        trade: &dyn Trade,
        object: &Object,
        over: Option<&Kept>,
        facts: &Facts,
        content: &Content,
    ) -> Result<Kept, Stopped> {
        match over {
            Some(over) => {
                let (before, _) = self.load(over).await?;
                Ok(self.vault.replace(object, over, before, facts, content).await?)
            }
            None => {
                let name = trade.secret(object).unwrap_or_default();
                let type_ = object.id.kind.secret_type();
                Ok(self.vault.create(object, &name, type_, facts, content, false).await?)
            }
        }
    }

    fn told_of(&self, object: &Object, over: Option<&Kept>, kept: &Kept, why: Why) {
        let (version, name) = (kept.version(), &kept.name);
        let algorithm = |facts: &Facts| facts.algorithm.clone().unwrap_or_default();
        let other = over.map(|over| (algorithm(&over.facts), algorithm(&kept.facts)));
        let because = match (why, other) {
            (Why::Changed, Some((from, to))) if from != to => {
                format!("its algorithm changes from {from} to {to}")
            }
            (Why::Changed, _) => "what it is made from has changed".to_owned(),
            (Why::Asked, _) => "it was asked for".to_owned(),
            (Why::Aged, _) => "the one before was old enough".to_owned(),
            (Why::New, _) => "there was none".to_owned(),
            (Why::Restored, _) => "it was lost, and is made of the same again".to_owned(),
            (Why::Recreated, _) => {
                "the one before was lost, and spec.recreatePolicy allows another".to_owned()
            }
        };
        let (tone, reason) = match why {
            Why::New => (Tone::Normal, "Created"),
            Why::Restored => (Tone::Normal, "Restored"),
            Why::Recreated => (Tone::Warning, "Recreated"),
            Why::Changed | Why::Asked | Why::Aged => (Tone::Normal, "Rotated"),
        };
        let note = format!("version {version} is in Secret {name}: {because}");
        self.herald.say(&about(object), tone, reason, &note);
    }
}

/// What was written is what is there.
pub(super) fn seen(look: &mut Look, kept: Kept) {
    look.kept.retain(|known| known.name != kept.name);
    look.kept.push(Arc::new(kept));
}

fn gone(look: &mut Look, kept: &Kept) {
    look.kept.retain(|known| known.name != kept.name);
}
