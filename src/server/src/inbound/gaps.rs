//! Events that build on others which are not here: what is missing is fetched, within limits, and never in a room's task.
//!
//! First the events between what is here and what came are asked for. Where that does not reach, the newest missing
//! events are placed by the state that the other server states before them, every event of which is fetched and judged
//! by the room's rules first; what lies behind them stays a gap, which `super::repair` closes. An event that was sent to
//! this server must come with all that it directly follows, or waits: else whoever sends it decides what the room's state is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allod_matrix::auth::References;
use futures_util::{StreamExt, stream};
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::peers::{Peers, StateAt};
use crate::{
    clock::Clock,
    federation::{client::ClientError, verify::Verifier},
    rooms::{
        Room, Rooms,
        ingest::{Incoming, IngestError, IngestOutcome, Ingested, Missing, Placement, Verified},
    },
};

/// Requests that one repair makes.
const REQUESTS_MAX: u32 = 200;
/// Events that one repair fetches.
const EVENTS_MAX: usize = 20_000;
/// How long one repair may take.
const TIME_MS_MAX: u64 = 3 * 60_000;
/// Events asked for between two ends at once.
const GAP_EVENTS: u32 = 100;
/// A server that answers with fewer has no more to tell: others give no more than this at once.
const GAP_ANSWER_MIN: usize = 20;
/// How often a gap is asked about before it stays one.
const GAP_ROUNDS: usize = 10;
/// Missing events that are placed by a stated state.
const ANCHORS_MAX: usize = 10;
/// More events of a state than this are not fetched one by one.
const SINGLY_MAX: usize = 50;
/// Outliers handed in together.
const CHUNK_EVENTS: usize = 2_000;
/// Events fetched side by side.
const AT_ONCE: usize = 8;
/// Servers that are asked for the same.
const SERVERS_MAX: usize = 3;

/// What a repair may still spend.
struct Budget {
    requests: u32,
    events: usize,
    until_ms: u64,
    clock: Clock,
}

impl Budget {
    fn new(clock: &Clock) -> Self {
        let until_ms = clock.now_ms().saturating_add(TIME_MS_MAX);
        Self { requests: REQUESTS_MAX, events: EVENTS_MAX, until_ms, clock: clock.clone() }
    }

    /// Whether one more request may be made.
    fn ask(&mut self) -> bool {
        let may = self.requests > 0 && self.events > 0 && self.clock.now_ms() < self.until_ms;
        self.requests = self.requests.saturating_sub(1);
        may
    }

    /// Keeps of an answer what may be kept.
    fn keep<T>(&mut self, mut events: Vec<T>) -> Vec<T> {
        events.truncate(self.events);
        self.events = self.events.saturating_sub(events.len());
        events
    }
}

/// Brings events into rooms, with what they build on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gaps {
    rooms: Rooms,
    verifier: Verifier,
    peers: Arc<dyn Peers>,
    clock: Clock,
}

/// How far is gone for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeal {
    /// They came just now: what they directly follow must be had from between.
    New,
    /// They have waited, and whatever helps is asked for.
    Again,
}

/// What became of events and of what they build on.
#[derive(Debug, Default)]
pub struct Taken {
    /// Those that still miss something, and are not stored.
    pub lost: Vec<Verified>,
    /// Whether something was placed behind a gap.
    pub leaves_gap: bool,
}

/// One repair: whom it asks about which room, and what it may spend.
struct Repair<'a> {
    gaps: &'a Gaps,
    room: &'a Arc<Room>,
    server: OwnedServerName,
    budget: Budget,
    zeal: Zeal,
    /// Events that it brought, or that have their place through it.
    stored: usize,
    /// Whether some of them were placed behind a gap.
    leaves_gap: bool,
}

impl Gaps {
    /// Over rooms, and other servers to be asked.
    pub fn new(rooms: Rooms, verifier: Verifier, peers: Arc<dyn Peers>, clock: Clock) -> Self {
        Self { rooms, verifier, peers, clock }
    }

    /// Stores events that are new to a room, and what they build on as far as `origin`, or a server that sent one of
    /// them, has it. What still misses something is not stored.
    pub async fn take(
        &self,
        room: &Arc<Room>,
        origin: &ServerName,
        events: Vec<Verified>,
    ) -> Result<Taken, IngestError> {
        let answers = self.rooms.ingest(room, incoming(&events)).await?;
        if !answers.iter().any(is_missing) {
            return Ok(Taken::default());
        }
        let servers = self.helpers(origin, &events);
        let taken = self.fetch_for(room, &servers, events, Zeal::New).await?;
        if !taken.lost.is_empty() {
            let lost = taken.lost.len();
            tracing::info!(room_id = %room.room_id, %origin, lost, "events wait: what they build on is not to be had");
        }
        Ok(taken)
    }

