//! Where in one buffer values lie that are needed at different times.

use std::ops::{Range, RangeInclusive};

/// Most floats that an activation, or all of them, can have.
pub(super) const MAX_FLOATS: usize = isize::MAX as usize / size_of::<f32>();

/// Floats of a value, and the steps from the one that writes it to the last that reads it.
pub(super) struct Life {
    pub len: usize,
    pub steps: RangeInclusive<usize>,
}

/// Floats that places are multiples of: a cache line.
const LINE: usize = 16;

/// Places values so that those alive at the same step do not overlap: the largest first, each where it fits lowest.
///
/// `None` if memory could not hold them.
pub(super) fn place(lives: &[Life]) -> Option<Vec<Range<usize>>> {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&v| usize::MAX - lives[v].len);
    let mut places = vec![0..0; lives.len()];
    for (placed, &value) in order.iter().enumerate() {
        let Life { len, steps } = &lives[value];
        let meets =
            |other: &RangeInclusive<usize>| other.start() <= steps.end() && steps.start() <= other.end();
        let mut taken: Vec<Range<usize>> = order[..placed]
            .iter()
            .filter(|&&other| meets(&lives[other].steps))
            .map(|&other| places[other].clone())
            .collect();
        taken.sort_by_key(|t| t.start);
        let mut start = 0;
        for t in taken {
            if start + len <= t.start {
                break;
            }
            start = start.max(t.end.next_multiple_of(LINE));
        }
        let end = start.checked_add(*len).filter(|&end| end <= MAX_FLOATS - LINE)?;
        places[value] = start..end;
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_that_meet_lie_apart_on_cache_lines(
            lives in proptest::collection::vec((1..1000_usize, 0..12_usize, 0..6_usize), 1..30),
        ) {
            let lives: Vec<Life> =
                lives.into_iter().map(|(len, from, more)| Life { len, steps: from..=from + more }).collect();
            let places = place(&lives).unwrap();
            for (i, (place, life)) in places.iter().zip(&lives).enumerate() {
                prop_assert_eq!(place.len(), life.len);
                prop_assert_eq!(place.start % LINE, 0);
                for (other, with) in places.iter().zip(&lives).skip(i + 1) {
                    let meet = life.steps.clone().any(|step| with.steps.contains(&step));
                    let apart = place.end <= other.start || other.end <= place.start;
                    prop_assert!(!meet || apart, "{place:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_not_needed_at_the_same_time_takes_the_same_place() {
        let lives = [(64, 0..=1), (32, 1..=2), (32, 1..=3), (64, 4..=5)];
        let lives = lives.map(|(len, steps)| Life { len, steps });
        assert_eq!(place(&lives).unwrap(), [0..64, 64..96, 96..128, 0..64]);
        let huge = [0..=1, 1..=2].map(|steps| Life { len: MAX_FLOATS / 2, steps });
        assert_eq!(place(&huge), None);
    }
}
