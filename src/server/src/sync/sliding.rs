//! Simplified sliding sync: long polls over the rooms that a client has in view (MSC4186).
//!
//! A request names lists, which are windows onto the user's rooms by activity, and single rooms. What an answer tells
//! is what the client lacks of those, given what its connection was told before. That is kept in memory only
//! (`connection`): after a restart clients are told to begin anew.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use allod_storage::Position;
use ruma::{OwnedRoomId, presence::PresenceState};

use self::connection::Pos;
use super::{Inner, Sync, json::Json, token::SyncToken, v3::TIMEOUT_MAX};
use crate::{
    database::Error,
    numbers::{DeviceNumber, RoomNumber},
    rooms::send::Caller,
};

mod answer;
mod bump;
mod connection;
mod devices;
mod extensions;
mod facts;
mod filter;
mod join;
mod news;
mod outside;
mod view;

pub(super) use self::{connection::Connections, facts::Facts};

/// Most events in a timeline, whatever the client says.
pub const TIMELINE_LIMIT_MAX: usize = 100;
/// Most lists in a request, and most rooms that it names.
pub const RULES_MAX: usize = 100;

/// A request.
#[derive(Clone, Debug)]
pub struct SlidingRequest {
    /// Who asks.
    pub caller: Caller,
    /// The device that asks.
    pub device: DeviceNumber,
    /// Tells the device's connections apart; empty if there is but one.
    pub connection: String,
    /// Repeated in the answer.
    pub transaction: Option<String>,
    /// The last answer's `pos`.
    pub pos: Option<String>,
    /// How long to wait if there is nothing.
    pub timeout: Duration,
    /// What the user is shown as meanwhile.
    pub presence: PresenceState,
    /// Windows onto the user's rooms, by name.
    pub lists: BTreeMap<String, WantedList>,
    /// Rooms that are wanted wherever they stand.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomWish>,
    /// What is wanted besides rooms.
    pub extensions: Extensions,
}

/// A window onto the user's rooms.
#[derive(Clone, Debug, Default)]
pub struct WantedList {
    /// First and last places that are in view, from the room that was active last; all, without.
    pub ranges: Option<Vec<(usize, usize)>>,
    /// Which rooms are in the list.
    pub filters: ListFilters,
    /// What is wanted of each.
    pub wish: RoomWish,
}

/// What is wanted of a room.
#[derive(Clone, Debug, Default)]
pub struct RoomWish {
    /// Most events of the timeline.
    pub timeline_limit: usize,
    /// Types and state keys, with the wildcards of the MSC.
    pub required_state: Vec<(String, String)>,
}

/// Which rooms are in a list: those that all filters let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilters {
    /// Whether `m.direct` names the room.
    pub is_dm: Option<bool>,
    /// Whether the room is encrypted.
    pub is_encrypted: Option<bool>,
    /// Whether the user is invited.
    pub is_invite: Option<bool>,
    /// Types of rooms; `None` among them is a room without.
    pub room_types: Option<Vec<Option<String>>>,
    /// Types of rooms that are left out.
    pub not_room_types: Vec<Option<String>>,
    /// One of these tags.
    pub tags: Option<Vec<String>>,
    /// None of these tags.
    pub not_tags: Vec<String>,
    /// Children of one of these spaces, of those that the user has joined.
    pub spaces: Option<Vec<OwnedRoomId>>,
}

/// What is wanted besides rooms.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    /// Messages to the device, after this token.
    pub to_device: Option<Option<String>>,
    /// Device lists and counts of keys.
    pub e2ee: bool,
    /// Account data; that of rooms for these.
    pub account_data: Option<ExtensionRooms>,
    /// Receipts in these rooms.
    pub receipts: Option<ExtensionRooms>,
    /// Who types in these rooms.
    pub typing: Option<ExtensionRooms>,
    /// Changes of subscriptions to threads, at most so many.
    pub thread_subscriptions: Option<usize>,
}

