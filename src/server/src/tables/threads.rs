//! Tables of the threads that users follow. Ids 206 and 207.

use allod_storage::Position;
use serde::{Deserialize, Serialize};

use super::{Stamped, Stored};
use crate::numbers::{EventNumber, RoomNumber, UserNumber};

super::tables! {
    /// What a user wants of a thread, by its root.
    ThreadSubscription = 206 in USER_DATA: (UserNumber, RoomNumber, EventNumber) => Stamped<ThreadSubscriptionRow>, Contact, User;
    /// When each of them changed last: one row a thread, moved at each change.
    ThreadSubscriptionChange = 207 in USER_DATA: (UserNumber, Position, RoomNumber, EventNumber) => (), Operational, User;
}

/// A row of [`ThreadSubscription`]; its position is that of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSubscriptionRow {
    /// Whether the user follows the thread; if not, they did once.
    pub subscribed: bool,
    /// Whether a client subscribed of its own accord.
    pub automatic: bool,
}
impl Stored for ThreadSubscriptionRow {}
