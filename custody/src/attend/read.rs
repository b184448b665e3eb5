//! Looks into a Secret that is not as we wrote it, or that we did not write: it is mended from what is left in
//! it, taken over as it is, or hopeless. What is hopeless is left as it is, for who can read it.

use std::{sync::Arc, time::SystemTime};

use super::{Attendant, Turn, step};
use crate::{
    content::Content,
    craft::{ADOPTED, Failure, Made, Making, Recipe},
    herald::{Tone, about},
    kept::{Facts, Kept, State, moment},
    lifecycle::Record,
    object::Object,
    trade::{Decision, Look, Trade},
    trouble::Trouble,
};

/// The reason of the Event.
const ADOPTION: &str = "Adopted";
/// What something is made of that is no more.
const UNKNOWN: &str = "unknown";

impl Attendant {
    pub(super) async fn read(
        &self,
        trade: &'static dyn Trade,
        look: &mut Look,
        decision: &Decision,
        kept: Arc<Kept>,
        turn: &mut Turn,
    ) -> Result<(), step::Stopped> {
        let object = look.object.clone();
        if kept.state == State::Unread && !kept.archive {
            return self.adopt(trade, look, decision, kept, turn).await;
        }
        let (before, content) = self.load(&kept).await?;
        let content = Arc::new(content);
        let made = {
            let (object, kept, content, marks) =
                (object.clone(), kept.clone(), content.clone(), self.vault.marks.clone());
            self.calculate(move || trade.salvage(&object, &kept, &content, &marks)).await?
        };
        let record = trade.record(&object);
        let version = version(&kept, &record);
        let judged = Judged { kept: &kept, version, record: &record, marked: trade.is_marked() };
        let Some(made) = made.into_iter().find(|made| judged.accepts(made, self, &content)) else {
            unread(look, turn, &kept, State::Hopeless);
            return Ok(());
        };
        let mut facts = Facts {
            since: since(&kept, version, &record).or(Some(self.now())),
            until: trade.until(&made.content),
            ..facts_of(&object, &kept, &made, version, ADOPTED)
        };
        if kept.state == State::OtherMark {
            facts.formerly = Some(kept.facts.fingerprint.clone());
        }
        let written: &Content = if kept.archive { &content } else { &made.content };
        let replaced = self.vault.replace(&object, &kept, before, &facts, written).await?;
        let (reason, what) = match kept.state {
            State::Unread => (ADOPTION, "is taken over as it is"),
            State::OtherMark => ("Marked", "is marked with the cluster's new key for fingerprints"),
            _ => ("Mended", "was damaged, and is mended from what was left of it"),
        };
        let note = format!("Secret {} with version {version} {what}", kept.name);
        let tone = if reason == ADOPTION { Tone::Normal } else { Tone::Warning };
        self.herald.say(&about(&object), tone, reason, &note);
        step::seen(look, replaced);
        Ok(())
    }

    /// Takes over what was written elsewhere, or has lost what we wrote beside it. Not a byte of it changes; what we
    /// keep beside it is added.
    async fn adopt(
        &self,
        trade: &'static dyn Trade,
        look: &mut Look,
        decision: &Decision,
        kept: Arc<Kept>,
        turn: &mut Turn,
    ) -> Result<(), step::Stopped> {
        let object = look.object.clone();
        let (before, content) = self.load(&kept).await?;
        let record = trade.record(&object);
        let version = version(&kept, &record);
        let known = known(&kept, version, &record);
        let alone = self.found(trade, &object, &content, None).await?;
        let ours = alone.as_ref().is_ok_and(|made| known == Some(made.fingerprint.as_str()));
        let (found, made_of) = match (&decision.recipe, &decision.obstacle) {
            (Some(recipe), _) => match self.found(trade, &object, &content, Some(recipe)).await? {
                Ok(made) => (Ok(made), recipe.made_of.as_str()),
                // What it was made of is another by now.
                Err(_) if ours => (alone, UNKNOWN),
                Err(why) => (Err(why), ADOPTED),
            },
            // What somebody else made is compared with what it is made of, unless that is gone for good.
            (None, Some(obstacle)) if !ours && !obstacle.is_gone() => {
                return Err(step::Stopped::Obstacle(obstacle.clone()));
            }
            (None, _) => (alone, ADOPTED),
        };
        let other =
            |known: &str| format!("its fingerprint is not {known}, by which version {version} is known");
        let found = found.and_then(|made| match known {
            Some(known) if known != made.fingerprint => Err(other(known)),
            _ => Ok(made),
        });
        let made = match found {
            Ok(made) => made,
            // What carries our labels is a ruin of ours; anything else may be of use to somebody.
            Err(_) if kept.labelled => {
                unread(look, turn, &kept, State::Hopeless);
                return Ok(());
            }
            Err(why) => {
                unread(look, turn, &kept, State::Unfit(why.into()));
                return Ok(());
            }
        };
        let facts = Facts {
            since: since(&kept, version, &record).or(Some(self.now())),
            until: trade.until(&made.content),
            adopted: kept.facts.adopted.or((!ours).then(|| self.now())),
            ..facts_of(&object, &kept, &made, version, made_of)
        };
        let written = if before.immutable == Some(true) { content } else { content.beside(&made.content) };
        let replaced = self.vault.replace(&object, &kept, before, &facts, &written).await?;
        let note = format!("Secret {} with version {version} is taken over as it is", kept.name);
        self.herald.say(&about(&object), Tone::Normal, ADOPTION, &note);
        step::seen(look, replaced);
        Ok(())
    }