    /// The same for events that have waited: any of these servers may help, and in any way.
    pub(super) async fn take_again(
        &self,
        room: &Arc<Room>,
        servers: &[OwnedServerName],
        events: Vec<Verified>,
    ) -> Result<Taken, IngestError> {
        let servers = servers.get(..SERVERS_MAX.min(servers.len())).unwrap_or_default();
        self.fetch_for(room, servers, events, Zeal::Again).await
    }

    async fn fetch_for(
        &self,
        room: &Arc<Room>,
        servers: &[OwnedServerName],
        events: Vec<Verified>,
        zeal: Zeal,
    ) -> Result<Taken, IngestError> {
        let (mut lost, mut leaves_gap) = (events, false);
        let mut budget = Budget::new(&self.clock);
        for server in servers {
            let server = server.clone();
            let mut repair = Repair { gaps: self, room, server, budget, zeal, stored: 0, leaves_gap };
            repair.run(&lost).await?;
            (budget, leaves_gap) = (repair.budget, repair.leaves_gap);
            let answers = self.rooms.ingest(room, incoming(&lost)).await?;
            let missing: BTreeSet<_> =
                answers.iter().filter(|answer| is_missing(answer)).map(|answer| &answer.event_id).collect();
            lost.retain(|event| missing.contains(&event.pdu().event_id));
            if lost.is_empty() {
                break;
            }
        }
        Ok(Taken { lost, leaves_gap })
    }

    fn helpers(&self, origin: &ServerName, events: &[Verified]) -> Vec<OwnedServerName> {
        let mut helpers = vec![origin.to_owned()];
        for event in events {
            let server = event.pdu().sender.server_name().to_owned();
            if !helpers.contains(&server) && !self.rooms.is_ours(&event.pdu().sender) {
                helpers.push(server);
            }
        }
        helpers.truncate(SERVERS_MAX);
        helpers
    }

    /// Places events of a room's past that `server` sent, the oldest by the state that it states before them; whether
    /// any is new.
    pub(super) async fn place_past(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        events: &[Verified],
    ) -> Result<bool, IngestError> {
        let budget = Budget::new(&self.clock);
        let (server, zeal) = (server.to_owned(), Zeal::Again);
        let mut repair = Repair { gaps: self, room, server, budget, zeal, stored: 0, leaves_gap: false };
        let mut pending: BTreeMap<OwnedEventId, Verified> =
            events.iter().map(|event| (event.pdu().event_id.clone(), event.clone())).collect();
        let mut states = BTreeMap::new();
        let mut missing = repair.ingest(&mut pending, Placement::Backfilled, &states).await?;
        if missing.values().any(|missing| !missing.auth.is_empty()) {
            repair.fetch_auth(&missing).await?;
            missing = repair.ingest(&mut pending, Placement::Backfilled, &states).await?;
        }
        for event_id in ends(&missing, &pending).into_iter().take(ANCHORS_MAX) {
            if let Some(state) = repair.fetch_state(&event_id).await? {
                states.insert(event_id, state);
            }
        }
        if !states.is_empty() {
            repair.ingest(&mut pending, Placement::Backfilled, &states).await?;
        }
        Ok(repair.stored > 0)
    }

    /// Checks events that were fetched; those that do not pass are dropped.
    pub(super) async fn verified(
        &self,
        room: &Room,
        events: &[Box<RawValue>],
        references: References,
    ) -> Result<Vec<Verified>, IngestError> {
        let checked = self.verifier.check(&room.room_id, &room.rules, events, references).await?;
        let passed = checked.into_iter().filter_map(|event| {
            event
                .map_err(
                    |error| tracing::debug!(room_id = %room.room_id, %error, "a fetched event is dropped"),
                )
                .ok()
        });
        Ok(passed.collect())
    }
}

