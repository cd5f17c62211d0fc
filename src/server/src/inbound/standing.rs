//! What another server has to do with a room, and so may know or say of it.

use std::{collections::BTreeSet, sync::Arc};

use quick_cache::sync::Cache;
use ruma::{OwnedServerName, RoomId, ServerName};

use super::Inbound;
use crate::{database::Error, numbers::RoomNumber, rooms::Room, tables::rooms::StateRoot};

/// Rooms whose servers are kept at hand.
const ROOMS_KEPT_MAX: usize = 2_000;

/// How a server stands to a room.
#[derive(Clone, Debug)]
pub enum Standing {
    /// This server does not know the room, or nobody of it is there.
    Unknown,
    /// The room's access control list keeps the other server out.
    Denied,
    /// None of the other server's users has joined.
    Outside(Arc<Room>),
    /// Some user of the other server has joined.
    Allowed(Arc<Room>),
}

/// The servers of rooms, with the state that they were read from.
#[derive(Debug)]
pub(super) struct ServerSets(Cache<RoomNumber, (StateRoot, Arc<BTreeSet<OwnedServerName>>)>);

impl Default for ServerSets {
    fn default() -> Self {
        Self(Cache::new(ROOMS_KEPT_MAX))
    }
}

impl Inbound {
    /// How a server stands to a room.
    pub async fn standing(&self, server: &ServerName, room_id: &RoomId) -> Result<Standing, Error> {
        let Some(room) = self.0.rooms.find(room_id).await? else { return Ok(Standing::Unknown) };
        let servers = self.servers_in(&room).await?;
        if !servers.contains(self.0.users.server_name()) {
            return Ok(Standing::Unknown);
        }
        if !self.0.rooms.allows_server(&room, server).await? {
            return Ok(Standing::Denied);
        }
        Ok(if servers.contains(server) { Standing::Allowed(room) } else { Standing::Outside(room) })
    }

    /// The servers whose users have joined a room.
    pub(super) async fn servers_in(&self, room: &Room) -> Result<Arc<BTreeSet<OwnedServerName>>, Error> {
        if self.0.rooms.is_partial(room.number) {
            return Ok(Arc::new(self.0.rooms.servers_in(room).await?));
        }
        // Read first: a change that comes between makes the set newer than its mark, which costs a reading.
        let root = self.0.rooms.current_root(room.number).await?;
        if let Some((known, servers)) = self.0.servers.0.get(&room.number)
            && known == root
        {
            return Ok(servers);
        }
        let servers = Arc::new(self.0.rooms.servers_in(room).await?);
        self.0.servers.0.insert(room.number, (root, Arc::clone(&servers)));
        Ok(servers)
    }
}
