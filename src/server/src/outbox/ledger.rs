//! The ledger: which server was given which kind of data of which room or user, when, and how much.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, ServerName};

use crate::{
    database::{Database, Error, Range, Write},
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::outbox::{Ledger as LedgerTable, LedgerRecord},
};

/// Kinds of data that a server is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LedgerKind {
    /// Messages and other events without a state key.
    Event,
    /// State of a room besides memberships.
    State,
    /// Who is in a room.
    Membership,
    /// Who is typing.
    Typing,
    /// What somebody has read.
    Receipt,
    /// Who is online.
    Presence,
    /// Devices and keys.
    Device,
    /// Messages to devices.
    ToDevice,
    /// Anything else.
    Other,
}

impl LedgerKind {
    const ALL: [Self; 9] = [
        Self::Event,
        Self::State,
        Self::Membership,
        Self::Typing,
        Self::Receipt,
        Self::Presence,
        Self::Device,
        Self::ToDevice,
        Self::Other,
    ];

    /// Its name, as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "events",
            Self::State => "state",
            Self::Membership => "memberships",
            Self::Typing => "typing",
            Self::Receipt => "receipts",
            Self::Presence => "presence",
            Self::Device => "devices and keys",
            Self::ToDevice => "messages to devices",
            Self::Other => "other",
        }
    }

    fn id(self) -> u8 {
        let place = Self::ALL.iter().position(|kind| *kind == self);
        place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
    }

    fn from_id(id: u8) -> Self {
        Self::ALL.get(usize::from(id)).copied().unwrap_or(Self::Other)
    }

    /// The kind of an event.
    pub(super) fn of_event(kind: &str, is_state: bool) -> Self {
        match (kind, is_state) {
            ("m.room.member", true) => Self::Membership,
            (_, true) => Self::State,
            (_, false) => Self::Event,
        }
    }

    /// The kind of ephemeral data.
    pub(super) fn of_edu(kind: &str) -> Self {
        match kind {
            "m.typing" => Self::Typing,
            "m.receipt" => Self::Receipt,
            "m.presence" => Self::Presence,
            "m.device_list_update" | "m.signing_key_update" => Self::Device,
            "m.direct_to_device" => Self::ToDevice,
            _ => Self::Other,
        }
    }
}

/// What data is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LedgerSubject {
    /// A room.
    Room(RoomNumber),
    /// A local user.
    User(UserNumber),
}

impl LedgerSubject {
    fn in_key(self) -> (u8, u32) {
        match self {
            Self::Room(room) => (0, room.0),
            Self::User(user) => (1, user.0),
        }
    }

    fn from_key(kind: u8, number: u32) -> Self {
        if kind == 0 { Self::Room(RoomNumber(number)) } else { Self::User(UserNumber(number)) }
    }
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The server that was given the data.
    pub server: OwnedServerName,
    /// What it is about.
    pub subject: LedgerSubject,
    /// What it is.
    pub kind: LedgerKind,
    /// When it was first given, in milliseconds since the epoch.
    pub first_ms: u64,
    /// When last.
    pub last_ms: u64,
    /// How many pieces.
    pub count: u64,
    /// How many bytes they were.
    pub bytes: u64,
}

/// Whose lines are asked for.
#[derive(Clone, Debug)]
pub enum LedgerQuery {
    /// What a server was given.
    Partner(OwnedServerName),
    /// Who was given what of a room, or of a user.
    Subject(LedgerSubject),
}

type Key = (Hash128, u8, u32, u8);

/// What was given away and is not yet written down.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Key, LedgerRecord>);

impl Pending {
    /// Notes that a server was given something.
    pub(super) fn note(
        &mut self,
        (hash, server): (Hash128, &ServerName),
        subject: LedgerSubject,
        kind: LedgerKind,
        bytes: usize,
        now_ms: u64,
    ) {
        let (of, number) = subject.in_key();
        let line = self.0.entry((hash, of, number, kind.id())).or_insert_with(|| LedgerRecord {
            server: server.to_string(),
            first_ms: now_ms,
            last_ms: now_ms,
            count: 0,
            bytes: 0,
        });
        line.last_ms = line.last_ms.max(now_ms);
        line.count = line.count.saturating_add(1);
        line.bytes = line.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Takes back what could not be written down.
    pub(super) fn restore(&mut self, other: Self) {
        for (key, line) in other.0 {
            let entry =
                self.0.entry(key).or_insert_with(|| LedgerRecord { count: 0, bytes: 0, ..line.clone() });
            entry.first_ms = entry.first_ms.min(line.first_ms);
            entry.last_ms = entry.last_ms.max(line.last_ms);
            entry.count = entry.count.saturating_add(line.count);
            entry.bytes = entry.bytes.saturating_add(line.bytes);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the rows to a write, on top of those that are there. Nobody else writes them.
    pub(super) async fn write(&self, database: &Database, write: &mut Write) -> Result<(), Error> {
        let keys: Vec<Key> = self.0.keys().copied().collect();
        let rows = database.get_all::<LedgerTable>(&keys).await?;
        for ((key, new), row) in self.0.iter().zip(rows) {
            let line = match row {
                Some(row) => LedgerRecord {
                    last_ms: row.last_ms.max(new.last_ms),
                    count: row.count.saturating_add(new.count),
                    bytes: row.bytes.saturating_add(new.bytes),
                    ..row
                },
                None => new.clone(),
            };
            write.put::<LedgerTable>(key, &line);
        }
        Ok(())
    }
}

/// Reads the ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    database: Database,
}

impl Ledger {
    /// Over a database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The lines of a server, a room or a user.
    pub async fn query(&self, query: &LedgerQuery) -> Result<Vec<LedgerEntry>, Error> {
        let rows = match query {
            LedgerQuery::Partner(server) => {
                let hash = super::server_hash(&self.database, server);
                self.database.scan_all(Range::<LedgerTable>::prefix(&hash)).await?
            }
            LedgerQuery::Subject(subject) => self.of_subject(*subject).await?,
        };
        let entries = rows.into_iter().filter_map(|((_, of, number, kind), row)| {
            Some(LedgerEntry {
                server: ServerName::parse(row.server).ok()?,
                subject: LedgerSubject::from_key(of, number),
                kind: LedgerKind::from_id(kind),
                first_ms: row.first_ms,
                last_ms: row.last_ms,
                count: row.count,
                bytes: row.bytes,
            })
        });
        Ok(entries.collect())
    }

    /// The rows of a room or a user: two reads for each server in the ledger, however long its lines are.
    async fn of_subject(&self, subject: LedgerSubject) -> Result<Vec<(Key, LedgerRecord)>, Error> {
        let (of, number) = subject.in_key();
        let (mut rows, mut range) = (Vec::new(), Range::<LedgerTable>::whole().limit(1));
        loop {
            let page = self.database.scan(&range).await?;
            let Some(((server, ..), _)) = page.rows.first() else { return Ok(rows) };
            rows.extend(self.database.scan_all(Range::<LedgerTable>::prefix(&(*server, of, number))).await?);
            range = Range::<LedgerTable>::after(&(), server).limit(1);
        }
    }
}
