//! Builds a room's events and the batches that store them. The only code that makes room rows.
//!
//! A writer keeps the room's head as it will be when all that it has prepared is committed, so that the next event can be
//! built while the one before is being made durable. It must be used by one task at a time, and thrown away when a
//! commit fails, or when preparing fails halfway.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::{
    event::{
        PREV_EVENTS_MAX,
        build::{BuildError, Draft, build},
        pdu::Pdu,
    },
    resolve::AuthGraph,
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::OwnedEventId;

use super::{Core, Room, event::StoredEvent, state::Nodes};
use crate::{
    database::{Corrupt, Error, Write},
    log::Happened,
    numbers::{DeviceNumber, EventNumber, Hash128, UserNumber},
    tables::{
        Stamped,
        rooms::{
            AuthReferrer, Depth, EventByName, EventJson, EventMeta, EventRecord, EventStatus, EventTime,
            HeadRecord, HeadVersion, RoomHead, StateRoot, Timeline, Transaction, TransactionRecord,
        },
    },
};

mod ahead;
mod awaited;
mod bulk;
mod checks;
mod current;
mod extremities;
mod ingest;
pub(super) mod media;
mod notify;
mod outliers;
mod partial;
mod recompute;
mod redaction;
mod relation;
mod resolve;
mod search;
mod state;
mod whole;

pub(crate) use ingest::Placed;
pub(super) use media::loosen;
pub(super) use notify::push_context;
pub(crate) use whole::Wholeness;

/// An event that a local user wants in a room.
#[derive(Clone, Debug)]
pub struct Append {
    /// What it says.
    pub draft: Draft,
    /// Who sends it.
    pub sender: UserNumber,
    /// The device's transaction: hash of endpoint and id, and the id itself.
    pub transaction: Option<(DeviceNumber, Hash128, String)>,
    /// Files that are attached to it (MSC3911), by their keys.
    pub attached: Vec<Hash128>,
    /// Rows that belong to the same commit.
    pub extra: Write,
}

impl Append {
    /// An event with nothing beside it.
    pub(crate) fn new(draft: Draft, sender: UserNumber) -> Self {
        Self { draft, sender, transaction: None, attached: Vec::new(), extra: Write::new() }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its id.
    pub event_id: OwnedEventId,
    /// Its number.
    pub number: EventNumber,
}

/// Why an event was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The rules of the room forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// It cannot be an event at all.
    #[error(transparent)]
    Malformed(#[from] BuildError),
    /// The event that it redacts is not in the room.
    #[error("the event to redact is not in this room")]
    UnknownTarget,
    /// The sender has annotated the event in the same way already.
    #[error("you have annotated this event so already")]
    DuplicateAnnotation,
    /// A thread cannot begin at an event that itself relates to another.
    #[error("a thread cannot begin at an event that relates to another")]
    ThreadOnRelation,
    /// A row that the caller's own checks name was not as expected; the index is that of the check.
    #[error("something else changed at the same time")]
    Conflict(usize),
    /// The room has more waiting than it can hold; try again soon.
    #[error("the room is busy")]
    Busy,
    /// The server is stopping, or the room's task failed.
    #[error("the server could not finish")]
    Interrupted,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A batch ready to be committed.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The batch.
    pub(crate) write: Write,
    /// How many of its checks are the writer's own; those behind them are the caller's.
    pub(crate) own_checks: usize,
    /// The events that it stores, for the cache.
    pub(crate) events: Vec<Arc<StoredEvent>>,
    /// Events stored before whose rows it changes.
    pub(crate) changed: Vec<EventNumber>,
}

/// What [`Writer::prepare`] made of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A new event.
    New(Appended, Box<Prepared>),
    /// The state is already so; nothing to write.
    Unchanged(Appended),
}

/// One piece of current state, as the rules read it.
#[derive(Clone, Debug)]
struct Current {
    number: EventNumber,
    pdu: Arc<Pdu>,
}

/// Most pieces of state kept between events, beyond which the cache is emptied when nothing is in flight.
const CURRENT_KEPT_MAX: usize = 512;
/// Likewise for nodes of the state tree.
const NODES_KEPT_MAX: usize = 1024;
/// Memory for what is known of the auth chains of a room that is awake.
const AUTH_GRAPH_BYTES_MAX: usize = 4 << 20;

