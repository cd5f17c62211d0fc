//! Connections of sliding syncs: what each was told, in memory and bounded.
//!
//! A connection knows what its client had when it last came back ([`State`]), and what the last answer adds to that
//! ([`Step`]). The step counts once the client comes back with that answer's `pos`; if it comes back with the `pos` before,
//! the answer got lost, and another one is made from the same state. Older ones are refused.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64, atomic::Ordering},
};

use allod_matrix::sync::required::RequiredState;
use allod_storage::Position;
use roaring::RoaringBitmap;
use tokio::sync::watch;

use super::SlidingError;
use crate::{
    numbers::{DeviceNumber, RoomNumber},
    random::Random,
    sync::{
        token::{BadSyncToken, SyncToken},
        unread::Count,
    },
    tables::rooms::Membership,
};

/// Connections of one device; the one unused longest makes room.
const CONNECTIONS_PER_DEVICE_MAX: usize = 8;
/// Connections of all devices; those unused longest make room.
const CONNECTIONS_MAX: usize = 20_000;
/// Rooms that all connections together may remember; about a hundred bytes each.
const ROOMS_MAX: u64 = 2_000_000;
/// Different wishes that a connection remembers; clients have a handful.
const CONFIGS_MAX: usize = 200;

/// What is wanted of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// Most events of the timeline.
    pub(super) timeline_limit: usize,
    /// The state.
    pub(super) required: RequiredState,
}

impl Config {
    /// What either wants.
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut required = self.required.clone();
        required.add(&other.required);
        Self { timeline_limit: self.timeline_limit.max(other.timeline_limit), required }
    }
}

/// What a client was told of a room.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What it wanted then.
    pub(super) config: Arc<Config>,
    /// How many of the newest events it has without a gap; the greatest number if it has all.
    pub(super) depth: usize,
    /// What the user had to do with it.
    pub(super) membership: Membership,
    /// How much was unread.
    pub(super) unread: Count,
}

/// A list as it was in view.
#[derive(Clone, Debug)]
pub(super) struct ListInView {
    /// What was wanted of its rooms.
    pub(super) config: Arc<Config>,
    /// The rooms in view.
    pub(super) rooms: RoaringBitmap,
}

/// Up to where something is known of rooms.
#[derive(Clone, Debug, Default)]
pub(super) struct Coverage {
    /// Up to the state's position.
    live: RoaringBitmap,
    /// Up to an earlier one: they have gone out of view since.
    behind: BTreeMap<RoomNumber, Position>,
}

impl Coverage {
    /// Up to where it is known of a room, in a state at `position`; nothing is, if `None`.
    pub(super) fn since(&self, room: RoomNumber, position: Position) -> Option<Position> {
        if self.live.contains(room.0) { Some(position) } else { self.behind.get(&room).copied() }
    }

    /// The rooms that were in view.
    pub(super) fn live(&self) -> &RoaringBitmap {
        &self.live
    }

    fn go_on(&mut self, position: Position, live: RoaringBitmap) {
        let gone = &self.live - &live;
        self.behind.extend(gone.iter().map(|room| (RoomNumber(room), position)));
        self.behind.retain(|room, _| !live.contains(room.0));
        self.live = live;
    }
}

/// What a client knows at a `pos`.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    number: u64,
    /// It was told everything up to here of what was in view.
    pub(super) position: Position,
    /// The same of what is in memory only.
    pub(super) ephemeral: u64,
    pub(super) rooms: HashMap<RoomNumber, Told>,
    /// Events and state of rooms.
    pub(super) events: Coverage,
    /// Account data of rooms.
    pub(super) account_data: Coverage,
    /// Up to where global account data was told, if it ever was: clients need not always ask for it.
    pub(super) global_data: Option<Position>,
    pub(super) receipts: Coverage,
    /// Rooms where it was told who types.
    pub(super) typing: RoaringBitmap,
    /// Up to where changes of subscriptions to threads were told.
    pub(super) threads: Option<Position>,
    /// Up to where changes of devices were told.
    pub(super) device_lists: Option<Position>,
    pub(super) lists: BTreeMap<String, ListInView>,
    pub(super) subscriptions: BTreeMap<RoomNumber, Arc<Config>>,
    /// Rooms that `m.direct` named.
    pub(super) direct: Arc<RoaringBitmap>,
    /// Rooms with something unread.
    pub(super) unread: RoaringBitmap,
    /// The wishes that rooms were told by.
    configs: Vec<Arc<Config>>,
}

