//! The conflicted part of several states, from their trees. It resolves nothing.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;

use crate::state::{EntryKey, NodeSource, Root, Step, diff};

/// For each state the event numbers that it has and not all have, in the order of the roots.
///
/// All are empty if the states are equal. A key that some states lack is conflicted in the others.
pub fn conflicts(roots: &[Root], nodes: &impl NodeSource) -> Step<Vec<RoaringBitmap>> {
    let Some((first, others)) = roots.split_first() else { return Step::Done(Vec::new()) };
    let mut needed = BTreeSet::new();
    let mut differences = Vec::with_capacity(others.len());
    for other in others {
        match diff(*first, *other, nodes) {
            Step::Done(difference) => differences.push(difference),
            Step::Need(ids) => needed.extend(ids),
            Step::Corrupt(id) => return Step::Corrupt(id),
        }
    }
    if !needed.is_empty() {
        return Step::Need(needed.into_iter().collect());
    }
    // What the first state has under the keys that differ anywhere.
    let base: BTreeMap<EntryKey, Option<u32>> =
        differences.iter().flatten().map(|difference| (difference.key, difference.before)).collect();
    let mut sets = vec![base.values().flatten().copied().collect::<RoaringBitmap>()];
    for difference in differences {
        let mut own = base.clone();
        own.extend(difference.into_iter().map(|difference| (difference.key, difference.after)));
        sets.push(own.into_values().flatten().collect());
    }
    Step::Done(sets)
}
