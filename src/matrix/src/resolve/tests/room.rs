//! A room in memory: events with their states, and both resolutions of any of those states.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use roaring::RoaringBitmap;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomVersionId, UserId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

use super::super::{AuthGraph, Need, Progress, Resolution, Vertex};
use crate::{
    auth::{auth_types, check_auth_events, check_state},
    event::Pdu,
};

/// A state of the room: event numbers by type and state key.
pub(super) type State = BTreeMap<(String, String), u32>;

/// An event of the room and what follows from it.
pub(super) struct Known {
    pub(super) pdu: Arc<Pdu>,
    pub(super) auth: Vec<u32>,
    /// All its ancestors in the auth graph.
    pub(super) chain: RoaringBitmap,
    /// The state after it.
    pub(super) after: Arc<State>,
}

/// An event to be made.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) id: String,
    pub(super) sender: &'static str,
    pub(super) kind: String,
    pub(super) state_key: Option<String>,
    pub(super) content: Value,
    pub(super) ts: u64,
    pub(super) prev: Vec<u32>,
    /// The events that it names as authorising it; those that it should name if `None`.
    pub(super) auth: Option<Vec<u32>>,
    /// Whether it goes into the state whatever the rules say.
    pub(super) forced: bool,
}

/// A room, its events numbered in the order of their arrival.
pub(super) struct Room {
    pub(super) rules: RoomVersionRules,
    version: String,
    /// The creator's server.
    server: String,
    pub(super) events: Vec<Known>,
    numbers: HashMap<OwnedEventId, u32>,
    referrers: Vec<Vec<u32>>,
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap()
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

impl Room {
    pub(super) fn new(version: &str) -> Self {
        Self {
            rules: RoomVersionId::try_from(version).unwrap().rules().unwrap(),
            version: version.to_owned(),
            server: String::new(),
            events: Vec::new(),
            numbers: HashMap::new(),
            referrers: Vec::new(),
        }
    }

    pub(super) fn has_create_in_auth_events(&self) -> bool {
        !self.rules.authorization.room_create_event_id_as_room_id
    }

    fn room_id(&self) -> OwnedRoomId {
        if self.has_create_in_auth_events() {
            format!("!room:{}", self.server).try_into().unwrap()
        } else {
            "!create".try_into().unwrap()
        }
    }

    pub(super) fn event(&self, number: u32) -> &Known {
        &self.events[index(number)]
    }

    /// Adds the create event.
    pub(super) fn create(&mut self, creator: &'static str) -> u32 {
        self.server = creator.split_once(':').unwrap().1.to_owned();
        let create = self.add(&New {
            id: "$create".to_owned(),
            sender: creator,
            kind: "m.room.create".to_owned(),
            state_key: Some(String::new()),
            content: json!({"room_version": self.version, "creator": creator}),
            ts: 0,
            prev: Vec::new(),
            auth: Some(Vec::new()),
            forced: false,
        });
        assert!(!self.event(create).pdu.rejected);
        create
    }

    /// Adds an event as a server that receives it would.
    pub(super) fn add(&mut self, new: &New) -> u32 {
        let before = self.state_before(&new.prev);
        self.add_after(new, &before)
    }

    /// As [`Room::add`], with the state before it.
    pub(super) fn add_after(&mut self, new: &New, before: &State) -> u32 {
        let auth = new.auth.clone().unwrap_or_else(|| self.auth_events(new, before));
        let mut pdu = self.parse(new, &auth);
        pdu.rejected = !self.is_allowed(&pdu, &auth, before);
        let mut after = before.clone();
        if let Some(state_key) = pdu.state_key.clone()
            && (new.forced || !pdu.rejected)
        {
            after.insert((pdu.kind.clone(), state_key), number(self.events.len()));
        }
        let mut chain = RoaringBitmap::new();
        for auth_event in &auth {
            chain |= &self.event(*auth_event).chain;
            chain.insert(*auth_event);
        }
        self.push(Known { pdu: Arc::new(pdu), auth, chain, after: Arc::new(after) })
    }

