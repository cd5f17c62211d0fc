//! What one resolution knows so far, what it misses, and walks through the auth graph.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use roaring::RoaringBitmap;
use ruma::events::StateEventType;

use super::graph::{AuthGraph, Vertex};
use crate::event::Pdu;

/// The name of a piece of state.
pub(super) type StateKey = (StateEventType, String);

/// What a resolution must be told before it can go on; never all empty, each thing once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Events whose place in the auth graph is wanted: [`AuthGraph::insert`].
    pub vertices: Vec<u32>,
    /// Events that are wanted whole: [`super::Resolution::supply_event`].
    pub events: Vec<u32>,
    /// Events of which it must be known which *state* events, of any status, name them in their
    /// `auth_events`: [`super::Resolution::supply_referrers`].
    pub referrers: Vec<u32>,
    /// State that is wanted, from any of the states that are resolved:
    /// [`super::Resolution::supply_state`].
    pub state: Vec<StateKey>,
}

/// What the caller supplied. Kept for the whole resolution, so that it ends also where the
/// [`AuthGraph`] is too small to remember what one resolution needs.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) vertices: HashMap<u32, Arc<Vertex>>,
    pub(super) events: HashMap<u32, Arc<Pdu>>,
    pub(super) referrers: HashMap<u32, Vec<u32>>,
    pub(super) state: HashMap<StateKey, Option<u32>>,
    /// Keys that are conflicted, for which the caller's answer about unconflicted state is void.
    pub(super) conflicted: HashSet<StateKey>,
}

/// Answers from what is at hand and notes what is missing.
pub(super) struct View<'a> {
    pub(super) given: &'a mut Given,
    pub(super) graph: &'a mut AuthGraph,
    vertices: BTreeSet<u32>,
    events: BTreeSet<u32>,
    referrers: BTreeSet<u32>,
    state: HashSet<StateKey>,
}

impl<'a> View<'a> {
    pub(super) fn new(given: &'a mut Given, graph: &'a mut AuthGraph) -> Self {
        Self {
            given,
            graph,
            vertices: BTreeSet::new(),
            events: BTreeSet::new(),
            referrers: BTreeSet::new(),
            state: HashSet::new(),
        }
    }

    /// What was missing so far.
    pub(super) fn need(self) -> Need {
        let mut state: Vec<StateKey> = self.state.into_iter().collect();
        state.sort_unstable_by(|(kind, key), (other_kind, other_key)| {
            (kind.to_string(), key).cmp(&(other_kind.to_string(), other_key))
        });
        Need {
            vertices: self.vertices.into_iter().collect(),
            events: self.events.into_iter().collect(),
            referrers: self.referrers.into_iter().collect(),
            state,
        }
    }

    /// An event's place in the auth graph.
    pub(super) fn vertex(&mut self, number: u32) -> Option<Arc<Vertex>> {
        let vertex = self.known_vertex(number);
        if vertex.is_none() {
            self.vertices.insert(number);
        }
        vertex
    }

    /// As [`View::vertex`], but does not ask for it.
    pub(super) fn known_vertex(&mut self, number: u32) -> Option<Arc<Vertex>> {
        if let Some(vertex) = self.given.vertices.get(&number) {
            return Some(vertex.clone());
        }
        let vertex = self.graph.vertex(number)?;
        self.given.vertices.insert(number, vertex.clone());
        Some(vertex)
    }

    /// The event.
    pub(super) fn event(&mut self, number: u32) -> Option<Arc<Pdu>> {
        let event = self.given.events.get(&number).cloned();
        if event.is_none() {
            self.events.insert(number);
        }
        event
    }

    /// The state events that name it in their `auth_events`.
    pub(super) fn referrers(&mut self, number: u32) -> Option<Vec<u32>> {
        let referrers = self.given.referrers.remove(&number);
        if referrers.is_none() {
            self.referrers.insert(number);
        }
        referrers
    }

    /// The unconflicted state under a key: `Some(None)` if there is none.
    #[expect(clippy::option_option, reason = "not known yet, and known not to exist")]
    pub(super) fn unconflicted(&mut self, key: &StateKey) -> Option<Option<u32>> {
        if self.given.conflicted.contains(key) {
            return Some(None);
        }
        let number = self.given.state.get(key).copied();
        if number.is_none() {
            self.state.insert(key.clone());
        }
        number
    }
}

/// The key that a state event sets.
pub(super) fn state_key(vertex: &Vertex) -> Option<StateKey> {
    Some((vertex.kind.as_str().into(), vertex.state_key.clone()?))
}

/// A walk from some events to all their ancestors in the auth graph. Iterative: chains of remote
/// events may be of any depth.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The events walked from and all ancestors, once the walk is done.
    pub(super) seen: RoaringBitmap,
    /// Seen, and their auth events are not.
    frontier: Vec<u32>,
}

impl Walk {
    /// A walk from several events.
    pub(super) fn from_events(events: &RoaringBitmap) -> Self {
        Self { seen: events.clone(), frontier: events.iter().collect() }
    }

    /// One more event to walk from.
    pub(super) fn start(&mut self, number: u32) {
        if self.seen.insert(number) {
            self.frontier.push(number);
        }
    }

    /// Walks as far as it can and asks for what is missing; whether it is done.
    pub(super) fn advance(&mut self, view: &mut View<'_>) -> bool {
        self.walk(view, true)
    }

    fn walk(&mut self, view: &mut View<'_>, asks: bool) -> bool {
        let mut waiting = Vec::new();
        while let Some(number) = self.frontier.pop() {
            if let Some(chain) = view.graph.chain(number) {
                self.seen |= &*chain;
                continue;
            }
            let vertex = if asks { view.vertex(number) } else { view.known_vertex(number) };
            if let Some(vertex) = vertex {
                for auth_event in &vertex.auth_events {
                    self.start(*auth_event);
                }
            } else {
                waiting.push(number);
            }
        }
        self.frontier = waiting;
        self.frontier.is_empty()
    }
}

/// Remembers the chains of the events that these name in `auth_events`, as far as their vertices
/// are at hand: others will name the same.
pub(super) fn remember_chains(events: &RoaringBitmap, view: &mut View<'_>) {
    /// More are not worth their memory: a hostile graph could make each of them long.
    const CHAINS_MAX: usize = 64;
    let mut cited = RoaringBitmap::new();
    for number in events {
        if let Some(vertex) = view.known_vertex(number) {
            cited.extend(vertex.auth_events.iter().copied());
        }
    }
    // In the order of numbers, which is mostly that of the graph: one chain is part of the next.
    for number in cited.into_iter().take(CHAINS_MAX) {
        if view.graph.chain(number).is_some() {
            continue;
        }
        let Some(vertex) = view.known_vertex(number) else { continue };
        let mut walk = Walk::default();
        for auth_event in &vertex.auth_events {
            walk.start(*auth_event);
        }
        if walk.walk(view, false) {
            view.graph.insert_chain(number, walk.seen);
        }
    }
}
