//! What the check keeps of every event while it looks at a room.

use std::collections::{BTreeMap, HashSet};

use allod_storage::Position;

use crate::{
    numbers::{EventNumber, UserNumber},
    tables::rooms::{EventStatus, StateRoot},
};

/// What is kept of an event.
#[expect(clippy::struct_excessive_bools, reason = "these are facts that do not depend on each other")]
#[derive(Clone, Debug)]
pub(super) struct Fact {
    pub(super) event_id: String,
    pub(super) position: Position,
    pub(super) status: EventStatus,
    /// Whether clients see it, if they may.
    pub(super) shown: bool,
    /// Whether the states around it are known.
    pub(super) has_state: bool,
    pub(super) is_state: bool,
    pub(super) sender: UserNumber,
    pub(super) depth: u64,
    pub(super) origin_server_ts: u64,
    pub(super) before: StateRoot,
    pub(super) after: StateRoot,
    /// Those of its parents that are here.
    pub(super) parents: Vec<EventNumber>,
    /// Whether the state before it was computed from all its parents.
    pub(super) complete: bool,
}

/// All events of a room.
#[derive(Debug, Default)]
pub(super) struct Facts {
    facts: BTreeMap<EventNumber, Fact>,
    /// Those that the order of arrival has.
    arrived: HashSet<EventNumber>,
}

impl Facts {
    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    pub(super) fn insert(&mut self, number: EventNumber, fact: Fact) {
        self.facts.insert(number, fact);
    }

    pub(super) fn get(&self, number: EventNumber) -> Option<&Fact> {
        self.facts.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: EventNumber) -> Option<&mut Fact> {
        self.facts.get_mut(&number)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (EventNumber, &Fact)> {
        self.facts.iter().map(|(number, fact)| (*number, fact))
    }

    pub(super) fn newest(&self) -> Option<EventNumber> {
        self.facts.last_key_value().map(|(number, _)| *number)
    }

    /// Whether this event is shown to clients, if they may see it.
    pub(super) fn is_shown(&self, number: EventNumber) -> bool {
        self.get(number).is_some_and(|fact| fact.shown)
    }

    /// Notes that the order of arrival has it; whether that is new.
    pub(super) fn arrive(&mut self, number: EventNumber) -> bool {
        self.arrived.insert(number)
    }

    pub(super) fn has_arrived(&self, number: EventNumber) -> bool {
        self.arrived.contains(&number)
    }

    /// Events with state, parents first.
    pub(super) fn by_depth(&self) -> Vec<EventNumber> {
        let mut order: Vec<_> = self
            .iter()
            .filter(|(_, fact)| fact.has_state)
            .map(|(number, fact)| (fact.depth, number))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, number)| number).collect()
    }

    /// Accepted events that arrived and that no accepted one comes after, directly or through refused ones.
    pub(super) fn leaves(&self) -> Vec<EventNumber> {
        let accepted = |fact: &Fact| fact.status == EventStatus::Timeline;
        let mut covered = HashSet::new();
        for (_, fact) in self.iter().filter(|(_, fact)| accepted(fact)) {
            let mut stack = fact.parents.clone();
            while let Some(parent) = stack.pop() {
                let hidden = self.get(parent).filter(|fact| !accepted(fact));
                if covered.insert(parent)
                    && let Some(hidden) = hidden
                {
                    stack.extend(&hidden.parents);
                }
            }
        }
        let arrived = self.iter().filter(|(number, fact)| accepted(fact) && self.has_arrived(*number));
        arrived.map(|(number, _)| number).filter(|number| !covered.contains(number)).collect()
    }
}
