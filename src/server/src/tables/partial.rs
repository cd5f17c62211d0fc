//! Tables of rooms that were joined before all of their state was here. Ids 100 to 104.

use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{EventNumber, RoomNumber, UserNumber};

super::tables! {
    /// Rooms of whose state the members are missing, until they have come.
    PartialRoom = 100 in ROOMS: RoomNumber => PartialRecord, Membership, Room;
    /// Events of such a room whose state rests on the missing one: they are judged anew when it is here.
    PartialEvent = 101 in EVENTS: (RoomNumber, EventNumber) => PartialEventRecord, Content, Room;
    /// The servers in such a room, as the one told that let us in; the number only tells them apart.
    PartialServer = 102 in ROOMS: (RoomNumber, u32) => String, Membership, Room;
    /// Rooms that have become whole, and when: what was shown before was less than there was.
    WholeRoom = 103 in ROOMS: RoomNumber => Stamped<WholeRecord>, Operational, Room;
    /// Users whose devices or keys changed while it was not known whether they are in such a room.
    PartialDeviceList = 104 in ROOMS: (RoomNumber, UserNumber) => (), Device, Room;
}

/// Value of [`PartialRoom`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRecord {
    /// The server that let us in, which is asked first.
    pub via: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}
impl Stored for PartialRecord {}

/// Value of [`PartialEvent`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialEventRecord {
    /// The events that it follows and that are not here: the states after them are to be fetched. Only a join has such.
    pub missing: Vec<String>,
    /// The whole state that was stated for those that it follows and that are not here.
    pub given: Option<super::rooms::StateRoot>,
}
impl Stored for PartialEventRecord {}

/// Value of [`WholeRoom`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRecord {
    /// The joins whose states were missing.
    pub joins: Vec<EventNumber>,
}
impl Stored for WholeRecord {}
