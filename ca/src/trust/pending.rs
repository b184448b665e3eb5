//! How the leader comes to a new anchor: at once where its key signs itself, or by way of a pending key
//! that waits for a token or for an outside CA. Each stop on the way is stored before the next one.

use tokio::task::spawn_blocking;
use trellis_api::trust::{Issuing, Part, SignedBy, TrustDomainSpec};
use trellis_pki::{
    bundle::Anchor,
    upstream::{self, Signed, Terms},
};

use super::{
    authority::Current,
    keeper::{Keeper, Turn, TurnError},
    keys::Key,
    signing::{Answer, Signing},
    state::Pending,
    step::Step,
};

impl Keeper {
    pub(super) async fn begin(
        &self,
        current: &Current,
        wished: &TrustDomainSpec,
        of: Part,
        kind: Issuing,
        cut_off: Option<Vec<String>>,
    ) -> Result<Turn, TurnError> {
        let Some(pending) = &current.state().pending else {
            let reserved = self.making.keys.reserve();
            if kind.signed_by.is_self() && reserved.is_none() {
                let key = self.making.key(kind).await?;
                let issuer = self.making.anchor(&key, self.clock.now()).await?;
                return self.join(current, (of, kind), &key, issuer.anchor(), &[], cut_off).await;
            }
            let since = self.now();
            let none = String::new;
            let mut pending = Pending { of, kind, token: reserved, key: none(), request: none(), since };
            let mut vault = current.vault.clone();
            if pending.token.is_none() {
                let key = Key::kept(kind).map_err(|error| TurnError::State(error.to_string()))?;
                vault.set_pending(&mut pending, &key).map_err(TurnError::State)?;
                pending.request = self.request(&key).await?;
            }
            vault.state = vault.state.after(Step::Prepare(pending), since, None);
            return self.write(current, vault, "Prepare", None).await;
        };
        if kind.signed_by.is_self() {
            let key = match self.pending_key(current, pending).await {
                Ok(key) => key,
                Err(why) => return Ok(self.stands(Signing::Key(why))),
            };
            let issuer = match self.making.anchor(&key, self.clock.now()).await {
                Ok(issuer) => issuer,
                Err(error) => return Ok(self.stands(Signing::Key(error.to_string()))),
            };
            return self.join(current, (of, kind), &key, issuer.anchor(), &[], cut_off).await;
        }
        if pending.request.is_empty() {
            let key = match self.pending_key(current, pending).await {
                Ok(key) => key,
                Err(why) => return Ok(self.stands(Signing::Key(why))),
            };
            let (mut pending, mut vault) = (pending.clone(), current.vault.clone());
            vault.set_pending(&mut pending, &key).map_err(TurnError::State)?;
            pending.request = self.request(&key).await?;
            vault.state = vault.state.after(Step::Prepare(pending), self.now(), None);
            return self.write(current, vault, "Prepare", None).await;
        }
        let chain = match self.chain(current, wished, pending) {
            Answer::NotYet(signing) => return Ok(self.stands(signing)),
            Answer::Chain(chain) => chain,
        };
        let key = match self.pending_key(current, pending).await {
            Ok(key) => key,
            Err(why) => return Ok(self.stands(Signing::Key(why))),
        };
        match self.examine(&chain, &key, wished).await {
            Ok(signed) => {
                self.join(current, (of, kind), &key, &signed.anchor, &signed.parents, cut_off).await
            }
            Err(why) => {
                if kind.signed_by == SignedBy::OpenBao {
                    self.outside.refuse(&pending.request, &why);
                }
                Ok(self.stands(Signing::Refused(why)))
            }
        }
    }

    /// The certificate and those above it, if anybody gave them. One that is an anchor already was
    /// imported for it, and not for this key.
    fn chain(&self, current: &Current, wished: &TrustDomainSpec, pending: &Pending) -> Answer {
        match pending.kind.signed_by {
            SignedBy::OpenBao => self.outside.ask(&pending.request),
            _ if wished.imported.trim().is_empty() => Answer::NotYet(Signing::Awaits),
            _ if upstream::first(&wished.imported)
                .is_some_and(|one| current.state().anchor(&one).is_some()) =>
            {
                Answer::NotYet(Signing::Awaits)
            }
            _ => Answer::Chain(wished.imported.clone()),
        }
    }

    async fn examine(&self, chain: &str, key: &Key, wished: &TrustDomainSpec) -> Result<Signed, String> {
        let (chain, signer, lasting) = (chain.to_owned(), key.signer(), self.lasting.clone());
        let (trust_domain, now) = (self.making.trust_domain.clone(), self.clock.now());
        let classical_parents = wished.allow_classical_parents;
        let examined = spawn_blocking(move || {
            let terms = Terms {
                trust_domain: &trust_domain,
                service_domain: &lasting.service_domain,
                now,
                leaf: lasting.leaf,
                classical_parents,
            };
            let signed = upstream::read(&chain, signer.public_key(), &terms)?;
            upstream::try_out(&signed, signer, &terms)?;
            Ok::<_, upstream::SignedError>(signed)
        });
        match examined.await {
            Ok(examined) => examined.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn pending_key(&self, current: &Current, pending: &Pending) -> Result<Key, String> {
        match &pending.token {
            Some(reference) => {
                self.making.keys.make(reference, &self.making.trust_domain, pending.kind).await
            }
            None => current.vault.pending_key(pending),
        }
    }

    async fn request(&self, key: &Key) -> Result<String, TurnError> {
        let (signer, trust_domain) = (key.signer(), self.making.trust_domain.clone());
        let made = spawn_blocking(move || upstream::request(&trust_domain, &*signer)).await;
        let made = made.map_err(|error| TurnError::State(error.to_string()))?;
        let der = made.map_err(|error| TurnError::State(format!("no signing request: {error}")))?;
        Ok(upstream::request_pem(&der))
    }

    /// The new anchor and its key, and the phase, in one write.
    async fn join(
        &self,
        current: &Current,
        (of, kind): (Part, Issuing),
        key: &Key,
        certificate: &Anchor,
        parents: &[Vec<u8>],
        cut_off: Option<Vec<String>>,
    ) -> Result<Turn, TurnError> {
        let mut vault = current.vault.clone();
        let anchor = vault.add(certificate, parents, kind, key).map_err(TurnError::State)?;
        vault.state = vault.state.after(Step::Begin { of, anchor }, self.now(), cut_off.clone());
        self.stands(Signing::Idle);
        self.write(current, vault, "Begin", cut_off).await
    }

    /// Notes how it stands; what is new is shown before anything else is done.
    fn stands(&self, signing: Signing) -> Turn {
        let mut before = self.signing.lock();
        if *before == signing {
            return Turn::Rests;
        }
        if let Signing::Refused(why) | Signing::Unavailable(why) | Signing::Key(why) = &signing {
            tracing::warn!(why, "the new issuing key has no certificate yet");
            self.metrics.refused(&signing);
        }
        *before = signing;
        Turn::Took
    }

    /// Destroys keys in the token that nothing rests on any more. One that cannot be reached is destroyed
    /// another time, and holds up nothing.
    pub(super) async fn bury(&self, current: &Current) -> Result<Turn, TurnError> {
        let mut gone = Vec::new();
        for reference in &current.state().doomed {
            match self.making.keys.destroy(reference).await {
                Ok(()) => gone.push(reference.clone()),
                Err(error) => {
                    tracing::warn!(key = %reference, %error, "a removed anchor's key is still in the token");
                }
            }
        }
        match gone.is_empty() {
            true => Ok(Turn::Rests),
            false => self.take(current, Step::Destroyed(gone), None).await,
        }
    }
}