impl Repair<'_> {
    async fn run(&mut self, events: &[Verified]) -> Result<(), IngestError> {
        let mut pending: BTreeMap<OwnedEventId, Verified> =
            events.iter().map(|event| (event.pdu().event_id.clone(), event.clone())).collect();
        let nothing = BTreeMap::new();
        let mut missing = self.ingest(&mut pending, Placement::Live, &nothing).await?;
        for _ in 0..GAP_ROUNDS {
            let latest: Vec<OwnedEventId> = ends(&missing, &pending);
            if latest.is_empty() {
                break;
            }
            let before = pending.len();
            let (events, is_all) = self.between(latest).await?;
            for event in events {
                pending.entry(event.pdu().event_id.clone()).or_insert(event);
            }
            if pending.len() == before {
                break;
            }
            missing = self.ingest(&mut pending, Placement::Live, &nothing).await?;
            if is_all {
                break;
            }
        }
        let sent: BTreeSet<&OwnedEventId> = events.iter().map(|event| &event.pdu().event_id).collect();
        let anchors: BTreeSet<OwnedEventId> = missing
            .iter()
            .filter(|(event_id, _)| self.zeal == Zeal::Again || !sent.contains(event_id))
            .flat_map(|(_, missing)| &missing.prev)
            .filter(|event_id| !pending.contains_key(*event_id))
            .cloned()
            .collect();
        for event_id in anchors.into_iter().take(ANCHORS_MAX) {
            self.anchor(event_id).await?;
        }
        missing = self.ingest(&mut pending, Placement::Live, &nothing).await?;
        // The states that were fetched bring most of what allows the events.
        if missing.values().any(|missing| !missing.auth.is_empty()) {
            self.fetch_auth(&missing).await?;
            self.ingest(&mut pending, Placement::Live, &nothing).await?;
        }
        Ok(())
    }

    /// Hands in what waits; what is stored waits no more, and of the rest it is known what they miss.
    async fn ingest(
        &mut self,
        pending: &mut BTreeMap<OwnedEventId, Verified>,
        placement: Placement,
        states: &BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<BTreeMap<OwnedEventId, Missing>, IngestError> {
        let events = pending.iter().map(|(event_id, event)| {
            let mut incoming = Incoming::new(event.clone(), placement);
            incoming.state = states.get(event_id).cloned();
            incoming
        });
        let mut still = BTreeMap::new();
        for answer in self.gaps.rooms.ingest(self.room, events.collect()).await? {
            match answer.outcome {
                IngestOutcome::Missing(missing) => {
                    still.insert(answer.event_id, missing);
                    continue;
                }
                IngestOutcome::Stored { .. } => self.stored = self.stored.saturating_add(1),
                IngestOutcome::Known { .. } => {}
            }
            pending.remove(&answer.event_id);
        }
        Ok(still)
    }

    /// The events between what is here and these, and whether the server has no more to tell.
    async fn between(&mut self, latest: Vec<OwnedEventId>) -> Result<(Vec<Verified>, bool), IngestError> {
        if !self.budget.ask() {
            return Ok((Vec::new(), true));
        }
        let earliest = self.gaps.rooms.forward_extremities(self.room).await?;
        let room_id = &self.room.room_id;
        let asked = self.gaps.peers.missing_events(&self.server, room_id, earliest, latest, GAP_EVENTS);
        let events = self.answer(asked.await);
        let is_all = events.len() < GAP_ANSWER_MIN;
        let events = self.budget.keep(events);
        Ok((self.gaps.verified(self.room, &events, References::Limited).await?, is_all))
    }

    /// Fetches what allows events.
    async fn fetch_auth(&mut self, missing: &BTreeMap<OwnedEventId, Missing>) -> Result<(), IngestError> {
        for event_id in missing.iter().filter(|(_, missing)| !missing.auth.is_empty()).map(|(id, _)| id) {
            if !self.budget.ask() {
                return Ok(());
            }
            let asked = self.gaps.peers.event_auth(&self.server, &self.room.room_id, event_id.clone());
            let events = self.answer(asked.await);
            self.store_outliers(events).await?;
        }
        Ok(())
    }

    /// Places a missing event by the state that the other server states before it.
    async fn anchor(&mut self, event_id: OwnedEventId) -> Result<(), IngestError> {
        if !self.budget.ask() {
            return Ok(());
        }
        let asked = self.gaps.peers.event(&self.server, event_id.clone());
        let events: Vec<Box<RawValue>> = self.answer(asked.await.map(|event| vec![event]));
        let event = self.gaps.verified(self.room, &events, References::Limited).await?.pop();
        let Some(event) = event.filter(|event| event.pdu().event_id == event_id) else { return Ok(()) };
        let Some(state) = self.fetch_state(&event_id).await? else { return Ok(()) };
        // What claims to be older than the room's newest end is not new to clients.
        let newest = self.gaps.rooms.head(self.room.number).await?.depth;
        let placement = if event.pdu().depth > newest { Placement::Live } else { Placement::Backfilled };
        let mut anchor = Incoming::new(event, placement);
        anchor.state = Some(state);
        let answers = self.gaps.rooms.ingest(self.room, vec![anchor]).await?;
        if answers.iter().any(|answer| matches!(answer.outcome, IngestOutcome::Stored { .. })) {
            self.leaves_gap = true;
            self.stored = self.stored.saturating_add(1);
        }
        Ok(())
    }

    /// Fetches the events of the state before an event, as far as they are not here; returns those that are here then.
    async fn fetch_state(
        &mut self,
        event_id: &OwnedEventId,
    ) -> Result<Option<Vec<OwnedEventId>>, IngestError> {
        if !self.budget.ask() {
            return Ok(None);
        }
        let asked = self.gaps.peers.state_ids(&self.server, &self.room.room_id, event_id.clone());
        let StateAt { state, auth_chain } = match asked.await {
            Ok(stated) => stated,
            Err(error) => {
                self.note(&error);
                return Ok(None);
            }
        };
        let rooms = &self.gaps.rooms;
        let wanted: Vec<OwnedEventId> = state.iter().chain(&auth_chain).cloned().collect();
        let absent = rooms.absent(self.room, &wanted).await?;
        let fetched = if absent.len() > SINGLY_MAX {
            self.whole_state(event_id).await
        } else {
            self.singly(absent).await
        };
        self.store_outliers(fetched).await?;
        let absent: BTreeSet<OwnedEventId> = rooms.absent(self.room, &state).await?.into_iter().collect();
        Ok(Some(state.into_iter().filter(|event_id| !absent.contains(event_id)).collect()))
    }

    async fn whole_state(&mut self, event_id: &OwnedEventId) -> Vec<Box<RawValue>> {
        if !self.budget.ask() {
            return Vec::new();
        }
        match self.gaps.peers.state(&self.server, &self.room.room_id, event_id.clone()).await {
            Ok(StateAt { state, auth_chain }) => [auth_chain, state].concat(),
            Err(error) => {
                self.note(&error);
                Vec::new()
            }
        }
    }

    async fn singly(&mut self, wanted: Vec<OwnedEventId>) -> Vec<Box<RawValue>> {
        let mut asked = Vec::new();
        for event_id in wanted {
            if !self.budget.ask() {
                break;
            }
            asked.push(self.gaps.peers.event(&self.server, event_id));
        }
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        answers.into_iter().filter_map(|answer| answer.map_err(|error| self.note(&error)).ok()).collect()
    }

    async fn store_outliers(&mut self, events: Vec<Box<RawValue>>) -> Result<(), IngestError> {
        let events = self.budget.keep(events);
        let verified = self.gaps.verified(self.room, &events, References::Limited).await?;
        let mut waiting: Vec<Incoming> =
            verified.into_iter().map(|event| Incoming::new(event, Placement::Outlier)).collect();
        // What allows an event may stand in a later part.
        loop {
            let before = waiting.len();
            let mut left = Vec::new();
            for chunk in waiting.chunks(CHUNK_EVENTS) {
                let answers = self.gaps.rooms.ingest(self.room, chunk.to_vec()).await?;
                let missing = chunk.iter().zip(&answers).filter(|(_, answer)| is_missing(answer));
                left.extend(missing.map(|(event, _)| event.clone()));
            }
            if left.is_empty() || left.len() == before {
                return Ok(());
            }
            waiting = left;
        }
    }

    fn answer(&self, answer: Result<Vec<Box<RawValue>>, ClientError>) -> Vec<Box<RawValue>> {
        answer.map_err(|error| self.note(&error)).unwrap_or_default()
    }

    fn note(&self, error: &ClientError) {
        tracing::debug!(room_id = %self.room.room_id, server = %self.server, %error, "missing events were not had");
    }
}

/// The events at the far end of what waits: those that miss something that does not itself wait.
fn ends(
    missing: &BTreeMap<OwnedEventId, Missing>,
    pending: &BTreeMap<OwnedEventId, Verified>,
) -> Vec<OwnedEventId> {
    let at_end = |missing: &Missing| missing.prev.iter().any(|prev| !pending.contains_key(prev));
    missing.iter().filter(|(_, missing)| at_end(missing)).map(|(event_id, _)| event_id.clone()).collect()
}

fn incoming(events: &[Verified]) -> Vec<Incoming> {
    events.iter().map(|event| Incoming::new(event.clone(), Placement::Live)).collect()
}

fn is_missing(answer: &Ingested) -> bool {
    matches!(answer.outcome, IngestOutcome::Missing(_))
}
