//! Tables of rooms, events, state and membership. Ids 50 to 109.

use allod_storage::{
    Position,
    codec::{KeyCodec, KeyWriter},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{DeviceNumber, EventNumber, Hash128, RoomNumber, UserNumber};

super::tables! {
    /// A room's number by the hash of its id.
    RoomByName = 50 in ROOMS: Hash128 => RoomNumber, Membership, Room;
    /// What never changes of a room.
    Room = 51 in ROOMS: RoomNumber => RoomRecord, Membership, Room;
    /// The room's newest end; written with every event.
    RoomHead = 52 in ROOMS: RoomNumber => Stamped<HeadRecord>, Operational, Room;
    /// Counts the writes to the head; each batch checks it, so that a room has one writer.
    HeadVersion = 53 in ROOMS: RoomNumber => u64, Operational, Room;
    /// Rooms shown in the room directory.
    Published = 54 in ROOMS: RoomNumber => (), Operational, Room;
    /// A room alias of this server by the hash of its text.
    Alias = 55 in ROOMS: Hash128 => AliasRecord, Membership, Room;
    /// The aliases of a room.
    RoomAlias = 56 in ROOMS: (RoomNumber, Hash128) => String, Membership, Room;
    /// Events that are cited as preceding others and are not known with their state: the hash of the missing event's id,
    /// and who cites it. Filling such gaps is what backfilling is.
    BackwardExtremity = 57 in EVENTS: (RoomNumber, Hash128, EventNumber) => GapRecord, Content, Room;
    /// State events, whatever became of them, that name another (the first number) among their `auth_events`.
    AuthReferrer = 58 in EVENTS: (RoomNumber, EventNumber, EventNumber) => (), Content, Room;
    /// Redactions of, and relations to, an event that is not here yet: the hash of its id, and who waits for it.
    Awaited = 59 in EVENTS: (RoomNumber, Hash128, Awaiting, EventNumber) => (), Content, Room;
    /// An event's number by the hash of its id, bound to its room.
    EventByName = 60 in EVENTS: (RoomNumber, Hash128) => EventNumber, Content, Room;
    /// An event's JSON in federation format; redacted when the event is.
    EventJson = 61 in EVENT_JSON: (RoomNumber, EventNumber) => Bytes, Content, Room;
    /// What the server knows of an event besides its JSON.
    EventMeta = 62 in EVENTS: (RoomNumber, EventNumber) => Stamped<EventRecord>, Content, Room;
    /// A room's timeline in the order of arrival, as sync shows it.
    Timeline = 63 in TIMELINES: (RoomNumber, Position) => EventNumber, Content, Room;
    /// A room's timeline in the order of the graph, as pagination shows it: by depth, then number.
    Depth = 64 in TIMELINES: (RoomNumber, u64, EventNumber) => (), Content, Room;
    /// Which event redacted another (the key's).
    Redaction = 65 in EVENTS: (RoomNumber, EventNumber) => Stamped<EventNumber>, Content, Room;
    /// Events that relate to another: the parent, the way, and the child's place by depth, then number.
    Relation = 66 in TIMELINES: (RoomNumber, EventNumber, Relating, u64, EventNumber) => RelationRecord, Content, Room;
    /// What the children of an event come to; no row if it has none.
    Aggregate = 67 in EVENTS: (RoomNumber, EventNumber) => AggregateRecord, Content, Room;
    /// Threads in the order of their latest events: its depth and number, then the root.
    ThreadByLatest = 68 in TIMELINES: (RoomNumber, u64, EventNumber, EventNumber) => (), Content, Room;
    /// How often a user relates to an event in one way, hashed: how many replies in the thread, whether so annotated.
    RelationCount = 69 in EVENTS: (RoomNumber, EventNumber, UserNumber, Hash128) => u64, Content, Room;
    /// Nodes of the room's state trees, content-addressed.
    StateNode = 70 in STATE_NODES: (RoomNumber, Hash128) => Bytes, Content, Room;
    /// The root of the room's current state, a row for each change.
    CurrentState = 71 in STATE: (RoomNumber, Position) => StateRoot, Content, Room;
    /// The room's current state, flat: epoch and entry key to event.
    FlatState = 72 in STATE: (RoomNumber, u32, [u8; 16]) => EventNumber, Content, Room;
    /// Membership of each user that the room's current state knows.
    RoomMember = 73 in STATE: (RoomNumber, UserNumber) => Stamped<MemberRecord>, Membership, Room;
    /// The same by user, for local users.
    UserRoom = 74 in STATE: (UserNumber, RoomNumber) => Stamped<UserRoomRecord>, Membership, User;
    /// Every change of a local user's membership of any room.
    UserMembershipChange = 75 in STATE: (UserNumber, Position) => MembershipChange, Membership, User;
    /// What came of a transaction id, by device and hash of endpoint and id.
    Transaction = 80 in ACCOUNTS: (DeviceNumber, Hash128) => TransactionRecord, Operational, Seconds(7 * 24 * 3600);
    /// What users reported to the administrators, in the order in which they did.
    Report = 90 in ROOMS: Position => ReportRecord, Content, Forever;
    /// A room's timeline in the order of time, as its senders' clocks have it: milliseconds, then depth and number.
    EventTime = 91 in TIMELINES: (RoomNumber, u64, u64, EventNumber) => (), Content, Room;
}

/// Value of [`Room`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRecord {
    /// The room's id.
    pub room_id: String,
    /// The room's version.
    pub version: String,
    /// Who created it.
    pub creator: UserNumber,
    /// When this server came to know it.
    pub created_ms: u64,
}
impl Stored for RoomRecord {}

