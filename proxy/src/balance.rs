//! Which endpoint of a Service takes the next connection: of two picked at random the one with fewer
//! connections of ours, so that a slow one fills up and is then left alone.

use rand::{Rng, RngExt};

/// Something that can be loaded.
pub trait Loaded {
    fn load(&self) -> usize;
}

/// Picks among `endpoints` without those in `tried`; `None` when none is left.
pub fn pick<T: Loaded>(endpoints: &[T], tried: &[usize], random: &mut impl Rng) -> Option<usize> {
    let left: Vec<usize> = (0..endpoints.len()).filter(|index| !tried.contains(index)).collect();
    let first = match left.len() {
        0 => return None,
        1 => return left.first().copied(),
        n => random.random_range(0..n),
    };
    // The second draw leaves the first one out, so that the two always differ.
    let second = (first + random.random_range(1..left.len())) % left.len();
    let (first, second) = (*left.get(first)?, *left.get(second)?);
    let lighter = endpoints.get(second)?.load() < endpoints.get(first)?.load();
    Some(if lighter { second } else { first })
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    impl Loaded for usize {
        fn load(&self) -> usize {
            *self
        }
    }

    #[test]
    fn the_heaviest_of_many_is_never_picked() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..1_000 {
            assert_ne!(pick(&[3, 9, 3], &[], &mut random), Some(1));
        }
    }

    #[test]
    fn equals_share_alike() {
        let mut random = StdRng::seed_from_u64(2);
        let mut counts = [0u32; 4];
        for _ in 0..4_000 {
            counts[pick(&[1usize, 1, 1, 1], &[], &mut random).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_was_tried_is_not_tried_again() {
        let mut random = StdRng::seed_from_u64(3);
        assert_eq!(pick(&[1usize, 1, 1], &[0, 2], &mut random), Some(1));
        assert_eq!(pick(&[1usize], &[0], &mut random), None);
        assert_eq!(pick::<usize>(&[], &[], &mut random), None);
    }
}
