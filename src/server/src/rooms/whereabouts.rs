//! In which rooms users of other servers are: the list of a room's members, by user.
//!
//! Rows are put and deleted with the memberships; what they say is looked up there, so that one too many means nothing.

use roaring::RoaringBitmap;

use super::Rooms;
use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    numbers::{RoomNumber, UserNumber},
    tables::{
        Table,
        rooms::{Membership, RoomMember},
        upkeep::{Chore, ChoreRow},
        whereabouts::RemoteUserRoom,
    },
};

/// Rows of one page.
const PAGE_ROWS: usize = 1_000;

/// Writes down that a user of another server is in a room now, or no longer.
pub(super) fn put(write: &mut Write, user: UserNumber, room: RoomNumber, after: Option<Membership>) {
    if after == Some(Membership::Join) {
        write.put::<RemoteUserRoom>(&(user, room), &());
    } else {
        write.delete::<RemoteUserRoom>(&(user, room));
    }
}

/// Fills the table once, in a database from before there was one.
pub(super) async fn fill(database: &Database, clock: &Clock) -> Result<(), Error> {
    let done = RemoteUserRoom::INFO.id;
    if database.get::<Chore>(&done).await?.is_some() {
        return Ok(());
    }
    let mut range = Range::<RoomMember>::whole().limit(PAGE_ROWS);
    loop {
        let page = database.scan(&range).await?;
        let mut write = Write::new();
        for ((room, user), row) in &page.rows {
            if row.value.membership == Membership::Join {
                put(&mut write, *user, *room, Some(Membership::Join));
            }
        }
        if !write.is_empty() {
            database.commit(write).await?;
        }
        match page.rows.last() {
            Some((last, _)) if page.more => range = range.continued_after(last),
            _ => break,
        }
    }
    let mut write = Write::new();
    write.put::<Chore>(&done, &ChoreRow { finished_ms: clock.now_ms(), ..ChoreRow::default() });
    database.commit(write).await?;
    Ok(())
}

impl Rooms {
    /// The rooms that a user has joined, whoever's user it is. Costs as many reads as there are such rooms.
    pub async fn joined_by(&self, user: UserNumber) -> Result<RoaringBitmap, Error> {
        let user_id = self.core.users.id(user).await?;
        if user_id.is_some_and(|user_id| self.core.identity.is_ours(&user_id)) {
            let rooms = self.rooms_of(user, Membership::Join).await?;
            return Ok(rooms.into_iter().map(|room| room.0).collect());
        }
        let mut joined = RoaringBitmap::new();
        let mut range = Range::<RemoteUserRoom>::prefix(&user).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?;
            let keys: Vec<_> = page.rows.iter().map(|((_, room), ())| (*room, user)).collect();
            for ((room, _), row) in keys.iter().zip(self.core.database.get_all::<RoomMember>(&keys).await?) {
                if row.is_some_and(|row| row.value.membership == Membership::Join) {
                    joined.insert(room.0);
                }
            }
            match page.rows.last() {
                Some((last, ())) if page.more => range = range.continued_after(last),
                _ => return Ok(joined),
            }
        }
    }
}
