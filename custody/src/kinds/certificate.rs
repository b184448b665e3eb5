//! QuantumCertificate: a key and a certificate over it, signed by itself, by the CA that another one is, or by
//! the CA of the mesh. It is replaced before it ends, and when its issuer is.
//!
//! `tls.crt` is the certificate with all that stand between it and the root, `tls.key` its key in PKCS#8, and
//! `ca.crt` what verifies it. A hybrid has a second certificate for the same names beside it, with a chain that
//! is classical throughout: who cannot verify ML-DSA cannot verify it on a CA's certificate either.

mod pair;
mod wanted;

use std::time::SystemTime;

use trellis_api::crypto::{
    CLASSICAL_CERTIFICATE, CLASSICAL_KEY, CertificateSpec, CertificateStatus, IssuerKind, Kind, Output,
    RecreatePolicy, Reference, Standing,
};
use trellis_crypto::{Fingerprint, Secret};
use trellis_pki::{
    certify::{Key, KeyKind, Parent, Seen, certificates},
    clock::rfc3339,
    x509_pem,
};

use self::pair::{Pair, Signer};
use crate::{
    content::Content,
    craft::{Craft, Failure, Input, Keeps, Made, Making, Recipe, Salvage, Shown, Terms, made_of, unlike},
    lifecycle::{Class, renewal},
    object::Object,
    sources::{Ask, Found, Need, Obstacle, Source},
};

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
const FORM: &str = "tls/v1";
const ISSUER: &str = "spec.issuerRef";
const HYBRID: &str = "spec.hybrid";

pub(crate) struct Certificate;

impl Craft for Certificate {
    type Spec = CertificateSpec;

    fn asks(spec: &CertificateSpec) -> Vec<Ask> {
        let Some(issuer) = &spec.issuer_ref else { return Vec::new() };
        match (issuer.kind, &issuer.name) {
            (IssuerKind::QuantumCertificate, Some(name)) => {
                let to = Reference { name: name.clone(), namespace: issuer.namespace.clone() };
                vec![Ask::Object { field: ISSUER, kinds: vec![Kind::Certificate], to }]
            }
            (IssuerKind::MeshCA, _) => vec![Ask::Mesh { field: ISSUER }],
            (IssuerKind::QuantumCertificate, None) => Vec::new(),
        }
    }

    fn recipe(spec: &CertificateSpec, _: &Object, found: &[Found]) -> Result<Recipe, Obstacle> {
        let what = wanted::digest(spec);
        let what = what.as_str();
        match found {
            [] => Ok(Recipe { made_of: made_of("certificate/v1", &[("spec", what)]), ..Recipe::default() }),
            [Found::Object(issuer)] => {
                may_issue(spec, issuer)?;
                let by = issuer.active.facts.fingerprint.as_str();
                let made_of = made_of("certificate/v1", &[("spec", what), ("issuer", by)]);
                Ok(Recipe { made_of, needs: vec![Need::Kept(issuer.active.clone())], ..Recipe::default() })
            }
            [Found::Mesh(anchors)] => {
                let beside = anchors.companion.as_deref().filter(|_| spec.hybrid.is_some());
                if spec.hybrid.is_some() && beside.is_none() {
                    let why = "the mesh has no companion anchor, by which who cannot verify ML-DSA could verify the \
                               second certificate: make one by trellis trust companion --to ecdsa-p256";
                    return Err(Obstacle::Unfit { field: HYBRID, why: why.to_owned() });
                }
                let by = anchors.issuing.as_str();
                let parts = [("spec", what), ("mesh", by), ("bundle", anchors.bundle.as_str())];
                let line = made_of("certificate/v1", &parts);
                let made_of = beside.map_or(line.clone(), |beside| format!("{line} beside={beside}"));
                Ok(Recipe { made_of, note: shortened(spec), ..Recipe::default() })
            }
            _ => Err(nothing()),
        }
    }

