//! The consistency check: whether what is stored of a room agrees with what its events say, and its repair.
//!
//! The events are the truth: an event's id is the hash of its content, so damage to one shows. Everything else (the states
//! around events, extremities, indexes, members, counts) is computed anew from them and compared. The check reads beside
//! the running room and is tried again if the room moves on meanwhile; a repair requires the room to stand still, and tells
//! its task, by the head's version, that rows have changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use allod_storage::CommitError;
use ruma::OwnedRoomId;

use super::{Core, Room, Rooms, writer::Writer};
use crate::{
    database::{Error, Range, Write},
    numbers::{EventNumber, RoomNumber},
    tables::rooms::{HeadRecord, HeadVersion, Room as RoomTable, RoomHead},
};

mod current;
mod events;
mod facts;
mod history;
mod members;
mod relations;
mod states;

use facts::Facts;

/// Findings that are told one by one; more are counted only.
const FINDINGS_MAX: usize = 1_000;
/// How often a room is checked that moves on meanwhile.
const TRIES_MAX: usize = 5;
/// Rows read at once.
const PAGE_ROWS: usize = 500;
/// Changed events after which a repair is committed; each may come with some nodes of state.
const REPAIR_EVENTS: usize = 100;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// An event's JSON is not there. Cannot be repaired from what is here.
    EventLost,
    /// An event's JSON is not what its id stands for. Cannot be repaired from what is here.
    EventAltered,
    /// A row does not decode. Nothing else is checked in its room.
    Undecodable,
    /// What is kept beside an event's JSON disagrees with it.
    Metadata,
    /// An event is not found by its id.
    EventIndex,
    /// A redacted event still has its content.
    Redaction,
    /// A state event is not found by what allows it.
    AuthIndex,
    /// The room's history lacks an event, or has one that should not be shown, or at another place.
    History,
    /// The order of time lacks an event, or has one that should not be shown, or at another place.
    TimeIndex,
    /// The order of arrival has an event twice, has one that should not be shown, or lacks one of this server's.
    Timeline,
    /// A node of a state is missing, or is not what its name stands for.
    StateNode,
    /// The state before or after an event is not what its parents give.
    State,
    /// The room's newest ends are not its newest ends.
    Extremities,
    /// The current state is not what the newest ends come to.
    CurrentState,
    /// The flat current state disagrees with the tree.
    FlatState,
    /// The list of members, or a local user's list of rooms, disagrees with the state.
    Members,
    /// The room's counts (members, depth, events) are wrong.
    Counts,
    /// The index of relations or what is aggregated from it is wrong.
    Relations,
    /// The room is not found by its id.
    RoomIndex,
}

impl Damage {
    /// Its name, for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventLost => "event lost",
            Self::EventAltered => "event altered",
            Self::Undecodable => "undecodable row",
            Self::Metadata => "metadata",
            Self::EventIndex => "event index",
            Self::Redaction => "redaction",
            Self::AuthIndex => "auth index",
            Self::History => "history",
            Self::TimeIndex => "time index",
            Self::Timeline => "timeline",
            Self::StateNode => "state node",
            Self::State => "state",
            Self::Extremities => "extremities",
            Self::CurrentState => "current state",
            Self::FlatState => "flat state",
            Self::Members => "members",
            Self::Counts => "counts",
            Self::Relations => "relations",
            Self::RoomIndex => "room index",
        }
    }

    /// Whether what is damaged can be computed from events.
    pub fn is_derived(self) -> bool {
        !matches!(self, Self::EventLost | Self::EventAltered | Self::Undecodable)
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub damage: Damage,
    /// Where: an event's id, a user's id, a number.
    pub subject: String,
    /// Whether it has been put right.
    pub repaired: bool,
}

/// What the check of a room found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomReport {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many events it has.
    pub events: usize,
    /// What is wrong, the first of it.
    pub findings: Vec<Finding>,
    /// How often each thing is wrong.
    pub counts: BTreeMap<Damage, usize>,
    /// How much of it stays wrong.
    pub left: usize,
    /// Whether the room moved on during each try: what is found may be due to that.
    pub moving: bool,
}

/// Why a check did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Stop {
    /// The room has moved on, so nothing was repaired.
    #[error("the room moved on")]
    Moving,
    #[error(transparent)]
    Storage(#[from] Error),
}

/// One check of one room.
struct Check {
    core: Arc<Core>,
    room: Arc<Room>,
    repair: bool,
    /// The head's version that repairs require.
    version: u64,
    head: HeadRecord,
    facts: Facts,
    /// Computes states as the room's task does.
    writer: Writer,
    /// The events by their ids, whatever the index says.
    names: HashMap<String, EventNumber>,
    /// Whether nodes of states are missing, so that all must be made anew.
    nodes_damaged: bool,
    /// Which child relates to something, and to what.
    related: HashMap<EventNumber, EventNumber>,
    findings: Vec<Finding>,
    counts: BTreeMap<Damage, usize>,
    left: usize,
    /// Repairs that wait to be committed, and whose events' rows they change.
    write: Write,
    changed: Vec<EventNumber>,
}