    /// Adds an event that nobody checks, and only for our own resolution.
    pub(super) fn add_unchecked(&mut self, new: &New, after: &State) -> u32 {
        let auth = new.auth.clone().unwrap_or_default();
        let pdu = Arc::new(self.parse(new, &auth));
        self.push(Known { pdu, auth, chain: RoaringBitmap::new(), after: Arc::new(after.clone()) })
    }

    fn push(&mut self, known: Known) -> u32 {
        let added = number(self.events.len());
        for auth_event in known.auth.iter().filter(|_| known.pdu.is_state()) {
            self.referrers[index(*auth_event)].push(added);
        }
        self.numbers.insert(known.pdu.event_id.clone(), added);
        self.referrers.push(Vec::new());
        self.events.push(known);
        added
    }

    fn parse(&self, new: &New, auth: &[u32]) -> Pdu {
        let ids = |numbers: &[u32]| -> Vec<String> {
            numbers.iter().map(|number| self.event(*number).pdu.event_id.to_string()).collect()
        };
        let mut json = json!({
            "type": new.kind, "sender": new.sender, "content": new.content, "origin_server_ts": new.ts,
            "prev_events": ids(&new.prev), "auth_events": ids(auth), "depth": 1,
            "room_id": self.room_id(),
        });
        if new.kind == "m.room.create" && !self.has_create_in_auth_events() {
            json.as_object_mut().unwrap().remove("room_id");
        }
        if let Some(state_key) = &new.state_key {
            json["state_key"] = json!(state_key);
        }
        let id = new.id.as_str().try_into().unwrap();
        Pdu::parse(json.to_string().as_bytes(), id, &self.room_id(), &self.rules).unwrap()
    }

    /// The events that should authorise a new one.
    pub(super) fn auth_events(&self, new: &New, state: &State) -> Vec<u32> {
        let content = serde_json::value::to_raw_value(&new.content).unwrap();
        let sender = UserId::parse(new.sender).unwrap();
        auth_types(&new.kind, &sender, new.state_key.as_deref(), &content, &self.rules.authorization)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(kind, key)| state.get(&(kind.to_string(), key)).copied())
            .collect()
    }

    /// Whether the rules allow an event by what it names and by the state before it.
    fn is_allowed(&self, pdu: &Pdu, auth: &[u32], before: &State) -> bool {
        let rules = &self.rules.authorization;
        let fetch = |id: &ruma::EventId| self.numbers.get(id).map(|number| self.event(*number).pdu.clone());
        let named = |kind: &StateEventType, key: &str| {
            let create = (*kind == StateEventType::RoomCreate).then_some(0);
            let is = |number: &u32| self.event(*number).pdu.is(&kind.to_string(), key);
            let number = auth.iter().copied().find(is).or(create)?;
            Some(self.events.get(index(number))?.pdu.clone())
        };
        let state = |kind: &StateEventType, key: &str| {
            let number = before.get(&(kind.to_string(), key.to_owned()))?;
            Some(self.event(*number).pdu.clone())
        };
        check_auth_events(rules, pdu, fetch).is_ok()
            && check_state(rules, pdu, named).is_ok()
            && check_state(rules, pdu, state).is_ok()
    }

    /// The state before an event that follows these, as ruma resolves it. Where ruma gives up,
    /// which it does for malformed power levels, the first.
    pub(super) fn state_before(&self, prev: &[u32]) -> Arc<State> {
        match prev {
            [] => Arc::default(),
            [only] => self.event(*only).after.clone(),
            several => {
                let states: Vec<_> = several.iter().map(|number| &*self.event(*number).after).collect();
                self.resolve_by_ruma(&states).map_or_else(|| self.event(several[0]).after.clone(), Arc::new)
            }
        }
    }