/// A room's head, ahead of the database by what is in flight.
pub(crate) struct Writer {
    core: Arc<Core>,
    room: Arc<Room>,
    version: u64,
    head: HeadRecord,
    tips: Vec<extremities::Tip>,
    current: HashMap<(String, String), Option<Current>>,
    nodes: Nodes,
    relations: relation::Ahead,
    ahead: ahead::Ahead,
    /// Whether the room begins with this writer.
    founds: bool,
    /// Whether it was changed for something that came to nothing.
    spoiled: bool,
    graph: AuthGraph,
    /// States that were resolved already: the sorted roots, and what came of them.
    resolved: HashMap<Vec<StateRoot>, StateRoot>,
    /// Whom events may notify, once that was asked.
    audience: Option<notify::Audience>,
    /// What is known of the room while members of it are missing.
    partial: Option<partial::Partial>,
}

impl Writer {
    /// A writer for a room without events.
    pub(crate) fn new(core: Arc<Core>, room: Arc<Room>) -> Self {
        let head = HeadRecord { next_event: 1, ..HeadRecord::default() };
        Self {
            core,
            room,
            version: 0,
            head,
            tips: Vec::new(),
            current: HashMap::new(),
            nodes: Nodes::default(),
            relations: relation::Ahead::default(),
            ahead: ahead::Ahead::default(),
            founds: true,
            spoiled: false,
            graph: AuthGraph::new(AUTH_GRAPH_BYTES_MAX),
            resolved: HashMap::new(),
            audience: Some(notify::Audience::default()),
            partial: None,
        }
    }

    /// A writer that continues where the database is.
    pub(crate) async fn load(core: Arc<Core>, room: Arc<Room>) -> Result<Self, Error> {
        let missing = Error::Corrupt("RoomHead", Corrupt("a room has no head"));
        let version = core.database.get::<HeadVersion>(&room.number).await?.unwrap_or_default();
        let head = core.database.get::<RoomHead>(&room.number).await?.ok_or(missing)?.value;
        let mut tips = Vec::with_capacity(head.extremities.len());
        for event in core.events.load_many(room.number, &head.extremities).await? {
            let ours = core.identity.is_ours(&event.pdu(&room)?.sender);
            tips.push(extremities::Tip::of(&event, ours)?);
        }
        let partial = partial::Partial::load(&core.database, room.number).await?;
        Ok(Self { version, head, tips, founds: false, audience: None, partial, ..Self::new(core, room) })
    }

    /// Builds the event on top of all that was prepared before, checks it, and makes its batch.
    pub(crate) async fn prepare(&mut self, append: Append) -> Result<Outcome, AppendError> {
        let write = self.new_write();
        if self.tips.len() > PREV_EVENTS_MAX {
            return self.prepare_on_some(append, write).await;
        }
        self.prepare_on_all(append, write).await
    }

