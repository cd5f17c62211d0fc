//! The conflicts of trees against those of maps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proptest::prelude::*;

use super::{State, room::conflicted_numbers};
use crate::{
    resolve::conflicts,
    state::{Node, NodeId, RoomHashKey, Root, Step, update},
};

fn any_states() -> impl Strategy<Value = Vec<State>> {
    let base = prop::collection::btree_map(0..120_u32, 0..1_000_u32, 0..100);
    let change = prop::collection::vec((0..130_u32, prop::option::of(1_000..2_000_u32)), 0..6);
    (base, prop::collection::vec(change, 1..5)).prop_map(|(base, changes)| {
        let state = |changes: &Vec<(u32, Option<u32>)>| {
            let mut state = base.clone();
            for (key, number) in changes {
                match number {
                    Some(number) => state.insert(*key, *number),
                    None => state.remove(key),
                };
            }
            // A number names one event and so one key.
            let entry = |(key, number): (u32, u32)| {
                (("t".to_owned(), key.to_string()), number.wrapping_mul(1_000) + key)
            };
            state.into_iter().map(entry).collect()
        };
        changes.iter().map(state).collect()
    })
}

fn plant(states: &[State], nodes: &mut HashMap<NodeId, Arc<Node>>) -> Vec<Root> {
    let hasher = RoomHashKey::new([5; 32]);
    let mut roots = Vec::new();
    for state in states {
        let changes: Vec<_> =
            state.iter().map(|((kind, key), number)| (hasher.entry_key(kind, key), Some(*number))).collect();
        let none = |_: NodeId| None;
        let Step::Done(updated) = update(Root::EMPTY, &changes, &hasher, &none) else {
            panic!("nothing to fetch")
        };
        for (id, bytes) in &updated.new_nodes {
            nodes.insert(*id, Arc::new(Node::decode(bytes).unwrap()));
        }
        roots.push(updated.root);
    }
    roots
}

proptest! {
    #[test]
    fn conflicts_of_trees_are_those_of_maps(states in any_states()) {
        let mut all = HashMap::new();
        let roots = plant(&states, &mut all);
        let mut at_hand: BTreeMap<NodeId, Arc<Node>> = BTreeMap::new();
        let found = loop {
            match conflicts(&roots, &|id: NodeId| at_hand.get(&id).cloned()) {
                Step::Done(found) => break found,
                Step::Need(ids) => at_hand.extend(ids.into_iter().map(|id| (id, all[&id].clone()))),
                Step::Corrupt(id) => panic!("corrupt {id:?}"),
            }
        };
        prop_assert_eq!(found, conflicted_numbers(&states.iter().collect::<Vec<_>>()));
    }
}

#[test]
fn equal_states_have_no_conflicts_and_are_not_read() {
    let mut nodes = HashMap::new();
    let state: State = [(("t".to_owned(), String::new()), 7)].into();
    let root = plant(&[state], &mut nodes)[0];
    let nothing = |_: NodeId| None;
    let Step::Done(sets) = conflicts(&[root, root, root], &nothing) else { panic!("nothing to fetch") };
    assert!(sets.len() == 3 && sets.iter().all(roaring::RoaringBitmap::is_empty));
    assert_eq!(conflicts(&[], &nothing), Step::Done(Vec::new()));
}