    /// What ruma makes of these states; `None` where it gives up.
    pub(super) fn resolve_by_ruma(&self, states: &[&State]) -> Option<State> {
        let id = |number: u32| self.event(number).pdu.event_id.clone();
        let maps: Vec<StateMap<OwnedEventId>> = states
            .iter()
            .map(|state| {
                let entry = |((kind, key), number): (&(String, String), &u32)| {
                    ((StateEventType::from(kind.as_str()), key.clone()), id(*number))
                };
                state.iter().map(entry).collect()
            })
            .collect();
        let chains = states
            .iter()
            .map(|state| self.chain_of(state.values().copied()).into_iter().map(id).collect())
            .collect();
        let resolved = state_res::resolve(
            &self.rules.authorization,
            self.rules.state_res.v2_rules().unwrap(),
            &maps,
            chains,
            |id| self.numbers.get(id).map(|number| self.event(*number).pdu.clone()),
            |conflicted| Some(self.subgraph(conflicted)),
        );
        let entry = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            ((kind.to_string(), key), self.numbers[&id])
        };
        Some(resolved.ok()?.into_iter().map(entry).collect())
    }

    /// Events and all their ancestors.
    fn chain_of(&self, numbers: impl Iterator<Item = u32>) -> RoaringBitmap {
        let mut chain = RoaringBitmap::new();
        for number in numbers {
            if chain.insert(number) {
                chain |= &self.event(number).chain;
            }
        }
        chain
    }

    /// The conflicted state subgraph by its definition: what has a conflicted event among its
    /// ancestors and among its descendants.
    fn subgraph(&self, conflicted: &StateMap<Vec<OwnedEventId>>) -> EventIdSet<OwnedEventId> {
        let conflicted: RoaringBitmap = conflicted.values().flatten().map(|id| self.numbers[id]).collect();
        let mut between = EventIdSet::new();
        for number in self.chain_of(conflicted.iter()) {
            let event = self.event(number);
            if conflicted.contains(number) || !event.chain.is_disjoint(&conflicted) {
                between.insert(event.pdu.event_id.clone());
            }
        }
        between
    }

    /// The full conflicted set by its definition, from the chains of whole states.
    fn full_conflicted_set(&self, states: &[&State]) -> RoaringBitmap {
        let conflicted =
            conflicted_numbers(states).into_iter().fold(RoaringBitmap::new(), |all, set| all | set);
        if conflicted.is_empty() {
            return conflicted;
        }
        let chains: Vec<_> = states.iter().map(|state| self.chain_of(state.values().copied())).collect();
        let some = chains.iter().fold(RoaringBitmap::new(), |some, chain| some | chain);
        let all = chains.iter().fold(some.clone(), |all, chain| all & chain);
        let mut full = (some - all) | &conflicted;
        if self.rules.state_res.v2_rules().unwrap().consider_conflicted_state_subgraph {
            let is_between = |number: &u32| !self.event(*number).chain.is_disjoint(&conflicted);
            full.extend(self.chain_of(conflicted.iter()).into_iter().filter(is_between));
        }
        full
    }

    /// What we make of these states, by a caller that renames every number `n` to `names[n]`.
    pub(super) fn resolve_renamed(&self, states: &[&State], names: &[u32], bytes_max: usize) -> State {
        let sets = conflicted_numbers(states)
            .into_iter()
            .map(|set| set.into_iter().map(|number| names[index(number)]).collect())
            .collect();
        let mut graph = AuthGraph::new(bytes_max);
        let mut resolution = Resolution::new(&self.rules, names[0], sets).unwrap();
        let back = back(names);
        let supplier = Supplier { room: self, states, names, back: &back };
        let (changes, _) = run(&mut resolution, &mut graph, &supplier);
        let full = resolution.full_conflicted_set().iter().map(|number| back[index(number)]);
        assert_eq!(full.collect::<RoaringBitmap>(), self.full_conflicted_set(states), "full conflicted set");
        let results: HashSet<State> = states
            .iter()
            .map(|state| {
                let mut state = (*state).clone();
                for change in &changes {
                    let key = (change.kind.clone(), change.state_key.clone());
                    match change.winner {
                        Some(winner) => state.insert(key, back[index(winner)]),
                        None => state.remove(&key),
                    };
                }
                state
            })
            .collect();
        assert_eq!(results.len(), 1, "the changes make the same of every state");
        results.into_iter().next().unwrap()
    }

    /// What we make of these states.
    pub(super) fn resolve(&self, states: &[&State]) -> State {
        let names: Vec<u32> = (0..number(self.events.len())).collect();
        self.resolve_renamed(states, &names, 1 << 20)
    }
}