impl Rooms {
    /// Rooms that the server knows, in the order of their numbers, at most `limit` of them behind `after`.
    pub async fn list(
        &self,
        after: Option<RoomNumber>,
        limit: usize,
    ) -> Result<Vec<(RoomNumber, OwnedRoomId)>, Error> {
        let mut range = Range::<RoomTable>::whole().limit(limit);
        if let Some(after) = after {
            range = range.continued_after(&after);
        }
        let mut rows = Vec::new();
        loop {
            let page = self.core.database.scan(&range).await?;
            let last = page.rows.last().map(|(number, _)| *number).filter(|_| page.more);
            // Those whose rows are being deleted are unknown.
            rows.extend(page.rows.into_iter().filter(|(number, _)| !self.is_gone(*number)));
            match last {
                Some(last) if rows.len() < limit => range = range.continued_after(&last),
                _ => break,
            }
        }
        rows.truncate(limit);
        let room = |(number, record): (RoomNumber, crate::tables::rooms::RoomRecord)| {
            Some((number, OwnedRoomId::try_from(record.room_id).ok()?))
        };
        Ok(rows.into_iter().filter_map(room).collect())
    }

    /// Compares what is stored of a room with what its events say, and puts right what can be computed if `repair`.
    pub async fn check(&self, room: &Arc<Room>, repair: bool) -> Result<RoomReport, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (mut check, outcome) = Check::run(Arc::clone(&self.core), Arc::clone(room), repair).await?;
            let moving = match outcome {
                Ok(()) => self.core.version_of(room.number).await? != check.version,
                Err(Stop::Moving) => true,
                // A row that does not decode is a finding, and ends the check of its room.
                Err(Stop::Storage(Error::Corrupt(table, corrupt))) => {
                    check.find(Damage::Undecodable, format!("{table}: {corrupt}"), false);
                    false
                }
                Err(Stop::Storage(error)) => return Err(error),
            };
            if moving && tries < TRIES_MAX && (repair || !check.counts.is_empty()) {
                continue;
            }
            return Ok(RoomReport {
                room_id: room.room_id.clone(),
                events: check.facts.len(),
                moving: moving && !check.counts.is_empty(),
                findings: check.findings,
                counts: check.counts,
                left: check.left,
            });
        }
    }
}

impl Core {
    async fn version_of(&self, room: RoomNumber) -> Result<u64, Error> {
        Ok(self.database.get::<HeadVersion>(&room).await?.unwrap_or_default())
    }
}

impl Check {
    async fn run(core: Arc<Core>, room: Arc<Room>, repair: bool) -> Result<(Self, Result<(), Stop>), Error> {
        let version = core.version_of(room.number).await?;
        let head = core.database.get::<RoomHead>(&room.number).await?.map(|row| row.value);
        let mut check = Self {
            writer: Writer::new(Arc::clone(&core), Arc::clone(&room)),
            core,
            room,
            repair,
            version,
            head: head.unwrap_or_default(),
            facts: Facts::default(),
            names: HashMap::new(),
            nodes_damaged: false,
            related: HashMap::new(),
            findings: Vec::new(),
            counts: BTreeMap::new(),
            left: 0,
            write: Write::new(),
            changed: Vec::new(),
        };
        let outcome = check.all().await;
        Ok((check, outcome))
    }

    /// Each step may rely on what the ones before have put right.
    async fn all(&mut self) -> Result<(), Stop> {
        self.check_events().await?;
        self.flush().await?;
        self.check_history().await?;
        self.flush().await?;
        self.check_states().await?;
        self.flush().await?;
        self.check_current().await?;
        self.flush().await?;
        self.check_members().await?;
        self.flush().await?;
        self.check_relations().await?;
        self.flush().await
    }

    /// Notes something wrong. Whether it is going to be put right: then the caller adds to `write` what does so.
    fn find(&mut self, damage: Damage, subject: impl Into<String>, repairable: bool) -> bool {
        let repaired = self.repair && repairable;
        let count = self.counts.entry(damage).or_default();
        *count = count.saturating_add(1);
        self.left = self.left.saturating_add(usize::from(!repaired));
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { damage, subject: subject.into(), repaired });
        }
        repaired
    }

    /// Commits the repairs so far if there are many.
    async fn flush_some(&mut self) -> Result<(), Stop> {
        if self.changed.len() >= REPAIR_EVENTS { self.flush().await } else { Ok(()) }
    }

    /// Commits the repairs so far, unless the room has moved on.
    async fn flush(&mut self) -> Result<(), Stop> {
        if self.write.is_empty() {
            return Ok(());
        }
        let room = self.room.number;
        let mut write = Write::new();
        if self.version == 0 {
            write.absent::<HeadVersion>(&room);
        } else {
            write.equals::<HeadVersion>(&room, &self.version);
        }
        write.append(std::mem::take(&mut self.write));
        let version = self.version.saturating_add(1);
        write.put::<HeadVersion>(&room, &version);
        match self.core.database.commit(write).await {
            Ok(_) => {}
            Err(CommitError::Conflict(_)) => return Err(Stop::Moving),
            Err(error) => return Err(Stop::Storage(error.into())),
        }
        self.version = version;
        for number in self.changed.drain(..) {
            self.core.events.invalidate(room, number);
        }
        Ok(())
    }

    /// The name of an event in a report.
    fn name_of(&self, number: EventNumber) -> String {
        match self.facts.get(number) {
            Some(fact) => fact.event_id.clone(),
            None => format!("event number {}", number.0),
        }
    }
}

#[cfg(test)]
mod tests;
