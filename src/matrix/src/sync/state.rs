//! Which state a sync tells besides the timeline.

use std::collections::BTreeMap;

use crate::state::{Difference, EntryKey};

/// Entries of a state by their key, as event numbers.
pub type Entries = BTreeMap<EntryKey, u32>;

/// The state to tell *before* the timeline, so that it and the timeline's state events together give the state at the
/// timeline's end.
///
/// `known_to_start` is what the client lacks at the timeline's start, and `start_to_end` what changed along the timeline.
/// What changed there and no event of the timeline that is shown says (it is filtered out, or state was resolved without
/// an event) is told too.
pub fn before_timeline(
    known_to_start: Entries,
    start_to_end: &[Difference],
    is_in_timeline: impl Fn(EntryKey) -> bool,
) -> Entries {
    let mut told = known_to_start;
    for difference in start_to_end.iter().filter(|difference| !is_in_timeline(difference.key)) {
        match difference.after {
            Some(event) => told.insert(difference.key, event),
            None => told.remove(&difference.key),
        };
    }
    told
}

/// What a difference adds or changes. What it takes away cannot be told.
pub fn changed(differences: &[Difference]) -> Entries {
    differences.iter().filter_map(|difference| Some((difference.key, difference.after?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: u8) -> EntryKey {
        EntryKey([name; 16])
    }

    fn difference(name: u8, before: Option<u32>, after: Option<u32>) -> Difference {
        Difference { key: key(name), before, after }
    }

    #[test]
    fn what_the_timeline_says_is_not_told_before_it() {
        let known = changed(&[
            difference(1, None, Some(10)),
            difference(2, Some(1), Some(11)),
            difference(3, Some(2), None),
        ]);
        assert_eq!(known, Entries::from([(key(1), 10), (key(2), 11)]));
        let along =
            [difference(1, Some(10), Some(20)), difference(4, None, Some(21)), difference(2, Some(11), None)];
        let told = before_timeline(known, &along, |key| key == EntryKey([1; 16]));
        assert_eq!(told, Entries::from([(key(1), 10), (key(4), 21)]));
    }
}
