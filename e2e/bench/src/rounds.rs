//! Rounds that were left in peace: others on the machine are measured too, and what they disturbed is
//! repeated, as long as that does not go on forever.

use std::future::Future;

use anyhow::Result;

/// The share of both cores that others may have. The work of the kernel for nobody in particular, such
/// as waking a core, counts among it.
pub const NOISE: f64 = 0.05;

/// One round.
pub struct Round<T> {
    pub value: T,
    /// The share that others had, at worst.
    pub foreign: f64,
}

/// The rounds that count.
#[derive(Clone, Debug)]
pub struct Rounds<T> {
    pub values: Vec<T>,
    /// How many of them were disturbed all the same.
    pub noisy: usize,
    /// How many were repeated.
    pub dropped: usize,
}

/// Runs `wanted` rounds, and up to half as many again in place of disturbed ones. The quietest count.
pub async fn quiet<T, F>(wanted: usize, mut round: impl FnMut() -> F) -> Result<Rounds<T>>
where
    F: Future<Output = Result<Round<T>>>,
{
    let mut rounds = Vec::new();
    let mut undisturbed = 0;
    while undisturbed < wanted && rounds.len() < wanted + wanted.div_ceil(2) {
        let round = round().await?;
        undisturbed += usize::from(round.foreign <= NOISE);
        rounds.push(round);
    }
    rounds.sort_by(|a, b| a.foreign.total_cmp(&b.foreign));
    let dropped = rounds.len().saturating_sub(wanted);
    rounds.truncate(wanted);
    let noisy = rounds.iter().filter(|round| round.foreign > NOISE).count();
    Ok(Rounds { values: rounds.into_iter().map(|round| round.value).collect(), noisy, dropped })
}

impl<T> Rounds<T> {
    pub fn each<U>(&self, read: impl Fn(&T) -> U) -> Rounds<U> {
        Rounds { values: self.values.iter().map(read).collect(), noisy: self.noisy, dropped: self.dropped }
    }
}

impl<T> From<Vec<T>> for Rounds<T> {
    /// Rounds that nobody can disturb.
    fn from(values: Vec<T>) -> Self {
        Self { values, noisy: 0, dropped: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rounds(wanted: usize, foreign: &[f64]) -> Rounds<usize> {
        let mut next = foreign.iter().enumerate();
        let round = || {
            let (value, foreign) = next.next().expect("no more rounds than the bound allows");
            std::future::ready(Ok(Round { value, foreign: *foreign }))
        };
        quiet(wanted, round).await.unwrap()
    }

    #[tokio::test]
    async fn disturbed_rounds_are_repeated_and_do_not_count() {
        let rounds = rounds(2, &[0.0, 0.9, 0.01]).await;
        assert_eq!((rounds.values, rounds.noisy, rounds.dropped), (vec![0, 2], 0, 1));
    }

    #[tokio::test]
    async fn on_a_machine_without_rest_the_quietest_count_and_are_called_noisy() {
        let rounds = rounds(4, &[0.5, 0.4, 0.3, 0.01, 0.2, 0.6]).await;
        assert_eq!((rounds.values, rounds.noisy, rounds.dropped), (vec![3, 4, 2, 1], 3, 2));
    }
}
