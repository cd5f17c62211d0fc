//! Tables of who is notified of events. Ids 92 to 99.

use allod_storage::Position;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{EventNumber, RoomNumber, UserNumber};

super::tables! {
    /// Whom an event notifies, by its place in the order of arrival: what unread counts are counted from.
    Notified = 92 in TIMELINES: (RoomNumber, Position) => NotifiedRecord, Push, Room;
}

/// What an event is to unread counts, besides notifying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotifiedKind {
    /// A message: its sender has read what came before it.
    Message,
    /// State, of no other kind.
    State,
    /// The sender came into the room: what came before it does not count.
    Join,
    /// It redacts another event, whose row is gone.
    Redaction,
}

/// Local users, out of those in the room at the event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipients {
    /// All of them, but for those named.
    pub everyone: bool,
    /// Those named, by number: all there are, or all who are not.
    pub named: RoaringBitmap,
}

impl Recipients {
    /// Whether a user who was in the room is among them.
    pub fn contains(&self, user: UserNumber) -> bool {
        self.everyone != self.named.contains(user.0)
    }

    /// Whether there are none, as far as is known.
    pub fn is_empty(&self) -> bool {
        !self.everyone && self.named.is_empty()
    }
}

/// Value of [`Notified`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotifiedRecord {
    /// The event.
    pub event: EventNumber,
    /// Who sent it.
    pub sender: UserNumber,
    /// What it is besides.
    pub kind: NotifiedKind,
    /// The root of the thread that it is in; none for the main timeline.
    pub thread: Option<EventNumber>,
    /// Whom it notifies.
    pub notified: Recipients,
    /// For whom it counts as a highlight.
    pub highlighted: Recipients,
}
impl Stored for NotifiedRecord {}
