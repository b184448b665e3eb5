//! Looks into a Secret that is not as we wrote it, or that we did not write: it is mended from what is left in
//! it, taken over as it is, or hopeless. What is hopeless is left as it is, for who can read it.

use std::sync::Arc;

use super::{Attendant, Turn, step};
use crate::{
    content::Content,
    craft::{ADOPTED, Made},
    herald::{Tone, about},
    kept::{Facts, Kept, State},
    lifecycle::Record,
    trade::{Decision, Look, Trade},
};

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
        let (before, content) = self.load(&kept).await?;
        let content = Arc::new(content);
        let made = {
            let (object, kept, content, marks) =
                (object.clone(), kept.clone(), content.clone(), self.vault.marks.clone());
            self.calculate(move || trade.salvage(&object, &kept, &content, &marks)).await?
        };
        let record = trade.record(&object);
        let version = match kept.version() {
            0 => record.version.unwrap_or(1),
            version => version,
        };
        let judged = Judged { kept: &kept, version, record: &record, marked: trade.is_marked() };
        let Some(made) = made.into_iter().find(|made| judged.accepts(made, self, &content)) else {
            turn.hopeless.insert((kept.uid.clone(), kept.resource_version.clone()));
            step::seen(look, Kept { state: State::Hopeless, ..Kept::clone(&kept) });
            return Ok(());
        };
        let as_found = kept.state == State::Unread || kept.archive;
        let facts = Facts {
            version,
            fingerprint: made.fingerprint,
            formerly: match kept.state {
                State::OtherMark => Some(kept.facts.fingerprint.clone()),
                _ => kept.facts.formerly.clone(),
            },
            algorithm: made.algorithm,
            made_of: match (kept.facts.made_of.as_str(), &decision.recipe) {
                ("", _) => ADOPTED.to_owned(),
                (known, _) => known.to_owned(),
            },
            form: made.form,
            since: kept.facts.since.or(Some(self.now())),
            until: trade.until(&made.content),
            retired: kept.facts.retired,
            // What it was asked for before is not asked for again.
            rotated: kept.facts.rotated.clone().or_else(|| object.rotate.clone()),
        };
        let written: &Content = if as_found { &content } else { &made.content };
        let replaced = self.vault.replace(&object, &kept, before, &facts, written).await?;
        let (reason, what) = match kept.state {
            State::Unread => ("Adopted", "is taken over as it is"),
            State::OtherMark => ("Marked", "is marked with the cluster's new key for fingerprints"),
            _ => ("Mended", "was damaged, and is mended from what was left of it"),
        };
        let note = format!("Secret {} with version {version} {what}", kept.name);
        let tone = if reason == "Adopted" { Tone::Normal } else { Tone::Warning };
        self.herald.say(&about(&object), tone, reason, &note);
        step::seen(look, replaced);
        Ok(())
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
        let known = self.record.versions.iter().find(|known| known.version == self.version);
        let known = known.and_then(|known| known.fingerprint.as_deref());
        let said = Some(self.kept.facts.fingerprint.as_str()).filter(|said| !said.is_empty());
        match self.kept.state {
            // Under another key nothing can be compared that was marked with it.
            State::OtherMark if self.marked => true,
            State::OtherMark => said == Some(&made.fingerprint),
            State::Unread => known.or(said).is_none_or(|known| known == made.fingerprint),
            _ => {
                let whole = Facts {
                    fingerprint: made.fingerprint.clone(),
                    algorithm: made.algorithm.clone(),
                    ..self.kept.facts.clone()
                };
                let marks = &attendant.vault.marks;
                let exactly = self.kept.content_mark.as_ref() == Some(&whole.mark(&made.content, marks));
                let same = known.or(said) == Some(&made.fingerprint);
                // What cannot be written again is only good as it is.
                let writable = !self.kept.archive || made.content == *content;
                writable && (exactly || made.whole && same)
            }
        }
    }
}
