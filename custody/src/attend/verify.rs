//! A verification keeps nothing: it is done when what it is about is another than its status says.

use std::sync::Arc;

use serde_json::Value;
use trellis_api::crypto::{Standing, VerifySignatureSpec, VerifySignatureStatus, Word, condition};
use trellis_pki::clock::rfc3339;

use super::Attendant;
use crate::{
    account::written,
    craft::{Extra, Failure, Recipe},
    kinds::VerifySignature,
    object::Object,
    queue::Outcome,
    sources::Obstacle,
    trade::{Look, overlaid, spec_of, stamped},
    trouble::Trouble,
    view::Looked,
};

impl Attendant {
    pub(super) async fn verify(&self, look: Look) -> Result<Outcome, Trouble> {
        let object = &look.object;
        let spec = match spec_of::<VerifySignatureSpec>(object) {
            Ok(spec) => spec,
            Err(obstacle) => return self.not_verified(object, &obstacle).await,
        };
        let found = match &look.looked {
            Looked::NotYet => return Ok(Outcome::Rest(None)),
            Looked::Missing(obstacle) => return self.not_verified(object, obstacle).await,
            Looked::Found(found) => found,
        };
        let recipe = match VerifySignature::recipe(&spec, found) {
            Ok(recipe) => recipe,
            Err(obstacle) => return self.not_verified(object, &obstacle).await,
        };
        let before: VerifySignatureStatus = serde_json::from_str(&object.status).unwrap_or_default();
        let known = matches!(before.standing.status, Word::Valid | Word::Invalid);
        if known && VerifySignature::stands(&before, &recipe) {
            let note = before.standing.condition(condition::READY).map(|ready| ready.message.clone());
            let known = &before.standing;
            let standing = self.settled(object, known, before.verified, note, known);
            return self.show(object, VerifySignatureStatus { standing, ..before }).await;
        }
        match self.judge(&spec, &recipe).await? {
            Ok(verdict) => {
                let shown = VerifySignature::show(&recipe, &verdict);
                let known = Standing { algorithm: Some(verdict.algorithm), ..Standing::default() };
                let note = verdict.note.or_else(|| recipe.note.clone());
                let standing = self.settled(object, &before.standing, verdict.valid, note, &known);
                let checked = Some(rfc3339(self.now()));
                self.show(object, VerifySignatureStatus { standing, last_checked_time: checked, ..shown })
                    .await
            }
            Err(Failure::Obstacle(obstacle)) => self.not_verified(object, &obstacle).await,
            Err(Failure::Library(error)) => Err(Trouble::Refused(error.to_string())),
            Err(Failure::Unable(why)) => Err(Trouble::Refused(why)),
        }
    }

    async fn judge(
        &self,
        spec: &VerifySignatureSpec,
        recipe: &Recipe,
    ) -> Result<Result<crate::kinds::Verdict, Failure>, Trouble> {
        let mut inputs = Vec::new();
        for need in &recipe.needs {
            inputs.push(self.input(need).await?);
        }
        let spec = Arc::new(spec.clone());
        self.calculate(move || VerifySignature::judge(&spec, &inputs)).await
    }

    fn settled(
        &self,
        object: &Object,
        before: &Standing,
        valid: bool,
        note: Option<String>,
        known: &Standing,
    ) -> Standing {
        let word = if valid { Word::Valid } else { Word::Invalid };
        let invalid = "the signature was not made by this key over this message in this context".to_owned();
        let message = if valid { note.unwrap_or_default() } else { invalid };
        let ready = Extra { type_: condition::READY, holds: Some(valid), reason: word.as_str(), message };
        Standing {
            status: word,
            error: (!valid).then(|| ready.message.clone()),
            conditions: written(vec![ready], &before.conditions, object.generation, self.now()),
            observed_generation: Some(object.generation),
            algorithm: known.algorithm.clone(),
            ..Standing::default()
        }
    }

    /// What cannot be looked at is neither valid nor invalid.
    async fn not_verified(&self, object: &Object, obstacle: &Obstacle) -> Result<Outcome, Trouble> {
        let before: VerifySignatureStatus = serde_json::from_str(&object.status).unwrap_or_default();
        let ready = Extra {
            type_: condition::READY,
            holds: Some(false),
            reason: obstacle.reason(),
            message: obstacle.message(),
        };
        let flag = obstacle.condition().map(|type_| Extra { type_, holds: Some(true), ..ready.clone() });
        let conditions = [ready].into_iter().chain(flag).collect();
        let standing = Standing {
            status: obstacle.word(),
            error: Some(obstacle.message()),
            conditions: written(conditions, &before.standing.conditions, object.generation, self.now()),
            observed_generation: Some(object.generation),
            ..Standing::default()
        };
        if matches!(obstacle, Obstacle::Invalid(_)) {
            let mut status = overlaid(object, &before.standing, standing, self.now());
            status["verified"] = Value::Bool(false);
            self.write(object, stamped(status, object, self.now())).await?;
            return Ok(Outcome::Rest(None));
        }
        self.show(object, VerifySignatureStatus { standing, ..VerifySignatureStatus::default() }).await
    }

    async fn show(&self, object: &Object, status: VerifySignatureStatus) -> Result<Outcome, Trouble> {
        let status = serde_json::to_value(status).unwrap_or_default();
        self.write(object, stamped(status, object, self.now())).await?;
        Ok(Outcome::Rest(None))
    }
}