    fn make(spec: &CertificateSpec, making: &Making<'_>) -> Result<Made, Failure> {
        let wanted = wanted::of(spec)?;
        let input = match making.inputs.as_slice() {
            [] => None,
            [Input::Kept(_, content)] => Some(content),
            _ => return Err(nothing().into()),
        };
        let kind = wanted::kind(&spec.algorithm)?;
        let first = Pair::make(&signer(spec, input, false)?, &wanted, key(spec, making, kind, KEY)?, making)?;
        let second = match spec.hybrid {
            None => None,
            Some(hybrid) => {
                let kind = wanted::kind(hybrid.algorithm.as_str())?;
                let key = key(spec, making, kind, CLASSICAL_KEY)?;
                Some(Pair::make(&signer(spec, input, true)?, &wanted, key, making)?)
            }
        };
        let authority = match (input, making.mesh) {
            (Some(issuer), _) => issuer.get(AUTHORITY).unwrap_or_default().to_vec(),
            (None, Some(mesh)) if spec.is_of_mesh() => mesh.anchors().borrow().pem.clone().into_bytes(),
            (None, _) => {
                [Some(&first), second.as_ref()].into_iter().flatten().flat_map(|pair| pair.own()).collect()
            }
        };
        let mut content = Content::default()
            .with(CERTIFICATE, Secret::copy_of(first.chain.as_bytes()))
            .with(KEY, Secret::copy_of(first.key.as_bytes()))
            .with(AUTHORITY, Secret::new(authority));
        if let Some(second) = &second {
            content = content
                .with(CLASSICAL_CERTIFICATE, Secret::copy_of(second.chain.as_bytes()))
                .with(CLASSICAL_KEY, Secret::copy_of(second.key.as_bytes()));
        }
        Ok(made(content, first.seen.fingerprint, kind))
    }
}

impl Keeps for Certificate {
    const CLASS: Class = Class::Fresh;
    const MARKED: bool = false;

    fn output(spec: &CertificateSpec) -> &Output {
        &spec.output
    }

    fn terms(spec: &CertificateSpec) -> Terms {
        Terms {
            grace: Some(spec.grace()),
            version: spec.version.and_then(|version| u32::try_from(version).ok()),
            recreate: spec.recreate_policy == RecreatePolicy::Recreate,
            renew_before: Some(spec.renew_before()),
            ..Terms::default()
        }
    }

    fn until(content: &Content) -> Option<SystemTime> {
        let ends = [CERTIFICATE, CLASSICAL_CERTIFICATE].into_iter().filter_map(|item| leaf(content, item));
        ends.map(|seen| seen.not_after).min()
    }

    fn salvage(_: &CertificateSpec, salvage: &Salvage<'_>) -> Vec<Made> {
        let whole = |certificate: &str, key: &str| {
            let seen = leaf(salvage.content, certificate)?;
            let key = Key::from_pem(salvage.content.get(key)?).ok()?;
            seen.is_for(&key).then_some((seen, key.kind()))
        };
        let Some((seen, kind)) = whole(CERTIFICATE, KEY) else { return Vec::new() };
        let mut names = vec![CERTIFICATE, KEY, AUTHORITY];
        if whole(CLASSICAL_CERTIFICATE, CLASSICAL_KEY).is_some() {
            names.extend([CLASSICAL_CERTIFICATE, CLASSICAL_KEY]);
        }
        let left = names.into_iter().filter_map(|name| Some((name, salvage.content.secret(name)?)));
        let content =
            left.fold(Content::default(), |content, (name, bytes)| content.with(name, bytes.clone()));
        vec![made(content, seen.fingerprint, kind)]
    }

    /// As it is, whatever it is for and however long: its renewal is what the spec wishes.
    fn adopt(spec: &CertificateSpec, found: &Salvage<'_>, _: Option<&Making<'_>>) -> Result<Made, Failure> {
        let item =
            |name: &str| found.content.get(name).ok_or_else(|| unlike(format!("it has no item {name}")));
        let (chain, key) = (item(CERTIFICATE)?, item(KEY)?);
        let seen = leaf(found.content, CERTIFICATE)
            .ok_or_else(|| unlike(format!("its item {CERTIFICATE} is no certificate in PEM")))?;
        let key = Key::from_pem(key).map_err(|error| unlike(format!("its item {KEY}: {error}")))?;
        if !seen.is_for(&key) {
            return Err(unlike(format!("the certificate in {CERTIFICATE} is not for the key in {KEY}")));
        }
        let wanted = wanted::kind(&spec.algorithm)?;
        if key.kind() != wanted {
            let why = format!("its key is one of {}, and spec.algorithm says {wanted}", key.kind());
            return Err(unlike(why));
        }
        let mut made = Self::salvage(spec, found).into_iter().next().ok_or_else(nothing)?;
        if seen.is_root() && made.content.get(AUTHORITY).is_none() {
            made.content = made.content.with(AUTHORITY, Secret::copy_of(chain));
        }
        Ok(made)
    }