/// Value of [`RoomHead`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRecord {
    /// Events that no other refers to yet.
    pub extremities: Vec<EventNumber>,
    /// Root of the current state.
    pub root: StateRoot,
    /// The next event's number.
    pub next_event: u32,
    /// Greatest depth of any timeline event.
    pub depth: u64,
    /// Which epoch of the flat state is current.
    pub epoch: u32,
    /// How many users have joined.
    pub joined: u32,
    /// How many users are invited.
    pub invited: u32,
    /// Position of the newest state change.
    pub state_changes: u64,
}
impl Stored for HeadRecord {}

/// What the server made of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventStatus {
    /// Accepted and shown.
    Timeline,
    /// Known, but not placed in the timeline.
    Outlier,
    /// Accepted by the rules at its place, but not by the current state.
    SoftFailed,
    /// Refused by the rules.
    Rejected,
}

/// Value of [`EventMeta`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// Its state key, for a state event.
    pub state_key: Option<String>,
    /// Who sent it.
    pub sender: UserNumber,
    /// What the server made of it.
    pub status: EventStatus,
    /// Why, where it is not in the timeline.
    pub reason: Option<String>,
    /// Its depth as this server computes it.
    pub depth: u64,
    /// The sender's time, in milliseconds since the Unix epoch.
    pub origin_server_ts: u64,
    /// Root of the state before it.
    pub state_before: StateRoot,
    /// Root of the state after it.
    pub state_after: StateRoot,
    /// The events that it follows, as far as they were here with their state when it came.
    pub prev_events: Vec<EventNumber>,
    /// The events that allow it.
    pub auth_events: Vec<EventNumber>,
    /// The state event that it replaced.
    pub replaces: Option<EventNumber>,
    /// The local device that sent it, and its transaction id.
    pub transaction: Option<(DeviceNumber, String)>,
}
impl Stored for EventRecord {}

/// Value of [`BackwardExtremity`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The missing event's id.
    pub event_id: String,
    /// The depth of the event that cites it.
    pub depth: u64,
}
impl Stored for GapRecord {}

/// Why an event waits for another, in the key of [`Awaited`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaiting {
    /// It redacts it.
    Redaction,
    /// It relates to it.
    Relation,
}

impl KeyCodec for Awaiting {
    fn encode(&self, writer: &mut KeyWriter) {
        let id: u8 = match self {
            Self::Redaction => 1,
            Self::Relation => 2,
        };
        id.encode(writer);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        match u8::decode(bytes)? {
            1 => Some(Self::Redaction),
            2 => Some(Self::Relation),
            _ => None,
        }
    }
}

