//! One resolution from its conflicted state to the changes that it makes, step by step.

use std::{collections::BTreeMap, sync::Arc};

use roaring::RoaringBitmap;
use ruma::{
    events::StateEventType,
    room_version_rules::{AuthorizationRules, RoomVersionRules, StateResolutionV2Rules},
};

use super::{
    check::Checks,
    gather::gather,
    graph::AuthGraph,
    ground::Ground,
    mainline::Mainline,
    power::power_ordering,
    subgraph::Subgraph,
    view::{Given, Need, View, Walk, remember_chains, state_key},
};
use crate::event::Pdu;

/// What the resolved state has under a key that is conflicted, or that no state had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
    /// The event's number; `None` if the resolved state has nothing there.
    pub winner: Option<u32>,
}

/// How far a resolution got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is finished. The changes are in the order of their keys, and made to any of the states
    /// that were resolved they give the resolved state.
    Done(Vec<Change>),
    /// It must know these; each round goes at least one event further in the auth graph.
    Need(Need),
    /// This event is part of a state and not a state event: what is stored is damaged.
    Corrupt(u32),
}

/// A resolution of the states of one room.
///
/// ```text
/// let changes = loop {
///     match resolution.step(&mut graph) {
///         Progress::Done(changes) => break changes,
///         Progress::Need(need) => { /* fetch; graph.insert, resolution.supply_… */ }
///         Progress::Corrupt(number) => return Err(…),
///     }
/// };
/// ```
#[derive(Debug)]
pub struct Resolution {
    rules: AuthorizationRules,
    state_rules: StateResolutionV2Rules,
    create: u32,
    sets: Vec<RoaringBitmap>,
    /// The conflicted events, then the full conflicted set.
    full: RoaringBitmap,
    given: Given,
    phase: Phase,
    checks: Checks,
}

#[derive(Debug)]
enum Phase {
    /// Which keys are conflicted?
    Keys,
    /// What rests each set's conflicted state on?
    Reach(Vec<Walk>),
    /// Of what some sets reach, what is not in the unconflicted state's chain?
    Ground(Ground),
    /// Which events lie between conflicted events?
    Subgraph(Subgraph),
    /// Fetches the events, then orders and checks the power events.
    Power,
    /// Orders and checks the others.
    Others(Mainline),
    /// Reads the result off.
    Result,
}

impl Resolution {
    /// Begins to resolve states, given for each the numbers of its conflicted events
    /// ([`super::conflicts`]), and the number of the room's create event.
    ///
    /// `None` for room version 1, which has another algorithm.
    pub fn new(rules: &RoomVersionRules, create: u32, sets: Vec<RoaringBitmap>) -> Option<Self> {
        let state_rules = *rules.state_res.v2_rules()?;
        let falls_back = !state_rules.begin_iterative_auth_checks_with_empty_state_map;
        let full = sets.iter().fold(RoaringBitmap::new(), |all, set| all | set);
        Some(Self {
            rules: rules.authorization.clone(),
            state_rules,
            create,
            sets,
            full,
            given: Given::default(),
            phase: Phase::Keys,
            checks: Checks::new(rules.authorization.clone(), create, falls_back),
        })
    }

    /// Tells it an event, whose `rejected` says whether the rules refused it on receipt.
    pub fn supply_event(&mut self, number: u32, event: Arc<Pdu>) {
        self.given.events.insert(number, event);
    }

    /// Tells it which state events name an event in their `auth_events`.
    pub fn supply_referrers(&mut self, number: u32, referrers: Vec<u32>) {
        self.given.referrers.insert(number, referrers);
    }

    /// Tells it what any of the states has under a key. What is conflicted it leaves out itself.
    pub fn supply_state(&mut self, kind: StateEventType, state_key: String, number: Option<u32>) {
        self.given.state.insert((kind, state_key), number);
    }

    /// The full conflicted set, once the power events are applied.
    #[cfg(test)]
    pub(super) fn full_conflicted_set(&self) -> &RoaringBitmap {
        &self.full
    }

    /// Goes as far as it can with what it was told.
    pub fn step(&mut self, graph: &mut AuthGraph) -> Progress {
        let mut given = std::mem::take(&mut self.given);
        given.vertices.extend(graph.take_told());
        let mut view = View::new(&mut given, graph);
        let outcome = self.run(&mut view);
        let need = view.need();
        self.given = given;
        match outcome {
            Ok(Some(changes)) => Progress::Done(changes),
            Ok(None) => Progress::Need(need),
            Err(Corrupt(number)) => Progress::Corrupt(number),
        }
    }

