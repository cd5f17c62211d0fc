//! Builds a room's events and the batches that store them. The only code that makes room rows.
//!
//! A writer keeps the room's head as it will be when all that it has prepared is committed, so that the next event can be
//! built while the one before is being made durable. It must be used by one task at a time, and thrown away when a
//! commit fails.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use allod_matrix::{
    auth,
    event::{
        build::{BuildError, Draft, Place, build},
        pdu::Pdu,
        redact::redact,
    },
    power::{Action, Powers},
    state::{EntryKey, Node, Root, update},
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::{EventId, OwnedEventId, OwnedUserId, UserId, events::StateEventType};

use super::{Core, Room, event::StoredEvent, membership, state::Nodes};
use crate::{
    database::{Corrupt, Error, Write},
    log::Happened,
    numbers::{DeviceNumber, EventNumber, Hash128, UserNumber},
    tables::{
        Stamped,
        rooms::{
            CurrentState, Depth, EventByName, EventJson, EventMeta, EventRecord, EventStatus, FlatState,
            HeadRecord, HeadVersion, MemberRecord, Membership, MembershipChange, Redaction, Relation,
            RelationRecord, RoomHead, RoomMember, StateNode, StateRoot, Timeline, Transaction,
            TransactionRecord, UserMembershipChange, UserRoom, UserRoomRecord,
        },
    },
};

/// An event that a local user wants in a room.
#[derive(Clone, Debug)]
pub struct Append {
    /// What it says.
    pub draft: Draft,
    /// Who sends it.
    pub sender: UserNumber,
    /// The device's transaction: hash of endpoint and id, and the id itself.
    pub transaction: Option<(DeviceNumber, Hash128, String)>,
    /// Rows that belong to the same commit.
    pub extra: Write,
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

/// An event ready to be committed.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The batch.
    pub(crate) write: Write,
    /// How many of its checks are the writer's own; those behind them are the caller's.
    pub(crate) own_checks: usize,
    /// What to tell the caller.
    pub(crate) appended: Appended,
    /// The stored event, for the cache.
    pub(crate) event: (EventRecord, Bytes),
    /// The event that this one redacts.
    pub(crate) redacted: Option<EventNumber>,
}

/// What [`Writer::prepare`] made of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A new event.
    New(Box<Prepared>),
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