    fn show(
        spec: &CertificateSpec,
        shown: Shown<'_>,
        before: &CertificateStatus,
    ) -> Option<CertificateStatus> {
        let renewal = shown.active.and_then(|kept| renewal(&kept.facts, spec.renew_before())).map(rfc3339);
        let (reference, fingerprint) = (shown.secret.clone(), shown.short());
        let known = shown.is_of(&before.standing) && before.not_after.is_some();
        let told = match (shown.active, shown.content) {
            (None, _) => CertificateStatus::default(),
            (Some(_), None) if known => before.clone(),
            (Some(_), None) => return None,
            (Some(_), Some(content)) => {
                leaf(content, CERTIFICATE).map_or_else(CertificateStatus::default, |seen| CertificateStatus {
                    serial_number: Some(seen.serial),
                    subject: Some(seen.subject),
                    issuer: Some(seen.issuer),
                    not_before: Some(rfc3339(seen.not_before)),
                    not_after: Some(rfc3339(seen.not_after)),
                    ..CertificateStatus::default()
                })
            }
        };
        Some(CertificateStatus {
            standing: shown.standing,
            certificate_reference: reference,
            certificate_fingerprint: fingerprint,
            renewal_time: renewal,
            ..told
        })
    }

    fn standing(status: &CertificateStatus) -> &Standing {
        &status.standing
    }
}

/// Whether another certificate may issue this one.
fn may_issue(spec: &CertificateSpec, issuer: &Source) -> Result<(), Obstacle> {
    let unfit = |field, why: String| Err(Obstacle::Unfit { field, why });
    let of: CertificateSpec = match serde_json::from_value(issuer.spec.clone()) {
        Ok(of) => of,
        Err(error) => return unfit(ISSUER, format!("{} cannot be read: {error}", issuer.id)),
    };
    if !of.is_ca() {
        return unfit(ISSUER, format!("{} is no CA: set certType: ca there, or name another one", issuer.id));
    }
    let kind = issuer.active.facts.algorithm.as_deref().and_then(|name| name.parse::<KeyKind>().ok());
    let classical = kind.is_some_and(|kind| !kind.is_post_quantum()) || of.hybrid.is_some();
    if spec.hybrid.is_some() && !classical {
        return unfit(
            HYBRID,
            format!(
                "{} has no classical certificate, by which who cannot verify ML-DSA could verify the second one: set \
                 spec.hybrid there as well",
                issuer.id
            ),
        );
    }
    Ok(())
}

/// What signs the first certificate of an object, or the classical one.
fn signer(spec: &CertificateSpec, issuer: Option<&Content>, classical: bool) -> Result<Signer, Failure> {
    let Some(content) = issuer else {
        return Ok(if spec.is_of_mesh() { Signer::Mesh { companion: classical } } else { Signer::Itself });
    };
    let item = |name: &str| content.get(name).unwrap_or_default();
    let beside = classical && content.get(CLASSICAL_CERTIFICATE).is_some();
    let (chain, key) = if beside { (CLASSICAL_CERTIFICATE, CLASSICAL_KEY) } else { (CERTIFICATE, KEY) };
    let parent = Parent::read(item(chain), item(key));
    Ok(Signer::Parent(Box::new(parent.map_err(|error| unfit(ISSUER, &error))?)))
}

/// The key of the next certificate. That of a CA stays the same unless another is asked for, since whoever
/// trusts a CA trusts its key; everybody else gets a fresh one each time.
fn key(spec: &CertificateSpec, making: &Making<'_>, kind: KeyKind, item: &str) -> Result<Key, Failure> {
    let before =
        making.before.filter(|_| spec.is_ca() && !making.asked).and_then(|content| content.get(item));
    match before.and_then(|pem| Key::from_pem(pem).ok()).filter(|key| key.kind() == kind) {
        Some(key) => Ok(key),
        None => Key::generate(kind).map_err(|error| Obstacle::Refused { why: error.to_string() }.into()),
    }
}

/// The first certificate of an item.
fn leaf(content: &Content, item: &str) -> Option<Seen> {
    let chain = certificates(content.get(item)?).ok()?;
    Seen::read(chain.first()?).ok()
}

fn made(content: Content, fingerprint: String, kind: KeyKind) -> Made {
    let (algorithm, form) = (Some(kind.name().to_owned()), FORM.to_owned());
    Made { content, fingerprint, algorithm, form, whole: false }
}

fn shortened(spec: &CertificateSpec) -> Option<String> {
    let said = spec.days.map(|days| format!("{days}d")).or_else(|| spec.duration.clone());
    let alone = CertificateSpec { issuer_ref: None, ..spec.clone() };
    said.filter(|_| alone.life() > spec.life()).map(|said| {
        let most = trellis_api::crypto::MESH_LIFE.as_secs() / 3600;
        format!("{said} are asked for, and the CA of the mesh issues for {most} h at most")
    })
}

fn unfit(field: &'static str, error: &impl std::fmt::Display) -> Obstacle {
    Obstacle::Unfit { field, why: error.to_string() }
}

fn nothing() -> Obstacle {
    Obstacle::Refused { why: "what it is made of was not handed over".to_owned() }
}

fn pem(der: &[u8]) -> String {
    x509_pem("CERTIFICATE", der)
}

fn digest_of(text: &str) -> String {
    Fingerprint::of_public(text.as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