    /// The same where the event can cite all extremities.
    async fn prepare_on_all(&mut self, append: Append, mut write: Write) -> Result<Outcome, AppendError> {
        let Append { draft, sender, transaction, attached, extra } = append;
        if self.tips.is_empty() && !self.founds {
            // It is known from an invitation, or just being joined, and has no state yet that would forbid anything.
            return Err(AppendError::Forbidden("you are not in this room".to_owned()));
        }
        self.load_current(&draft).await?;
        if let Some(unchanged) = self.unchanged(&draft) {
            return Ok(Outcome::Unchanged(unchanged));
        }
        let target = self.redaction_target(&draft).await?;
        let (place, auth_numbers) = self.place(&draft);
        let signed = build(draft, place, &self.room.rules, self.core.identity.key())?;
        let pdu = Arc::new(signed.pdu);
        self.authorise(&pdu)?;
        self.authorise_redaction(&pdu, target.as_deref())?;
        let is_held = target.is_none() && pdu.kind == "m.room.redaction";
        let relation = self.relation(&pdu, sender).await?;

        let number = EventNumber(self.head.next_event);
        let notified = self.notified(&pdu, &signed.json, (sender, number), target.is_some()).await?;
        let own_checks = 1_usize.saturating_add(usize::from(transaction.is_some()));
        if let Some((device, hash, _)) = &transaction {
            let at_ms = self.core.clock.now_ms();
            write.absent::<Transaction>(&(*device, *hash));
            let done = TransactionRecord { event_id: pdu.event_id.to_string(), at_ms };
            write.put::<Transaction>(&(*device, *hash), &done);
        }
        self.write_notified(notified, target.as_deref(), &mut write).await?;
        let before = self.head.root;
        let replaces = self.apply_state(&pdu, number, sender, &mut write).await?;
        let record = EventRecord {
            event_id: pdu.event_id.to_string(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            sender,
            status: EventStatus::Timeline,
            reason: is_held.then(|| awaited::TARGET_MISSING.to_owned()),
            depth: self.head.depth.saturating_add(1),
            origin_server_ts: pdu.origin_server_ts.get().into(),
            state_before: before,
            state_after: self.head.root,
            prev_events: self.head.extremities.clone(),
            auth_events: auth_numbers,
            replaces,
            transaction: transaction.map(|(device, _, id)| (device, id)),
        };
        self.follow_audience(&pdu, sender).await?;
        self.put_partial_local(number, &record.prev_events, &mut write);
        let changed = target.as_ref().map(|target| target.number).into_iter().collect();
        if let Some(target) = target {
            self.redact_target(&target, number, &mut write).await?;
        }
        self.relate(relation, number, record.depth, &mut write).await?;
        let json = Bytes::from(signed.json);
        let event = self.advance(&pdu, number, record, json, &mut write);
        if is_held {
            self.await_target(&pdu, number, &mut write);
        }
        self.attach(&attached, &pdu, number, &mut write);
        write.append(extra);
        let appended = Appended { event_id: pdu.event_id.clone(), number };
        let prepared = Prepared { write, own_checks, events: vec![event], changed };
        Ok(Outcome::New(appended, Box::new(prepared)))
    }

    /// Whether it must be thrown away.
    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    /// Lets go of what is only needed while something is in flight.
    pub(crate) fn drained(&mut self) {
        if self.current.len() > CURRENT_KEPT_MAX {
            self.current.clear();
        }
        if self.nodes.0.len() > NODES_KEPT_MAX {
            self.nodes.0.clear();
        }
        self.relations = relation::Ahead::default();
        self.ahead = ahead::Ahead::default();
    }

    /// Lets go of what has been committed.
    pub(crate) fn committed(&mut self, prepared: &Prepared) {
        for event in &prepared.events {
            self.ahead.remove(event);
        }
    }

    /// A batch that requires the head to be as the writer knows it.
    fn new_write(&self) -> Write {
        let mut write = Write::new();
        if self.version == 0 {
            write.absent::<HeadVersion>(&self.room.number);
        } else {
            write.equals::<HeadVersion>(&self.room.number, &self.version);
        }
        write
    }

    /// Moves the head behind an event that was built on it.
    fn advance(
        &mut self,
        pdu: &Pdu,
        number: EventNumber,
        record: EventRecord,
        json: Bytes,
        write: &mut Write,
    ) -> Arc<StoredEvent> {
        self.head.depth = record.depth;
        self.head.next_event = self.head.next_event.saturating_add(1);
        self.head.extremities = vec![number];
        self.tips = vec![extremities::Tip {
            number,
            event_id: pdu.event_id.clone(),
            depth: record.depth,
            root: record.state_after,
            ours: true,
        }];
        self.put_timeline(number, write);
        if record.reason.is_none() {
            self.put_history(number, &record, write);
            self.put_words(pdu, record.depth, number, write);
            self.put_media(pdu, record.sender, number, write);
        }
        let event = self.put_event(StoredEvent::new(number, Position::PENDING, record, json), true, write);
        self.put_head(write);
        event
    }

    /// Rows that every event has. `new` unless it was stored before.
    fn put_event(&mut self, event: StoredEvent, new: bool, write: &mut Write) -> Arc<StoredEvent> {
        let (room, number, record) = (self.room.number, event.number, &event.record);
        if new {
            let name = self.core.database.hash("event", &record.event_id);
            write.put::<EventByName>(&(room, name), &number);
            if record.state_key.is_some() {
                for auth_event in &record.auth_events {
                    write.put::<AuthReferrer>(&(room, *auth_event, number), &());
                }
            }
        }
        write.put::<EventJson>(&(room, number), &event.json);
        write.put::<EventMeta>(&(room, number), &Stamped::pending(record.clone()));
        let event = Arc::new(event);
        self.ahead.insert(&event);
        event
    }

    /// Makes an event the newest of the timeline, and tells who follows it.
    fn put_timeline(&self, number: EventNumber, write: &mut Write) {
        let room = self.room.number;
        write.put::<Timeline>(&(room, Position::PENDING), &number);
        write.log(Happened::Event { room, event: number });
    }

    /// Shows an event to clients as part of the room's history.
    fn put_history(&self, number: EventNumber, record: &EventRecord, write: &mut Write) {
        let room = self.room.number;
        write.put::<Depth>(&(room, record.depth, number), &());
        write.put::<EventTime>(&(room, record.origin_server_ts, record.depth, number), &());
    }

    fn put_head_row(&self, write: &mut Write) {
        write.put::<RoomHead>(&self.room.number, &Stamped::pending(self.head.clone()));
    }

    /// Ends a batch: the head as it is behind it.
    fn put_head(&mut self, write: &mut Write) {
        let room = self.room.number;
        self.version = self.version.saturating_add(1);
        self.put_head_row(write);
        write.put::<HeadVersion>(&room, &self.version);
    }
}