/// Rooms of an extension.
#[derive(Clone, Debug, Default)]
pub struct ExtensionRooms {
    /// Those of these lists; of all, without.
    pub lists: Option<Vec<String>>,
    /// These of the rooms that the request names; all of them, without.
    pub rooms: Option<Vec<OwnedRoomId>>,
}

/// Why a sliding sync was refused.
#[derive(Debug, thiserror::Error)]
pub enum SlidingError {
    /// The `pos` is not the last one of a connection that is known.
    #[error("the connection is not known, or has gone on")]
    UnknownPos,
    /// The token of messages to the device is not one of ours.
    #[error("not a token of messages to the device")]
    BadInboxToken,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Sync {
    /// Answers a sliding sync, as JSON: at once if there is something to tell or the connection begins, else when there is or
    /// the time is up. Nothing is lost if it is cancelled.
    pub async fn sliding(&self, request: SlidingRequest) -> Result<Vec<u8>, SlidingError> {
        let inner = &self.0;
        let pos = request.pos.as_deref().map(str::parse::<Pos>).transpose();
        let pos = pos.map_err(|_| SlidingError::UnknownPos)?;
        let inbox = devices::acknowledged(&request.extensions, inner.sources.database.store())?;
        let user = request.caller.user;
        // First register, then read: what happens in between wakes.
        let mut rooms = inner.memberships.current(user).await?;
        let waiter = inner.sources.wakes.register(user, &rooms.joined);
        let _syncing = inner.sources.presence.syncing(
            user,
            &request.caller.user_id,
            Arc::clone(&rooms.joined),
            &request.presence,
        );
        let turn = inner.connections.enter(request.device, &request.connection, pos)?;
        let waits = turn.base.is_some() && !request.timeout.is_zero();
        let deadline = tokio::time::sleep(request.timeout.min(TIMEOUT_MAX));
        tokio::pin!(deadline);
        // What was committed before the request is told.
        inner.activity.reach(inner.sources.database.store().head()).await;
        loop {
            // Boxed, so that a sleeping waiter does not keep the space that answering takes.
            let answer = Box::pin(inner.slide(&request, &turn, inbox));
            let answer = tokio::select! {
                answer = answer => answer?,
                () = inner.stopping.cancelled() => return Ok(unchanged(&request)),
            };
            if !waits || answer.tells {
                turn.give(answer.step);
                return Ok(answer.body);
            }
            let others = rooms.joined != answer.rooms.joined;
            if others {
                rooms = answer.rooms;
                waiter.set_rooms(&rooms.joined);
                // What happened meanwhile in a new room woke nobody.
                continue;
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = &mut deadline => {
                    turn.give(answer.step);
                    return Ok(answer.body);
                }
                // The client gave this request up for another one.
                () = turn.superseded() => return Ok(unchanged(&request)),
                () = inner.stopping.cancelled() => return Ok(unchanged(&request)),
            }
        }
    }
}

impl Inner {
    /// The user's room of this id, if they have to do with it.
    async fn room_named(&self, id: &OwnedRoomId) -> Result<Option<RoomNumber>, Error> {
        Ok(self.sources.rooms.find(id).await?.map(|room| room.number))
    }

    /// The token behind which a `pos` says what it says of the connection.
    fn token(&self, position: Position, ephemeral: u64) -> SyncToken {
        let generation = self.sources.database.store().generation();
        SyncToken { generation, position, boot: self.boot, ephemeral, inbox: position }
    }
}

/// An answer that tells nothing and leads back to where the client is.
fn unchanged(request: &SlidingRequest) -> Vec<u8> {
    let mut json = Json::new();
    json.open();
    json.member("pos", &request.pos.as_deref().unwrap_or("s0_0_0.0~0.0"));
    if let Some(transaction) = &request.transaction {
        json.member("txn_id", transaction);
    }
    for name in ["lists", "rooms", "extensions"] {
        json.object(name);
        json.close();
    }
    json.close();
    json.finish()
}