/// A room's head, ahead of the database by what is in flight.
pub(crate) struct Writer {
    core: Arc<Core>,
    room: Arc<Room>,
    version: u64,
    head: HeadRecord,
    tips: Vec<OwnedEventId>,
    current: HashMap<(String, String), Option<Current>>,
    nodes: Nodes,
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
        }
    }

    /// A writer that continues where the database is.
    pub(crate) async fn load(core: Arc<Core>, room: Arc<Room>) -> Result<Self, Error> {
        let missing = Error::Corrupt("RoomHead", Corrupt("a room has no head"));
        let version = core.database.get::<HeadVersion>(&room.number).await?.unwrap_or_default();
        let head = core.database.get::<RoomHead>(&room.number).await?.ok_or(missing)?.value;
        let mut tips = Vec::with_capacity(head.extremities.len());
        for event in core.events.load_many(room.number, &head.extremities).await? {
            let event_id = EventId::parse(event.record.event_id.as_str())
                .map_err(|_| Error::Corrupt("EventMeta", Corrupt("event id does not parse")))?;
            tips.push(event_id);
        }
        Ok(Self { version, head, tips, ..Self::new(core, room) })
    }

    /// Builds the event on top of all that was prepared before, checks it, and makes its batch.
    pub(crate) async fn prepare(&mut self, append: Append) -> Result<Outcome, AppendError> {
        let Append { draft, sender, transaction, extra } = append;
        self.load_current(&draft).await?;
        if let Some(unchanged) = self.unchanged(&draft) {
            return Ok(Outcome::Unchanged(unchanged));
        }
        let target = self.redaction_target(&draft).await?;
        let (place, auth_numbers) = self.place(&draft);
        let signed = build(draft, place, &self.room.rules, self.core.identity.key())?;
        let pdu = Arc::new(signed.pdu);
        self.authorise(&pdu)?;
        if let Some(target) = &target {
            self.authorise_redaction(&pdu, target)?;
        }

        let number = EventNumber(self.head.next_event);
        let mut write = Write::new();
        write_version(&mut write, &self.room, self.version);
        let own_checks = 1_usize.saturating_add(usize::from(transaction.is_some()));
        if let Some((device, hash, _)) = &transaction {
            let at_ms = self.core.clock.now_ms();
            write.absent::<Transaction>(&(*device, *hash));
            let done = TransactionRecord { event_id: pdu.event_id.to_string(), at_ms };
            write.put::<Transaction>(&(*device, *hash), &done);
        }
        let before = self.head.root;
        let replaces = self.apply_state(&pdu, number, sender, &mut write).await?;
        let record = EventRecord {
            event_id: pdu.event_id.to_string(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            sender,
            status: EventStatus::Timeline,
            reason: None,
            depth: self.head.depth.saturating_add(1),
            origin_server_ts: pdu.origin_server_ts.get().into(),
            state_before: before,
            state_after: self.head.root,
            prev_events: self.head.extremities.clone(),
            auth_events: auth_numbers,
            replaces,
            transaction: transaction.map(|(device, _, id)| (device, id)),
        };
        let redacted = target.as_ref().map(|target| target.number);
        if let Some(target) = target {
            self.redact_target(&target, number, &mut write)?;
        }
        self.relate(&pdu, number, sender, &mut write).await?;
        let json = Bytes::from(signed.json);
        self.advance(&pdu, number, &record, &json, &mut write);
        write.append(extra);
        Ok(Outcome::New(Box::new(Prepared {
            write,
            own_checks,
            appended: Appended { event_id: pdu.event_id.clone(), number },
            event: (record, json),
            redacted,
        })))
    }

    /// Lets go of what is only needed while something is in flight.
    pub(crate) fn drained(&mut self) {
        if self.current.len() > CURRENT_KEPT_MAX {
            self.current.clear();
        }
        if self.nodes.0.len() > NODES_KEPT_MAX {
            self.nodes.0.clear();
        }
    }

    /// Loads the current state that the rules, and the indexes, need to know for this event.
    async fn load_current(&mut self, draft: &Draft) -> Result<(), AppendError> {
        let needed = auth::state_needed(
            &draft.kind,
            &draft.sender,
            draft.state_key.as_deref(),
            &draft.content,
            &self.room.rules.authorization,
        );
        let needed = needed.map_err(|error| AppendError::Forbidden(error.0))?;
        let mut wanted: HashSet<(String, String)> =
            needed.into_iter().map(|(kind, state_key)| (kind.to_string(), state_key)).collect();
        if let Some(state_key) = &draft.state_key {
            wanted.insert((draft.kind.clone(), state_key.clone()));
        }
        if draft.kind == "m.room.redaction" {
            wanted.insert(("m.room.power_levels".to_owned(), String::new()));
        }
        let wanted: Vec<_> = wanted.into_iter().filter(|key| !self.current.contains_key(key)).collect();
        let keys: Vec<_> = wanted
            .iter()
            .map(|(kind, state_key)| {
                (self.room.number, self.head.epoch, self.room.hash_key.entry_key(kind, state_key).0)
            })
            .collect();
        // Whatever is in flight is in `current` already, so the rest may be read from the database.
        let numbers = self.core.database.get_all::<FlatState>(&keys).await?;
        for (key, number) in wanted.into_iter().zip(numbers) {
            let current = match number {
                Some(number) => {
                    let event = self.core.events.load(self.room.number, number).await?;
                    Some(Current { number, pdu: event.pdu(&self.room)? })
                }
                None => None,
            };
            self.current.insert(key, current);
        }
        Ok(())
    }

    fn current(&self, kind: &str, state_key: &str) -> Option<&Current> {
        // A borrowed look-up in a map with owned pairs needs the pair; states are few and short.
        self.current.get(&(kind.to_owned(), state_key.to_owned())).and_then(Option::as_ref)
    }

    /// The state event that already says what this one would.
    fn unchanged(&self, draft: &Draft) -> Option<Appended> {
        let current = self.current(&draft.kind, draft.state_key.as_deref()?)?;
        let same =
            current.pdu.sender == draft.sender && same_json(current.pdu.content.get(), draft.content.get());
        same.then(|| Appended { event_id: current.pdu.event_id.clone(), number: current.number })
    }

    fn place(&self, draft: &Draft) -> (Place, Vec<EventNumber>) {
        let mut auth_events = Vec::new();
        let mut numbers = Vec::new();
        let types = auth::auth_types(
            &draft.kind,
            &draft.sender,
            draft.state_key.as_deref(),
            &draft.content,
            &self.room.rules.authorization,
        );
        for (kind, state_key) in types.unwrap_or_default() {
            let kind = kind.to_string();
            if let Some(current) = self.current(&kind, &state_key) {
                auth_events.push(current.pdu.event_id.clone());
                numbers.push(current.number);
            }
        }
        let is_hashed_create = draft.kind == "m.room.create"
            && draft.state_key.as_deref() == Some("")
            && !self.room.rules.event_format.require_room_create_room_id;
        let place = Place {
            room_id: (!is_hashed_create).then(|| self.room.room_id.clone()),
            prev_events: self.tips.clone(),
            auth_events,
            depth: self.head.depth.saturating_add(1),
        };
        (place, numbers)
    }

    fn authorise(&self, pdu: &Pdu) -> Result<(), AppendError> {
        let by_id = |event_id: &EventId| {
            let mut known = self.current.values().flatten();
            known.find(|current| *current.pdu.event_id == *event_id).map(|current| Arc::clone(&current.pdu))
        };
        let by_state = |kind: &StateEventType, state_key: &str| {
            self.current(&kind.to_string(), state_key).map(|current| Arc::clone(&current.pdu))
        };
        auth::check(&self.room.rules.authorization, pdu, by_id, by_state)
            .map_err(|error| AppendError::Forbidden(error.0))
    }

    /// Whether the user has the power to redact what others sent.
    fn may_redact_others(&self, user_id: &UserId) -> bool {
        let Some(create) = self.current("m.room.create", "") else { return false };
        let levels = self.current("m.room.power_levels", "").map(|levels| Arc::clone(&levels.pdu));
        Powers::new(&create.pdu, levels, &self.room.rules.authorization).may(user_id, Action::Redact)
    }

    /// The event that a redaction means, if it is here.
    async fn redaction_target(&self, draft: &Draft) -> Result<Option<Arc<StoredEvent>>, AppendError> {
        if draft.kind != "m.room.redaction" {
            return Ok(None);
        }
        let in_content = || {
            let content: serde_json::Value = serde_json::from_str(draft.content.get()).ok()?;
            EventId::parse(content.get("redacts")?.as_str()?).ok()
        };
        let Some(event_id) = draft.redacts.clone().or_else(in_content) else {
            return Err(AppendError::UnknownTarget);
        };
        let number =
            self.core.events.number(&self.room, &event_id).await?.ok_or(AppendError::UnknownTarget)?;
        Ok(Some(self.core.events.load(self.room.number, number).await?))
    }

    /// From room version 3 on the rules let any redaction pass; whether it takes effect is decided here.
    fn authorise_redaction(&self, pdu: &Pdu, target: &StoredEvent) -> Result<(), AppendError> {
        let forbidden = |reason: &str| Err(AppendError::Forbidden(reason.to_owned()));
        if target.record.kind == "m.room.create" {
            return forbidden("a room's create event cannot be redacted");
        }
        if target.record.kind == "m.room.server_acl" {
            return forbidden("server ACLs cannot be redacted");
        }
        let own = target.pdu(&self.room)?.sender == pdu.sender;
        if own || self.may_redact_others(&pdu.sender) {
            return Ok(());
        }
        forbidden("you may redact only your own events in this room")
    }

    /// Replaces the target's JSON by what a redaction leaves of it.
    fn redact_target(
        &mut self,
        target: &StoredEvent,
        by: EventNumber,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let key = (self.room.number, target.number);
        let redacted = redact(&target.json, &self.room.rules.redaction, None)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        write.put::<EventJson>(&key, &Bytes::from(redacted));
        write.put::<Redaction>(&key, &Stamped::pending(by));
        if let Some(state_key) = &target.record.state_key {
            // The rules must read the redacted form from now on.
            let state = (target.record.kind.clone(), state_key.clone());
            if self.current.get(&state).and_then(Option::as_ref).is_some_and(|it| it.number == target.number)
            {
                self.current.remove(&state);
                self.room_state_redacted(target)?;
            }
        }
        Ok(())
    }

    /// Puts the redacted form of a piece of current state back where the rules look for it.
    fn room_state_redacted(&mut self, target: &StoredEvent) -> Result<(), AppendError> {
        let redacted = redact(&target.json, &self.room.rules.redaction, None)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        let event_id = EventId::parse(target.record.event_id.as_str())
            .map_err(|_| Error::Corrupt("EventMeta", Corrupt("event id does not parse")))?;
        let pdu = Pdu::parse(&redacted, event_id, &self.room.room_id, &self.room.rules)
            .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
        let state_key = target.record.state_key.clone().unwrap_or_default();
        let current = Current { number: target.number, pdu: Arc::new(pdu) };
        self.current.insert((target.record.kind.clone(), state_key), Some(current));
        Ok(())
    }

    /// Writes what follows from a state event; returns the event that it replaces.
    async fn apply_state(
        &mut self,
        pdu: &Arc<Pdu>,
        number: EventNumber,
        sender: UserNumber,
        write: &mut Write,
    ) -> Result<Option<EventNumber>, AppendError> {
        let Some(state_key) = &pdu.state_key else { return Ok(None) };
        let entry = self.room.hash_key.entry_key(&pdu.kind, state_key);
        self.update_tree(entry, number, write).await?;
        write.put::<FlatState>(&(self.room.number, self.head.epoch, entry.0), &number);
        write.put::<CurrentState>(&(self.room.number, Position::PENDING), &self.head.root);
        let state = (pdu.kind.clone(), state_key.clone());
        let before = self.current.insert(state, Some(Current { number, pdu: Arc::clone(pdu) })).flatten();
        if pdu.kind == "m.room.member" {
            self.apply_membership(pdu, number, sender, before.as_ref(), write).await?;
        }
        Ok(before.map(|before| before.number))
    }

    async fn update_tree(
        &mut self,
        entry: EntryKey,
        number: EventNumber,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let root = Root::from_bytes(self.head.root.0);
        let hash_key = &self.room.hash_key;
        let changes = [(entry, Some(number.0))];
        let updated = self
            .core
            .states
            .run(&self.room, &mut self.nodes, |nodes| update(root, &changes, hash_key, nodes))
            .await?;
        for (id, bytes) in updated.new_nodes {
            if let Ok(node) = Node::decode(&bytes) {
                self.nodes.0.insert(id, Arc::new(node));
            }
            write.put::<StateNode>(&(self.room.number, Hash128(id.0)), &Bytes::from(bytes));
        }
        self.head.root = StateRoot(updated.root.to_bytes());
        Ok(())
    }

    async fn apply_membership(
        &mut self,
        pdu: &Pdu,
        event: EventNumber,
        sender: UserNumber,
        before: Option<&Current>,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let Some(user_id) = pdu.state_key.as_deref().and_then(|id| OwnedUserId::try_from(id).ok()) else {
            return Ok(());
        };
        let user = self.core.users.number_or_new(&user_id).await?;
        let room = self.room.number;
        let membership = membership::of(pdu).unwrap_or(Membership::Leave);
        let before = before.and_then(|before| membership::of(&before.pdu));
        self.count(before, membership);
        write.put::<RoomMember>(&(room, user), &Stamped::pending(MemberRecord { membership, event }));
        if self.core.identity.is_ours(&user_id) {
            let row = UserRoomRecord { membership, event, sender, forgotten: false };
            write.put::<UserRoom>(&(user, room), &Stamped::pending(row));
            if before != Some(membership) || membership != Membership::Join {
                let change = MembershipChange { room, membership, before, event, sender };
                write.put::<UserMembershipChange>(&(user, Position::PENDING), &change);
            }
        }
        write.log(Happened::Membership { room, user });
        Ok(())
    }

    fn count(&mut self, before: Option<Membership>, after: Membership) {
        let mut change = |membership, by: fn(u32, u32) -> u32| match membership {
            Membership::Join => self.head.joined = by(self.head.joined, 1),
            Membership::Invite => self.head.invited = by(self.head.invited, 1),
            Membership::Knock | Membership::Leave | Membership::Ban => {}
        };
        if let Some(before) = before {
            change(before, u32::saturating_sub);
        }
        change(after, u32::saturating_add);
    }

    /// Indexes the event under the one that it relates to.
    async fn relate(
        &self,
        pdu: &Pdu,
        number: EventNumber,
        sender: UserNumber,
        write: &mut Write,
    ) -> Result<(), AppendError> {
        let Some((parent, record)) = relation_of(pdu, sender) else { return Ok(()) };
        if let Some(parent) = self.core.events.number(&self.room, &parent).await? {
            write.put::<Relation>(&(self.room.number, parent, number), &record);
        }
        Ok(())
    }

    /// Moves the head behind the event, and writes the rows that every event has.
    fn advance(
        &mut self,
        pdu: &Pdu,
        number: EventNumber,
        record: &EventRecord,
        json: &Bytes,
        write: &mut Write,
    ) {
        let room = self.room.number;
        let name = self.core.database.hash("event", pdu.event_id.as_str());
        write.put::<EventByName>(&(room, name), &number);
        write.put::<EventJson>(&(room, number), json);
        write.put::<EventMeta>(&(room, number), &Stamped::pending(record.clone()));
        write.put::<Timeline>(&(room, Position::PENDING), &number);
        write.put::<Depth>(&(room, record.depth, number), &());
        self.head.depth = record.depth;
        self.head.next_event = self.head.next_event.saturating_add(1);
        self.head.extremities = vec![number];
        self.tips = vec![pdu.event_id.clone()];
        self.version = self.version.saturating_add(1);
        write.put::<RoomHead>(&room, &Stamped::pending(self.head.clone()));
        write.put::<HeadVersion>(&room, &self.version);
        write.log(Happened::Event { room, event: number });
    }
}

