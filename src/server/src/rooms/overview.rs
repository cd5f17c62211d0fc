//! What administrators are told of rooms: what a room shows of itself, and figures. Nothing of what is said in it.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedServerName, OwnedUserId, room::RoomSummary};

use super::{Room, Rooms};
use crate::{
    database::Error,
    numbers::RoomNumber,
    tables::rooms::{Membership, RoomHead},
};

/// Users whose ids are looked up together.
const CHUNK_USERS: usize = 1_000;

/// A room in a list.
#[derive(Clone, Debug)]
pub struct Overview {
    /// What the room shows.
    pub summary: RoomSummary,
    /// How many users are invited.
    pub invited: u32,
    /// Events that are stored of it, those that are in no history among them.
    pub events: u32,
    /// Ends of its graph that nothing refers to yet; many of them are a sign of trouble.
    pub extremities: usize,
}

/// A single room.
#[derive(Clone, Debug)]
pub struct Details {
    /// What a list says of it too.
    pub overview: Overview,
    /// Who has joined.
    pub joined: Vec<OwnedUserId>,
    /// The servers whose users have joined.
    pub servers: BTreeSet<OwnedServerName>,
    /// Its aliases on this server.
    pub aliases: Vec<String>,
    /// Whether it is in the public directory of this server.
    pub published: bool,
    /// Whether members are still missing, since it was joined a moment ago.
    pub partial: bool,
}

impl Rooms {
    /// Rooms that the server knows, in the order of their numbers, at most `limit` of them behind `after`; and the number
    /// of the last, if there may be more.
    pub async fn overviews(
        &self,
        after: Option<RoomNumber>,
        limit: usize,
    ) -> Result<(Vec<Overview>, Option<RoomNumber>), Error> {
        let listed = self.list(after, limit).await?;
        let numbers: Vec<RoomNumber> = listed.into_iter().map(|(number, _)| number).collect();
        let last = numbers.last().copied().filter(|_| numbers.len() >= limit);
        let heads = self.core.database.get_all::<RoomHead>(&numbers).await?;
        // Rooms without a head are known by an invitation alone, or are being made.
        let heads: Vec<_> =
            numbers.into_iter().zip(heads).filter_map(|(room, head)| Some((room, head?))).collect();
        let shown = self.shown_states(&heads).await?;
        Ok((shown.iter().map(|(room, shown)| shown.overview(room)).collect(), last))
    }

    /// All that is told of a room.
    pub async fn details(&self, room: &Arc<Room>) -> Result<Details, Error> {
        let overview = self.shown_state(room).await?.overview(room);
        let members = self.members(room.number, Membership::Join).await?;
        let mut joined: Vec<OwnedUserId> = Vec::new();
        for chunk in members.chunks(CHUNK_USERS) {
            joined.extend(self.core.users.ids(chunk).await?.into_iter().flatten());
        }
        joined.sort_unstable();
        Ok(Details {
            overview,
            joined,
            servers: self.servers_in(room).await?,
            aliases: self.aliases(room.number).await?,
            published: self.is_published(room.number).await?,
            partial: self.is_partial(room.number),
        })
    }
}

impl super::shown::Shown {
    fn overview(&self, room: &Room) -> Overview {
        Overview {
            summary: self.summary(room),
            invited: self.head.invited,
            events: self.head.next_event.saturating_sub(1),
            extremities: self.head.extremities.len(),
        }
    }
}