/// For each state the numbers that not all have under the same key.
pub(super) fn conflicted_numbers(states: &[&State]) -> Vec<RoaringBitmap> {
    let is_shared =
        |key: &(String, String), number: &u32| states.iter().all(|state| state.get(key) == Some(number));
    states
        .iter()
        .map(|state| state.iter().filter(|(key, number)| !is_shared(key, number)).map(|(_, n)| *n).collect())
        .collect()
}

/// Answers what a resolution asks.
pub(super) struct Supplier<'a> {
    pub(super) room: &'a Room,
    pub(super) states: &'a [&'a State],
    pub(super) names: &'a [u32],
    pub(super) back: &'a [u32],
}

/// The numbers by their names, which are a permutation.
pub(super) fn back(names: &[u32]) -> Vec<u32> {
    let mut back = vec![0; names.len()];
    for (old, new) in names.iter().enumerate() {
        back[index(*new)] = number(old);
    }
    back
}

/// How much a resolution asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) rounds: usize,
    pub(super) vertices: usize,
    pub(super) events: usize,
    pub(super) referrers: usize,
    pub(super) state: usize,
}

/// Runs a resolution to its end, and sees that it asks for nothing twice.
pub(super) fn run(
    resolution: &mut Resolution,
    graph: &mut AuthGraph,
    supplier: &Supplier<'_>,
) -> (Vec<super::super::Change>, Asked) {
    let mut asked = Asked::default();
    let mut seen = HashSet::new();
    loop {
        let need = match resolution.step(graph) {
            Progress::Done(changes) => return (changes, asked),
            Progress::Corrupt(number) => panic!("event {number} is taken for damaged"),
            Progress::Need(need) => need,
        };
        assert_ne!(need, Need::default(), "stuck");
        asked.rounds += 1;
        asked.vertices += need.vertices.len();
        asked.events += need.events.len();
        asked.referrers += need.referrers.len();
        asked.state += need.state.len();
        for (what, number) in (need.vertices.iter().map(|n| (0, *n)))
            .chain(need.events.iter().map(|n| (1, *n)))
            .chain(need.referrers.iter().map(|n| (2, *n)))
        {
            assert!(seen.insert((what, number)), "asked twice for {what} {number}");
        }
        supplier.supply(&need, resolution, graph);
    }
}

impl Supplier<'_> {
    fn supply(&self, need: &Need, resolution: &mut Resolution, graph: &mut AuthGraph) {
        let name = |number: &u32| self.names[index(*number)];
        let old = |name: &u32| self.back[index(*name)];
        for number in &need.vertices {
            let event = self.room.event(old(number));
            let vertex = Vertex {
                kind: event.pdu.kind.clone(),
                state_key: event.pdu.state_key.clone(),
                auth_events: event.auth.iter().map(name).collect(),
            };
            graph.insert(*number, vertex);
        }
        for number in &need.events {
            resolution.supply_event(*number, self.room.event(old(number)).pdu.clone());
        }
        for number in &need.referrers {
            let referrers = &self.room.referrers[index(old(number))];
            resolution.supply_referrers(*number, referrers.iter().map(name).collect());
        }
        // Any of the states will do, so take them in turn.
        for ((kind, key), state) in need.state.iter().zip(self.states.iter().cycle()) {
            let found = state.get(&(kind.to_string(), key.clone())).map(name);
            resolution.supply_state(kind.clone(), key.clone(), found);
        }
    }
}