    /// Phase after phase until one lacks something.
    fn run(&mut self, view: &mut View<'_>) -> Result<Option<Vec<Change>>, Corrupt> {
        if self.full.is_empty() {
            return Ok(Some(Vec::new()));
        }
        loop {
            let next = match &mut self.phase {
                Phase::Keys => note_conflicted_keys(&self.full, view)?
                    .then(|| Phase::Reach(self.sets.iter().map(Walk::from_events).collect())),
                Phase::Reach(walks) => {
                    let done = walks.iter_mut().fold(true, |done, walk| walk.advance(view) & done);
                    done.then(|| {
                        remember_chains(&self.full, view);
                        Phase::Ground(Ground::new(reached_by_some(walks, &self.full), &self.full))
                    })
                }
                Phase::Ground(ground) => ground.advance(view).map(|difference| {
                    let subgraph = Subgraph::new(&self.full);
                    self.full |= difference;
                    if self.state_rules.consider_conflicted_state_subgraph {
                        Phase::Subgraph(subgraph)
                    } else {
                        Phase::Power
                    }
                }),
                Phase::Subgraph(subgraph) => subgraph.advance(view).then(|| {
                    self.full |= subgraph.between();
                    Phase::Power
                }),
                Phase::Power => self.apply_power_events(view).map(Phase::Others),
                Phase::Others(mainline) => mainline.sort(view).and_then(|ordered| {
                    self.checks.apply(&ordered, view)?;
                    Some(Phase::Result)
                }),
                Phase::Result => return Ok(self.changes(view)),
            };
            match next {
                Some(next) => self.phase = next,
                None => return Ok(None),
            }
        }
    }

    /// Applies the power events; the mainline by which the others are ordered.
    fn apply_power_events(&mut self, view: &mut View<'_>) -> Option<Mainline> {
        let falls_back = !self.state_rules.begin_iterative_auth_checks_with_empty_state_map;
        if !gather(&self.full, self.create, falls_back.then_some(&self.rules), view) {
            return None;
        }
        let create = view.event(self.create)?;
        let ordered = power_ordering(&self.full, &create, &self.rules, view.given);
        self.checks.apply(&ordered, view)?;
        let remaining = &self.full - ordered.into_iter().collect::<RoaringBitmap>();
        let power_levels = (StateEventType::RoomPowerLevels, String::new());
        Some(Mainline::new(self.checks.state(&power_levels, view)?, remaining.into_iter().collect()))
    }

    /// What the resolved state has that the unconflicted state has not.
    fn changes(&self, view: &mut View<'_>) -> Option<Vec<Change>> {
        let mut changes = BTreeMap::new();
        for number in &self.full {
            let vertex = view.vertex(number)?;
            let Some(key) = state_key(&vertex) else { continue };
            let winner = self.checks.resolved.get(&key).copied();
            let is_conflicted = view.given.conflicted.contains(&key);
            if is_conflicted || (winner.is_some() && view.unconflicted(&key)?.is_none()) {
                changes.insert((vertex.kind.clone(), key.1), winner);
            }
        }
        let change = |((kind, state_key), winner)| Change { kind, state_key, winner };
        Some(changes.into_iter().map(change).collect())
    }
}

/// The number of an event that cannot be where it was found.
struct Corrupt(u32);

/// Notes the keys of the conflicted events; whether all are known.
fn note_conflicted_keys(conflicted: &RoaringBitmap, view: &mut View<'_>) -> Result<bool, Corrupt> {
    let mut complete = true;
    for number in conflicted {
        // The event itself will be needed too, and may as well come with the first batch.
        view.event(number);
        let Some(vertex) = view.vertex(number) else {
            complete = false;
            continue;
        };
        let key = state_key(&vertex).ok_or(Corrupt(number))?;
        view.given.conflicted.insert(key);
    }
    Ok(complete)
}

/// What some walks saw and not all, but for the conflicted events themselves.
fn reached_by_some(walks: &[Walk], conflicted: &RoaringBitmap) -> RoaringBitmap {
    let mut some = RoaringBitmap::new();
    let mut all: Option<RoaringBitmap> = None;
    for walk in walks {
        some |= &walk.seen;
        all = Some(all.map_or_else(|| walk.seen.clone(), |all| all & &walk.seen));
    }
    some - all.unwrap_or_default() - conflicted
}