    /// What a content is, and with a recipe whether it was made by that; or why not.
    pub(super) async fn found(
        &self,
        trade: &'static dyn Trade,
        object: &Object,
        content: &Content,
        recipe: Option<&Recipe>,
    ) -> Result<Result<Made, String>, Trouble> {
        let inputs = match recipe {
            Some(recipe) => self.inputs(recipe).await?,
            None => Vec::new(),
        };
        let (object, content, marks) = (object.clone(), content.clone(), self.vault.marks.clone());
        let (recipe, now, mesh) = (recipe.cloned(), self.now(), self.mesh.clone());
        let found = self.calculate(move || {
            let (object, marks, mesh) = (&object, &marks, mesh.as_deref());
            let making = recipe.as_ref().map(|recipe| Making {
                object,
                marks,
                recipe,
                inputs,
                now,
                before: None,
                asked: false,
                mesh,
            });
            trade.adopt(object, &content, marks, making.as_ref())
        });
        match found.await? {
            Ok(made) => Ok(Ok(made)),
            Err(Failure::Obstacle(obstacle)) => Ok(Err(obstacle.message())),
            Err(Failure::Library(error)) => Ok(Err(error.to_string())),
            Err(Failure::Unable(why)) => Err(Trouble::Busy { asked: None, why }),
        }
    }
}

fn version(kept: &Kept, record: &Record) -> u32 {
    match kept.version() {
        0 => record.version.unwrap_or(1),
        version => version,
    }
}

/// The fingerprint by which a version is known: to the status, or else to the Secret itself.
fn known<'a>(kept: &'a Kept, version: u32, record: &'a Record) -> Option<&'a str> {
    let known = record.versions.iter().find(|known| known.version == version);
    let said = Some(kept.facts.fingerprint.as_str()).filter(|said| !said.is_empty());
    known.and_then(|known| known.fingerprint.as_deref()).or(said)
}

/// When a version came into use, as the Secret or else the status tells: its age is not forgotten with annotations.
fn since(kept: &Kept, version: u32, record: &Record) -> Option<SystemTime> {
    let known = record.versions.iter().find(|known| known.version == version);
    kept.facts.since.or_else(|| moment(known?.since.as_deref()?))
}

/// Nothing can be made of it as long as it is what it is now.
fn unread(look: &mut Look, turn: &mut Turn, kept: &Kept, state: State) {
    turn.unread.insert((kept.uid.clone(), kept.resource_version.clone()), state.clone());
    step::seen(look, Kept { state, ..kept.clone() });
}

/// What is to be said of a Secret of which `made` is in it: what it says itself, where it does.
fn facts_of(object: &Object, kept: &Kept, made: &Made, version: u32, made_of: &str) -> Facts {
    let known = &kept.facts;
    Facts {
        version,
        fingerprint: made.fingerprint.clone(),
        algorithm: made.algorithm.clone(),
        form: made.form.clone(),
        made_of: if known.made_of.is_empty() { made_of } else { &known.made_of }.to_owned(),
        // What it was asked for before is not asked for again.
        rotated: known.rotated.clone().or_else(|| object.rotate.clone()),
        ..known.clone()
    }
}

/// What a Secret says that it is, and what the status remembers.
struct Judged<'a> {
    kept: &'a Kept,
    version: u32,
    record: &'a Record,
    /// Whether fingerprints are under the cluster's key.
    marked: bool,
}

impl Judged<'_> {
    /// Whether this is what the Secret held.
    fn accepts(&self, made: &Made, attendant: &Attendant, content: &Content) -> bool {
        let known = known(self.kept, self.version, self.record);
        let said = Some(self.kept.facts.fingerprint.as_str()).filter(|said| !said.is_empty());
        match self.kept.state {
            // Under another key nothing can be compared that was marked with it.
            State::OtherMark if self.marked => true,
            State::OtherMark => said == Some(&made.fingerprint),
            State::Unread => known.is_none_or(|known| known == made.fingerprint),
            _ => {
                let whole = Facts {
                    fingerprint: made.fingerprint.clone(),
                    algorithm: made.algorithm.clone(),
                    ..self.kept.facts.clone()
                };
                let marks = &attendant.vault.marks;
                let exactly = self.kept.content_mark.as_ref() == Some(&whole.mark(&made.content, marks));
                let same = known == Some(&made.fingerprint);
                // What cannot be written again is only good as it is.
                let writable = !self.kept.archive || made.content == *content;
                writable && (exactly || made.whole && same)
            }
        }
    }
}