/// Value of [`CurrentState`]: the root of a state tree; zeros are the empty state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateRoot(pub [u8; 16]);
impl Stored for StateRoot {}

/// A membership, as `m.room.member` spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Membership {
    /// `join`
    Join,
    /// `invite`
    Invite,
    /// `knock`
    Knock,
    /// `leave`
    Leave,
    /// `ban`
    Ban,
}

/// Value of [`RoomMember`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The current membership.
    pub membership: Membership,
    /// The event that says so.
    pub event: EventNumber,
}
impl Stored for MemberRecord {}

/// Value of [`UserRoom`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoomRecord {
    /// The current membership.
    pub membership: Membership,
    /// The event that says so.
    pub event: EventNumber,
    /// Who sent that event.
    pub sender: UserNumber,
    /// Whether the user forgot the room after leaving.
    pub forgotten: bool,
}
impl Stored for UserRoomRecord {}

/// Value of [`UserMembershipChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The room.
    pub room: RoomNumber,
    /// The membership from this position on.
    pub membership: Membership,
    /// The membership before.
    pub before: Option<Membership>,
    /// The event that says so.
    pub event: EventNumber,
    /// Who sent that event.
    pub sender: UserNumber,
}
impl Stored for MembershipChange {}

/// Value of [`Transaction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRecord {
    /// The event id that was answered.
    pub event_id: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}
impl Stored for TransactionRecord {}

/// Value of [`Alias`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// The alias itself.
    pub alias: String,
    /// Where it points.
    pub room: RoomNumber,
    /// Who made it.
    pub creator: UserNumber,
}
impl Stored for AliasRecord {}

/// Value of [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationRecord {
    /// The relation's type.
    pub rel_type: String,
    /// The child's type.
    pub kind: String,
    /// Who sent the child.
    pub sender: UserNumber,
    /// The key of an annotation.
    pub key: Option<String>,
}
impl Stored for RelationRecord {}

/// How a child relates to its parent, as far as the server treats it differently. Orders the rows of [`Relation`], so
/// that each way is a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relating {
    /// `m.reference`
    Reference,
    /// A valid `m.replace`.
    Edit,
    /// `m.annotation`
    Annotation,
    /// `m.thread`
    Thread,
    /// Anything else, invalid edits included.
    Other,
}

impl Relating {
    /// All ways, in the order of the rows.
    pub const ALL: [Self; 5] = [Self::Reference, Self::Edit, Self::Annotation, Self::Thread, Self::Other];

    const fn id(self) -> u8 {
        match self {
            Self::Reference => 1,
            Self::Edit => 2,
            Self::Annotation => 3,
            Self::Thread => 4,
            Self::Other => 5,
        }
    }
}

impl KeyCodec for Relating {
    fn encode(&self, writer: &mut KeyWriter) {
        self.id().encode(writer);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let id = u8::decode(bytes)?;
        Self::ALL.into_iter().find(|relating| relating.id() == id)
    }
}

/// Value of [`Aggregate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateRecord {
    /// How many events relate to it, in whatever way.
    pub children: u64,
    /// How many of them refer to it.
    pub references: u64,
    /// How many events its thread has, without itself.
    pub replies: u64,
    /// The latest of those, by depth and number.
    pub latest: Option<(u64, EventNumber)>,
    /// The latest valid edit.
    pub edit: Option<EditRecord>,
}
impl Stored for AggregateRecord {}

/// An edit; the greatest is the one that is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EditRecord {
    /// The sender's time, in milliseconds since the Unix epoch.
    pub origin_server_ts: u64,
    /// The edit's id, which decides between equal times.
    pub event_id: String,
    /// The edit.
    pub event: EventNumber,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportSubject {
    /// An event.
    Event {
        /// Its room.
        room: RoomNumber,
        /// The event in it.
        event: EventNumber,
    },
    /// A whole room.
    Room {
        /// The room.
        room: RoomNumber,
    },
    /// A user.
    User {
        /// The user.
        user: UserNumber,
    },
}

/// Value of [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRecord {
    /// Who reports.
    pub reporter: UserNumber,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// What is reported.
    pub subject: ReportSubject,
    /// Why; may be empty.
    pub reason: String,
}
impl Stored for ReportRecord {}
