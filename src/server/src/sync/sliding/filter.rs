//! Which of the user's rooms are in a list.

use roaring::RoaringBitmap;
use serde::Deserialize;

use super::{ListFilters, facts::RoomType, view::Listed};
use crate::{
    database::Error,
    numbers::RoomNumber,
    rooms::send::Caller,
    sync::{Inner, memberships::UserRoomEntry},
    tables::rooms::Membership,
};

impl Inner {
    /// The rooms that all filters let through.
    pub(super) async fn filtered(
        &self,
        caller: &Caller,
        filters: &ListFilters,
        roster: &[Listed],
    ) -> Result<Vec<Listed>, Error> {
        let mut rooms = roster.to_vec();
        if let Some(wanted) = filters.is_invite {
            rooms.retain(|listed| (listed.entry.membership == Membership::Invite) == wanted);
        }
        if let Some(wanted) = filters.is_dm {
            let direct = self.direct(caller.user).await?;
            rooms.retain(|listed| direct.contains(listed.entry.room.0) == wanted);
        }
        if filters.tags.is_some() || !filters.not_tags.is_empty() {
            let tags = self.room_tags(caller.user).await?;
            let has = |room: RoomNumber, wanted: &[String]| {
                tags.get(&room).is_some_and(|tags| wanted.iter().any(|tag| tags.contains(tag)))
            };
            rooms.retain(|listed| {
                let room = listed.entry.room;
                filters.tags.as_ref().is_none_or(|wanted| has(room, wanted)) && !has(room, &filters.not_tags)
            });
        }
        if let Some(spaces) = &filters.spaces {
            let joined = self.memberships.current(caller.user).await?;
            let mut children = RoaringBitmap::new();
            for space in spaces {
                let Some(space) = self.room_named(space).await? else { continue };
                if joined.joined.contains(space.0) {
                    children |= &*self.children(space).await?;
                }
            }
            rooms.retain(|listed| children.contains(listed.entry.room.0));
        }
        self.filter_by_state(caller, filters, &mut rooms).await?;
        Ok(rooms)
    }

    /// The filters that ask what the room says of itself.
    async fn filter_by_state(
        &self,
        caller: &Caller,
        filters: &ListFilters,
        rooms: &mut Vec<Listed>,
    ) -> Result<(), Error> {
        if filters.is_encrypted.is_none() && filters.room_types.is_none() && filters.not_room_types.is_empty()
        {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(rooms.len());
        for listed in rooms.iter() {
            let entry = &listed.entry;
            let (encrypted, kind) = match entry.membership {
                Membership::Invite | Membership::Knock => self.said_outside(caller, entry).await?,
                Membership::Join | Membership::Leave | Membership::Ban => {
                    let encrypted = match filters.is_encrypted {
                        Some(_) => self.members.is_encrypted(entry.room).await?,
                        None => false,
                    };
                    (encrypted, self.room_type(entry.room).await?)
                }
            };
            let is_one =
                |types: &[Option<String>]| types.iter().any(|other| other.as_deref() == kind.as_deref());
            if filters.is_encrypted.is_none_or(|wanted| wanted == encrypted)
                && filters.room_types.as_deref().is_none_or(is_one)
                && !is_one(&filters.not_room_types)
            {
                kept.push(*listed);
            }
        }
        *rooms = kept;
        Ok(())
    }

    /// What an invitation or a knock shows of a room: whether it is encrypted, and its type.
    async fn said_outside(&self, caller: &Caller, entry: &UserRoomEntry) -> Result<(bool, RoomType), Error> {
        #[derive(Deserialize)]
        struct Stripped {
            r#type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            r#type: Option<String>,
        }
        let room = self.sources.rooms.get(entry.room).await?;
        let (mut encrypted, mut kind) = (false, None);
        for event in self.stripped_state(&room, caller.user, entry).await? {
            let Ok(event) = serde_json::from_slice::<Stripped>(&event) else { continue };
            match event.r#type.as_str() {
                "m.room.encryption" => encrypted = true,
                "m.room.create" => kind = event.content.r#type.map(Into::into),
                _ => {}
            }
        }
        Ok((encrypted, kind))
    }
}
