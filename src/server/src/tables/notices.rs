//! The table of the rooms in which users get notices. Ids 145 to 149.

use crate::numbers::{RoomNumber, UserNumber};

super::tables! {
    /// The room in which a user gets the notices of this server.
    NoticeRoom = 145 in USER_DATA: UserNumber => RoomNumber, Membership, User;
}
