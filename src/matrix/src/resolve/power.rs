//! Power events and their reverse topological power ordering.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    sync::Arc,
};

use roaring::RoaringBitmap;
use ruma::{
    events::room::{member::MembershipState, power_levels::UserPowerLevel},
    int,
    room_version_rules::AuthorizationRules,
};

use super::view::Given;
use crate::{event::Pdu, power::Powers};

/// The power events of the full conflicted set and, of that set, their ancestors: by number, with
/// those of their auth events that are in the set too.
type PowerGraph = BTreeMap<u32, Vec<u32>>;

/// Power events and what they rest on, earliest first.
pub(super) fn power_ordering(
    full: &RoaringBitmap,
    create: &Pdu,
    rules: &AuthorizationRules,
    given: &Given,
) -> Vec<u32> {
    let graph = power_graph(full, given);
    let mut senders = Senders { create, rules, given, powers: HashMap::new() };
    let mut named_by: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut open_references: HashMap<u32, usize> = HashMap::new();
    let mut ready = BinaryHeap::new();
    for (number, references) in &graph {
        if references.is_empty() {
            ready.extend(senders.rank(*number));
        }
        open_references.insert(*number, references.len());
        for reference in references {
            named_by.entry(*reference).or_default().push(*number);
        }
    }
    // Kahn's algorithm; of what could come next the highest-ranking event does.
    let mut ordered = Vec::with_capacity(graph.len());
    while let Some(Reverse((.., number))) = ready.pop() {
        ordered.push(number);
        for descendant in named_by.get(&number).into_iter().flatten() {
            let Some(open) = open_references.get_mut(descendant) else { continue };
            *open = open.saturating_sub(1);
            if *open == 0 {
                ready.extend(senders.rank(*descendant));
            }
        }
    }
    ordered
}

fn power_graph(full: &RoaringBitmap, given: &Given) -> PowerGraph {
    let is_power = |number: &u32| given.events.get(number).is_some_and(|event| is_power_event(event));
    let mut stack: Vec<u32> = full.iter().filter(is_power).collect();
    let mut graph = PowerGraph::new();
    while let Some(number) = stack.pop() {
        if graph.contains_key(&number) {
            continue;
        }
        let vertex = given.vertices.get(&number);
        let mut references: Vec<u32> = vertex
            .into_iter()
            .flat_map(|vertex| &vertex.auth_events)
            .copied()
            .filter(|reference| full.contains(*reference))
            .collect();
        references.sort_unstable();
        references.dedup();
        stack.extend(references.iter().filter(|reference| !graph.contains_key(reference)));
        graph.insert(number, references);
    }
    graph
}

/// Whether an event may take somebody's ability to do something (§Definitions, power events).
fn is_power_event(event: &Pdu) -> bool {
    match event.kind.as_str() {
        "m.room.power_levels" | "m.room.join_rules" | "m.room.create" => {
            event.state_key.as_deref() == Some("")
        }
        "m.room.member" => {
            matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban))
                && event.state_key.as_deref() != Some(event.sender.as_str())
        }
        _ => false,
    }
}

/// What an event is ranked by; the least comes first.
type Rank = Reverse<(Reverse<UserPowerLevel>, ruma::MilliSecondsSinceUnixEpoch, ruma::OwnedEventId, u32)>;

/// The power of the senders of events, by the power levels that the events name.
struct Senders<'a> {
    create: &'a Pdu,
    rules: &'a AuthorizationRules,
    given: &'a Given,
    powers: HashMap<Option<u32>, Powers>,
}

impl Senders<'_> {
    fn rank(&mut self, number: u32) -> Option<Rank> {
        let event = self.given.events.get(&number)?;
        let named = self.power_levels(number);
        let powers = self
            .powers
            .entry(named.as_ref().map(|(number, _)| *number))
            .or_insert_with(|| Powers::new(self.create, named.map(|(_, levels)| levels), self.rules));
        // Malformed levels are refused wherever they are checked, so this is for old damage only.
        let power = powers.of(&event.sender).unwrap_or_else(|| int!(0).into());
        Some(Reverse((Reverse(power), event.origin_server_ts, event.event_id.clone(), number)))
    }

    /// The power levels that an event names in `auth_events`.
    fn power_levels(&self, number: u32) -> Option<(u32, Arc<Pdu>)> {
        let vertex = self.given.vertices.get(&number)?;
        vertex.auth_events.iter().find_map(|auth_event| {
            let event = self.given.events.get(auth_event)?;
            event.is("m.room.power_levels", "").then(|| (*auth_event, event.clone()))
        })
    }
}