/// What an answer adds to a state.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) number: u64,
    pub(super) position: Position,
    pub(super) ephemeral: u64,
    pub(super) told: Vec<(RoomNumber, Told)>,
    pub(super) events: RoaringBitmap,
    pub(super) account_data: Option<RoaringBitmap>,
    pub(super) receipts: Option<RoaringBitmap>,
    pub(super) typing: RoaringBitmap,
    pub(super) threads: bool,
    pub(super) device_lists: bool,
    pub(super) lists: BTreeMap<String, ListInView>,
    pub(super) subscriptions: BTreeMap<RoomNumber, Arc<Config>>,
    pub(super) direct: Arc<RoaringBitmap>,
}

impl State {
    fn go_on(&mut self, step: Step) {
        for (room, told) in step.told {
            if told.unread == Count::default() {
                self.unread.remove(room.0);
            } else {
                self.unread.insert(room.0);
            }
            let config = self.intern(told.config);
            self.rooms.insert(room, Told { config, ..told });
        }
        self.events.go_on(self.position, step.events);
        let told =
            |is_told: bool, before: Option<Position>| if is_told { Some(step.position) } else { before };
        self.global_data = told(step.account_data.is_some(), self.global_data);
        self.threads = told(step.threads, self.threads);
        self.device_lists = told(step.device_lists, self.device_lists);
        self.account_data.go_on(self.position, step.account_data.unwrap_or_default());
        self.receipts.go_on(self.position, step.receipts.unwrap_or_default());
        self.typing = step.typing;
        (self.lists, self.subscriptions, self.direct) = (step.lists, step.subscriptions, step.direct);
        (self.number, self.position, self.ephemeral) = (step.number, step.position, step.ephemeral);
    }
}

impl State {
    /// The same wish, as it is remembered already.
    fn intern(&mut self, config: Arc<Config>) -> Arc<Config> {
        if let Some(known) =
            self.configs.iter().find(|known| Arc::ptr_eq(known, &config) || **known == config)
        {
            return Arc::clone(known);
        }
        if self.configs.len() >= CONFIGS_MAX {
            self.configs.retain(|config| Arc::strong_count(config) > 1);
        }
        self.configs.push(Arc::clone(&config));
        config
    }

    /// Whether the client wants too many different things for them to be remembered.
    fn is_overgrown(&self) -> bool {
        self.configs.len() > CONFIGS_MAX
    }
}

/// A `pos`: a sync token, and what it means to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) token: SyncToken,
    pub(super) connection: u64,
    pub(super) step: u64,
}

impl fmt::Display for Pos {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}~{:x}.{}", self.token, self.connection, self.step)
    }
}

impl FromStr for Pos {
    type Err = BadSyncToken;

    fn from_str(text: &str) -> Result<Self, BadSyncToken> {
        let (_, place) = text.split_once('~').ok_or(BadSyncToken)?;
        let (connection, step) = place.split_once('.').ok_or(BadSyncToken)?;
        let connection = u64::from_str_radix(connection, 16).map_err(|_| BadSyncToken)?;
        let step = step.parse().map_err(|_| BadSyncToken)?;
        Ok(Self { token: text.parse()?, connection, step })
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number; differs in every run of the server.
    pub(super) id: u64,
    knowledge: Mutex<Knowledge>,
    /// The number of the request that has the word.
    turn: watch::Sender<u64>,
    used: AtomicU64,
    rooms: AtomicU64,
}

#[derive(Debug, Default)]
struct Knowledge {
    base: Arc<State>,
    given: Option<Step>,
    steps: u64,
}

impl Connection {
    fn new(id: u64) -> Self {
        Self {
            id,
            knowledge: Mutex::default(),
            turn: watch::Sender::new(0),
            used: AtomicU64::new(0),
            rooms: AtomicU64::new(0),
        }
    }

    fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state at a `pos`, from where the connection goes on.
    fn come_back(&self, step: u64) -> Option<Arc<State>> {
        let mut knowledge = self.knowledge();
        if let Some(given) = knowledge.given.take_if(|given| given.number == step) {
            let base = Arc::make_mut(&mut knowledge.base);
            base.go_on(given);
            self.rooms.store(u64::try_from(base.rooms.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        // Before the first answer has arrived there is no state to come back to.
        let base = &knowledge.base;
        if base.number == 0 || base.number != step || base.is_overgrown() {
            return None;
        }
        knowledge.given = None;
        Some(Arc::clone(&knowledge.base))
    }
}

/// A request's turn on its connection.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) connection: Arc<Connection>,
    /// What the client knows; nothing, where a connection begins.
    pub(super) base: Option<Arc<State>>,
    number: u64,
}

impl Turn {
    /// The number of an answer.
    pub(super) fn next_step(&self) -> u64 {
        let mut knowledge = self.connection.knowledge();
        knowledge.steps = knowledge.steps.saturating_add(1);
        knowledge.steps
    }

    /// Notes what an answer tells, unless another request has the word by now: this one's answer is for nobody then.
    pub(super) fn give(&self, step: Step) {
        let mut knowledge = self.connection.knowledge();
        if *self.connection.turn.borrow() == self.number {
            knowledge.given = Some(step);
        }
    }

    /// Ends when another request has the word.
    pub(super) async fn superseded(&self) {
        // The sender lives as long as the connection does, and so as long as `self`.
        let _ = self.connection.turn.subscribe().wait_for(|turn| *turn != self.number).await;
    }
}

/// All connections.
#[derive(Debug)]
pub(in crate::sync) struct Connections {
    registry: Mutex<Registry>,
    /// The number of the next connection, and of the next use.
    next: AtomicU64,
}

type Registry = HashMap<DeviceNumber, Vec<(String, Arc<Connection>)>>;

impl Connections {
    /// None yet.
    pub(in crate::sync) fn new(random: &Random) -> Self {
        // Numbers of different runs must not meet.
        let first = u64::from_be_bytes(random.bytes()) & 0x00ff_ffff_ffff_0000;
        Self { registry: Mutex::default(), next: AtomicU64::new(first) }
    }

    /// Takes the word on a device's connection: a new one without a `pos`.
    pub(super) fn enter(
        &self,
        device: DeviceNumber,
        name: &str,
        pos: Option<Pos>,
    ) -> Result<Turn, SlidingError> {
        let now = self.next.fetch_add(1, Ordering::Relaxed);
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = registry.entry(device).or_default();
        let found = connections.iter().find(|(other, _)| other == name).map(|(_, found)| Arc::clone(found));
        let connection = match (pos, found) {
            (Some(pos), Some(found)) if found.id == pos.connection => found,
            (Some(_), _) => return Err(SlidingError::UnknownPos),
            (None, found) => {
                if let Some(old) = found {
                    old.turn.send_modify(|turn| *turn = turn.wrapping_add(1));
                }
                let new = Arc::new(Connection::new(now));
                connections.retain(|(other, _)| other != name);
                connections.push((name.to_owned(), Arc::clone(&new)));
                new
            }
        };
        connection.used.store(now, Ordering::Relaxed);
        if connections.len() > CONNECTIONS_PER_DEVICE_MAX {
            let oldest = connections.iter().map(|(_, other)| other.used.load(Ordering::Relaxed)).min();
            connections.retain(|(_, other)| Some(other.used.load(Ordering::Relaxed)) != oldest);
        }
        if pos.is_none() {
            make_room(&mut registry);
        }
        drop(registry);
        let base = match pos {
            Some(pos) => Some(connection.come_back(pos.step).ok_or(SlidingError::UnknownPos)?),
            None => None,
        };
        let mut number = 0;
        connection.turn.send_modify(|turn| {
            *turn = turn.wrapping_add(1);
            number = *turn;
        });
        Ok(Turn { connection, base, number })
    }
}

/// Forgets the connections unused longest, if there are too many, or they remember too much.
fn make_room(registry: &mut Registry) {
    let connections = || registry.values().flatten().map(|(_, connection)| connection);
    let mut uses: Vec<_> = connections().map(|connection| connection.used.load(Ordering::Relaxed)).collect();
    let rooms: u64 = connections().map(|connection| connection.rooms.load(Ordering::Relaxed)).sum();
    if uses.len() <= CONNECTIONS_MAX && rooms <= ROOMS_MAX {
        return;
    }
    uses.sort_unstable();
    let Some(oldest_kept) = uses.get(uses.len().div_ceil(8)).copied() else { return };
    registry.retain(|_, connections| {
        connections.retain(|(_, connection)| connection.used.load(Ordering::Relaxed) >= oldest_kept);
        !connections.is_empty()
    });
}