/// Requires that the room's head is as the writer knows it.
fn write_version(write: &mut Write, room: &Room, version: u64) {
    if version == 0 {
        write.absent::<HeadVersion>(&room.number);
    } else {
        write.equals::<HeadVersion>(&room.number, &version);
    }
}

fn relation_of(pdu: &Pdu, sender: UserNumber) -> Option<(OwnedEventId, RelationRecord)> {
    let content: serde_json::Value = pdu.content_as()?;
    let relation = content.get("m.relates_to")?;
    let parent = EventId::parse(relation.get("event_id")?.as_str()?).ok()?;
    let rel_type = relation.get("rel_type")?.as_str()?.to_owned();
    let key = relation.get("key").and_then(|key| key.as_str()).map(str::to_owned);
    Some((parent, RelationRecord { rel_type, kind: pdu.kind.clone(), sender, key }))
}

fn same_json(left: &str, right: &str) -> bool {
    if left == right {
        return true;
    }
    let parse = |json| serde_json::from_str::<serde_json::Value>(json).ok();
    matches!((parse(left), parse(right)), (Some(left), Some(right)) if left == right)
}

/// Whether `user` is the state key of a member event.
pub(crate) fn is_member_of(kind: &str, state_key: Option<&str>, user: &UserId) -> bool {
    kind == "m.room.member" && state_key == Some(user.as_str())
}
