//! What the operations of the cryptographic resources cost, beside those of OpenSSL on the same core.

use std::{collections::BTreeMap, hint::black_box, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use trellis_crypto::{KemAlgorithm, SignatureAlgorithm, kem, signature};

use crate::{
    clock,
    cores::Cores,
    figure::{Figure, Report, Target},
    plan::Plan,
    rounds::{self, Round, Rounds},
    usage::Watch,
};

const KEMS: [KemAlgorithm; 2] = [KemAlgorithm::MlKem768, KemAlgorithm::MlKem1024];
const SIGNATURES: [SignatureAlgorithm; 2] = [SignatureAlgorithm::MlDsa65, SignatureAlgorithm::MlDsa87];
/// In microseconds.
const KEM_TARGET: Target = Target::OursAtMost(1_000.0);
const SIGN_TARGET: Target = Target::OursAtMost(10_000.0);
const MESSAGE: &[u8] = &[7; 64];
/// Operations between two looks at the clock.
const BATCH: u32 = 16;

/// Microseconds of CPU, by algorithm and by OpenSSL's name of the operation.
type Costs = BTreeMap<(&'static str, &'static str), f64>;

pub async fn measure(openssl: Option<&Path>, cores: Cores, plan: &Plan, report: &mut Report) -> Result<()> {
    report.section("Cryptographic operations, and those of OpenSSL")?;
    if openssl.is_none() {
        report.section("OpenSSL is not here (`ci/openssl` builds it): nothing is compared with it")?;
    }
    let rounds: Rounds<(Costs, Option<Costs>)> = rounds::quiet(plan.rounds, || async {
        let watch = Watch::begin(cores, &[], &[std::process::id()])?;
        let ours = ours(plan.operation)?;
        let foreign = watch.end()?.foreign;
        Ok(Round { value: (ours, openssl.map(theirs).transpose()?), foreign })
    })
    .await?;
    let kems = KEMS.map(|algorithm| algorithm.name());
    for (algorithm, operation, name, target) in kems
        .iter()
        .flat_map(|name| {
            [
                (*name, "keygen", "make a key, and try it", Some(KEM_TARGET)),
                (*name, "encaps", "encapsulate", Some(KEM_TARGET)),
                (*name, "decaps", "decapsulate", Some(KEM_TARGET)),
            ]
        })
        .chain(SIGNATURES.map(|algorithm| algorithm.name()).iter().flat_map(|name| {
            [
                (*name, "keygen", "make a key, and try it", None),
                (*name, "signs", "sign", Some(SIGN_TARGET)),
                (*name, "verify", "verify", None),
            ]
        }))
    {
        let cost = |costs: &Costs| costs.get(&(algorithm, operation)).copied().unwrap_or(f64::NAN);
        let name = format!("{algorithm}: {name}");
        let figure = if openssl.is_some() {
            let pairs = rounds.each(|(ours, theirs)| (cost(ours), theirs.as_ref().map_or(f64::NAN, cost)));
            Figure::compare(&name, "us", &pairs)
        } else {
            Figure::alone(&name, "us", &rounds.each(|(ours, _)| cost(ours)))
        };
        report.add(target.into_iter().fold(figure, Figure::target))?;
    }
    Ok(())
}

fn ours(time: Duration) -> Result<Costs> {
    let mut costs = Costs::new();
    for algorithm in KEMS {
        let key = kem::PrivateKey::generate(algorithm)?;
        let made = key.public_key().encapsulate()?;
        let name = algorithm.name();
        costs.insert((name, "keygen"), each(time, || kem::PrivateKey::generate(algorithm))?);
        costs.insert((name, "encaps"), each(time, || key.public_key().encapsulate())?);
        costs.insert((name, "decaps"), each(time, || key.decapsulate(&made.ciphertext))?);
    }
    for algorithm in SIGNATURES {
        let key = signature::PrivateKey::generate(algorithm)?;
        let signed = key.sign(MESSAGE, b"")?;
        let name = algorithm.name();
        costs.insert((name, "keygen"), each(time, || signature::PrivateKey::generate(algorithm))?);
        costs.insert((name, "signs"), each(time, || key.sign(MESSAGE, b""))?);
        costs.insert((name, "verify"), each(time, || key.public_key().verify(MESSAGE, b"", &signed))?);
    }
    Ok(costs)
}

/// Microseconds of this thread for one, taken over so long.
fn each<T, E>(time: Duration, mut operation: impl FnMut() -> Result<T, E>) -> Result<f64>
where
    anyhow::Error: From<E>,
{
    let began = clock::thread_cpu();
    let mut done = 0;
    loop {
        for _ in 0..BATCH {
            black_box(operation()?);
        }
        done += BATCH;
        let used = clock::thread_cpu().saturating_sub(began);
        if used >= time {
            return Ok(used.as_secs_f64() * 1e6 / f64::from(done));
        }
    }
}

/// By `openssl speed`, which counts CPU time as well.
fn theirs(openssl: &Path) -> Result<Costs> {
    let names = KEMS.map(|algorithm| algorithm.name()).into_iter();
    let names = names.chain(SIGNATURES.map(|algorithm| algorithm.name()));
    let done = Command::new(openssl)
        .args(["speed", "-seconds", "1", "-mr"])
        .args(names.clone())
        .output()
        .with_context(|| format!("running {}", openssl.display()))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{} speed: {said}", openssl.display());
    let costs = costs_in(&said, &names.collect::<Vec<_>>());
    let all = 3 * (KEMS.len() + SIGNATURES.len());
    if costs.len() != all {
        bail!("{} speed told {} of {all} figures: {said}", openssl.display(), costs.len());
    }
    Ok(costs)
}

/// Two lines for each: `+DTP:ML-KEM-768:keygen:1` and, how many in how many seconds, `+R15:18777:ML-KEM-768:0.59`.
fn costs_in(said: &str, names: &[&'static str]) -> Costs {
    const OPERATIONS: [&str; 5] = ["keygen", "encaps", "decaps", "signs", "verify"];
    let mut costs = Costs::new();
    let mut announced = None;
    for line in said.lines() {
        let fields: Vec<_> = line.split(':').collect();
        match fields.as_slice() {
            ["+DTP", name, operation, _] => {
                let name = names.iter().find(|one| *one == name);
                announced = name.zip(OPERATIONS.into_iter().find(|one| one == operation));
            }
            [_, count, name, seconds] if line.starts_with("+R") => {
                let (count, seconds) = (count.parse::<f64>(), seconds.parse::<f64>());
                if let (Some((announced, operation)), Ok(count), Ok(seconds)) = (announced, count, seconds)
                    && announced == name
                    && count > 0.0
                {
                    costs.insert((announced, operation), seconds * 1e6 / count);
                }
            }
            _ => {}
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_openssl_says_is_read() {
        let said = "+DTP:ML-KEM-768:keygen:1\n+R15:20000:ML-KEM-768:0.50\n+DTP:ML-DSA-65:signs:1\n\
                    +R19:500:ML-DSA-65:1.00\n+DTP:ML-DSA-99:signs:1\n+R19:500:ML-DSA-99:1.00\n+R1:0:ML-KEM-768:0\n";
        let costs = costs_in(said, &["ML-KEM-768", "ML-DSA-65"]);
        let expected = [(("ML-KEM-768", "keygen"), 25.0), (("ML-DSA-65", "signs"), 2_000.0)];
        assert_eq!(costs, Costs::from(expected));
    }

    #[test]
    fn every_operation_is_measured() {
        let costs = ours(Duration::ZERO).unwrap();
        assert_eq!(costs.len(), 12);
        assert!(costs.values().all(|cost| *cost > 0.0), "{costs:?}");
    }
}
