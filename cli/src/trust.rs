//! `trellis trust`: what the mesh is believed by, and how to change it while everybody keeps talking.

mod backup;
mod outside;
mod picture;
mod wish;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kube::{Api, api::PostParams};
use tokio::time::{Instant, sleep};
use trellis_api::{
    names::SYSTEM_NAMESPACE,
    trust::{KeyAlgorithm, Part, SignedBy, TRUST_DOMAIN, TrustDomain, TrustDomainSpec, TrustDomainStatus},
};
use trellis_pki::{
    clock::{Clock, SystemClock},
    credential::Denied,
};

#[derive(Debug, Args)]
pub struct Trust {
    /// The namespace of the control plane.
    #[arg(short = 'n', long, default_value = SYSTEM_NAMESPACE, global = true)]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the anchors, who holds them, and where a rotation is.
    Status {
        /// Print the status as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put a new anchor in the place of the one that issues, while everybody keeps talking.
    Rotate {
        /// Algorithm of the new anchor; that of the old one unless given.
        #[arg(long, value_parser = algorithm)]
        to: Option<KeyAlgorithm>,
        /// Algorithm of workloads' certificates from then on. As it is unless given; where the new anchor
        /// resists quantum computers and the old one did not, ml-dsa-65.
        #[arg(long, value_parser = algorithm)]
        leaf: Option<KeyAlgorithm>,
        /// Who signs the new anchor: self, import (by hand) or openbao. As it is unless given.
        #[arg(long)]
        signed_by: Option<SignedBy>,
        /// Let an outside CA sign an ML-DSA anchor with what a quantum computer breaks.
        #[arg(long)]
        allow_classical_parents: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make, replace or remove the classical anchor beside the one that issues, from which workloads with a
    /// dual identity get the certificate for peers that cannot verify ML-DSA.
    Companion {
        /// ecdsa-p256, which is a fresh key where there is a companion already; or none.
        #[arg(long, value_parser = companion)]
        to: CompanionTo,
        #[command(flatten)]
        wait: Wait,
    },
    /// Print the signing request of the issuing key that waits for an outside CA.
    Csr,
    /// Hand over the certificate over that request, and below it those of the CAs above, as PEM.
    Import {
        /// A file, or - for standard input.
        file: PathBuf,
        /// Seconds to wait for the CA's judgement.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
    /// Print the issuing certificate and those above it, where an outside CA signed it.
    Chain,
    /// Take a rotation back, as long as the old anchor is not being removed.
    Rollback {
        #[command(flatten)]
        wait: Wait,
    },
    /// Hold a rotation where it is.
    Pause,
    /// Let a rotation go on.
    Resume,
    /// Take the next step of a rotation although some would be cut off by it; shows whom.
    Force {
        /// Do it, and record who was cut off.
        #[arg(long)]
        yes: bool,
    },
    /// Turn somebody away at once, everywhere: identity=spiffe://…, serial=HEX or key=SHA-256 in hex.
    Deny {
        #[arg(required = true)]
        what: Vec<Denied>,
        /// For those who read it later.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let somebody in again.
    Allow {
        #[arg(required = true)]
        what: Vec<Denied>,
    },
    /// Make a key that backups are sealed to: only its holder can open them.
    BackupKey(backup::MakeKey),
    /// Write what a lost cluster needs to be the same trust domain again, sealed to a key.
    Backup(backup::Backup),
    /// Bring a trust domain back in a new cluster, before the control plane is installed there.
    Restore(backup::Restore),
}

#[derive(Clone, Copy, Debug, Args)]
struct Wait {
    /// Return only when the rotation has ended.
    #[arg(long)]
    wait: bool,
    /// Seconds to wait at most.
    #[arg(long, default_value_t = 600, requires = "wait")]
    timeout: u64,
}

/// Between two looks at a rotation that is waited for.
const LOOK: Duration = Duration::from_secs(1);

impl Trust {
    pub async fn run(self) -> Result<ExitCode> {
        // These need no TrustDomain, which a cluster that is to be restored has not.
        match self.command {
            Command::BackupKey(make) => return make.run(),
            Command::Backup(backup) => return backup.run(&self.namespace).await,
            Command::Restore(restore) => return restore.run(&self.namespace).await,
            _ => {}
        }
        let client = trellis_source::kubernetes_client().await?;
        let domain = Domain { api: Api::namespaced(client, &self.namespace), namespace: self.namespace };
        let object = domain.get().await?;
        let status = object.status.clone().unwrap_or_default();
        match self.command {
            Command::Status { json: true } => say(&format!("{}\n", serde_json::to_string_pretty(&status)?))?,
            Command::Status { json: false } => say(&picture::of(&object.spec, &status))?,
            Command::Csr => say(outside::request(&status)?)?,
            Command::Chain => say(outside::chain(&status)?)?,
            Command::Import { file, timeout } => {
                let pem = outside::read(&file)?;
                let spec = outside::import(&object.spec, &status, &pem, SystemClock.now())?;
                domain.put(object, spec).await?;
                return domain.judged(Duration::from_secs(timeout)).await;
            }
            Command::Rotate { to, leaf, signed_by, allow_classical_parents, wait } => {
                let mut spec = wish::rotate(&object.spec, &status, to, leaf)?;
                spec.issuing.signed_by = signed_by.unwrap_or(spec.issuing.signed_by);
                spec.allow_classical_parents |= allow_classical_parents;
                say(&format!("rotating to {}\n", spec.issuing))?;
                domain.put(object, spec).await?;
                return domain.follow(wait, status.past.len()).await;
            }
            Command::Companion { to: CompanionTo(to), wait } => {
                let spec = wish::companion(&object.spec, &status, to)?;
                match spec.companion {
                    Some(companion) => say(&format!("moving the companion to {companion}\n"))?,
                    None => say("removing the companion\n")?,
                }
                if spec == object.spec {
                    return domain.put(object, spec).await.map(|()| ExitCode::SUCCESS);
                }
                domain.put(object, spec).await?;
                return domain.follow(wait, status.past.len()).await;
            }
            Command::Rollback { wait } => {
                let spec = wish::roll_back(&object.spec, &status)?;
                let companion = status.rotation.as_ref().is_some_and(|one| one.of == Part::Companion);
                match spec.companion {
                    _ if !companion => say(&format!("rolling back to {}\n", spec.issuing))?,
                    Some(back) => say(&format!("rolling the companion back to {back}\n"))?,
                    None => say("rolling back to no companion\n")?,
                }
                domain.put(object, spec).await?;
                return domain.follow(wait, status.past.len()).await;
            }
            Command::Pause => {
                let spec = TrustDomainSpec { paused: true, ..object.spec.clone() };
                domain.put(object, spec).await?;
            }
            Command::Resume => {
                let spec = TrustDomainSpec { paused: false, ..object.spec.clone() };
                domain.put(object, spec).await?;
            }
            Command::Force { yes } => {
                let (spec, cut_off) = wish::force(&object.spec, &status)?;
                say(&cut_off)?;
                if !yes {
                    bail!("nothing was done; give --yes to cut them off, which is recorded");
                }
                domain.put(object, spec).await?;
            }
            Command::Deny { what, reason } => {
                let spec = wish::deny(&object.spec, &what, &reason);
                domain.put(object, spec).await?;
            }
            Command::Allow { what } => {
                let spec = wish::allow(&object.spec, &what)?;
                domain.put(object, spec).await?;
            }
            Command::BackupKey(_) | Command::Backup(_) | Command::Restore(_) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The object in the cluster.
struct Domain {
    api: Api<TrustDomain>,
    namespace: String,
}

impl Domain {
    async fn get(&self) -> Result<TrustDomain> {
        match self.api.get_opt(TRUST_DOMAIN).await {
            Ok(Some(object)) => Ok(object),
            Ok(None) => bail!(
                "there is no TrustDomain {}/{TRUST_DOMAIN}; the CA makes it when it first leads: is it running? \
                 `trellis check` knows more",
                self.namespace
            ),
            Err(error) => Err(error)
                .with_context(|| format!("cannot read TrustDomain {}/{TRUST_DOMAIN}", self.namespace)),
        }
    }

    /// Replaces what was read, and nothing that somebody changed since.
    async fn put(&self, object: TrustDomain, spec: TrustDomainSpec) -> Result<()> {
        if object.spec == spec {
            return say("it is so already\n");
        }
        let changed = TrustDomain { spec, ..object };
        match self.api.replace(TRUST_DOMAIN, &PostParams::default(), &changed).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                bail!(
                    "somebody else changed it in this moment; look with `trellis trust status`, and try again"
                )
            }
            Err(error) => Err(error)
                .with_context(|| format!("cannot change TrustDomain {}/{TRUST_DOMAIN}", self.namespace)),
        }
    }

    /// Waits for what the CA says to an import. One that it refuses is taken back.
    async fn judged(&self, patience: Duration) -> Result<ExitCode> {
        let deadline = Instant::now() + patience;
        loop {
            let object = self.get().await?;
            let status = object.status.clone().unwrap_or_default();
            let current = status.observed_generation == object.metadata.generation.unwrap_or_default();
            match outside::outcome(&status).filter(|_| current) {
                Some(Ok(taken)) => return say(&taken).map(|()| ExitCode::SUCCESS),
                Some(Err(refused)) => {
                    let spec = TrustDomainSpec { imported: String::new(), ..object.spec.clone() };
                    self.put(object, spec).await?;
                    return Err(refused);
                }
                None if Instant::now() >= deadline => bail!(
                    "the CA has said nothing within {} s; it goes on by itself: look with `trellis trust status`",
                    patience.as_secs()
                ),
                None => sleep(LOOK).await,
            }
        }
    }

    /// Shows each new line of what is going on until one more rotation has ended.
    async fn follow(&self, wait: Wait, ended: usize) -> Result<ExitCode> {
        if !wait.wait {
            return Ok(ExitCode::SUCCESS);
        }
        let deadline = Instant::now() + Duration::from_secs(wait.timeout);
        let mut said = String::new();
        loop {
            let object = self.get().await?;
            let status = object.status.clone().unwrap_or_default();
            let line = progress(&status);
            if line != said {
                say(&line)?;
                said = line;
            }
            let current = status.observed_generation == object.metadata.generation.unwrap_or_default();
            if current && status.rotation.is_none() && status.past.len() > ended {
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= deadline {
                say(&picture::of(&object.spec, &status))?;
                bail!("the rotation has not ended within {} s; it goes on by itself", wait.timeout);
            }
            sleep(LOOK).await;
        }
    }
}

fn progress(status: &TrustDomainStatus) -> String {
    match &status.rotation {
        Some(rotation) if rotation.waiting > 0 => {
            format!("{}: waits for {} of {}\n", rotation.phase, rotation.waiting, status.members)
        }
        Some(rotation) => format!("{}\n", rotation.phase),
        None => format!("issuing from {}\n", status.issuing),
    }
}

fn algorithm(text: &str) -> Result<KeyAlgorithm, String> {
    text.parse().map_err(|_| {
        let known: Vec<_> = KeyAlgorithm::ALL.iter().map(|one| one.as_str()).collect();
        format!("use one of {}", known.join(", "))
    })
}

/// What the companion is to be.
#[derive(Clone, Copy, Debug)]
struct CompanionTo(Option<KeyAlgorithm>);

fn companion(text: &str) -> Result<CompanionTo, String> {
    match text {
        "none" => Ok(CompanionTo(None)),
        _ if text == KeyAlgorithm::EcdsaP256.as_str() => Ok(CompanionTo(Some(KeyAlgorithm::EcdsaP256))),
        _ => Err("use ecdsa-p256, or none".to_owned()),
    }
}

fn say(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
