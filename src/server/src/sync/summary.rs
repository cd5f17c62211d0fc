//! Who is in a room, for clients that name it by its members.

use allod_matrix::sync::heroes::{Candidate, choose};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::room_delta::RoomReader;
use crate::{
    database::{Error, Range},
    numbers::UserNumber,
    rooms::{Room, access::View},
    tables::{
        Stamped,
        rooms::{HeadRecord, Membership, RoomHead, RoomMember, StateRoot},
    },
};

/// Members looked at to find heroes: a room that large without a name is no chat among friends.
const HERO_CANDIDATES_MAX: usize = 500;

/// The `summary` of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// `m.heroes`, for a room without a name.
    pub(crate) heroes: Vec<(UserNumber, OwnedUserId)>,
    /// `m.joined_member_count`
    pub(crate) joined: u32,
    /// `m.invited_member_count`
    pub(crate) invited: u32,
}

impl RoomReader {
    /// The summary of a room whose state is `tree`. Counts may be newer than that: then the next sync tells them again.
    pub(super) async fn summary(
        &self,
        view: &View,
        tree: StateRoot,
        head: Option<&Stamped<HeadRecord>>,
    ) -> Result<Summary, Error> {
        self.summary_unless(view, tree, head, &["m.room.name", "m.room.canonical_alias"]).await
    }

    /// The same, where a room that has an alias and no name has heroes all the same.
    pub(super) async fn summary_despite_alias(
        &self,
        view: &View,
        tree: StateRoot,
        head: Option<&Stamped<HeadRecord>>,
    ) -> Result<Summary, Error> {
        self.summary_unless(view, tree, head, &["m.room.name"]).await
    }

    /// A summary with heroes unless state of one of these types names the room.
    async fn summary_unless(
        &self,
        view: &View,
        tree: StateRoot,
        head: Option<&Stamped<HeadRecord>>,
        naming: &[&str],
    ) -> Result<Summary, Error> {
        let (joined, invited) = if let Some(head) = head {
            (head.value.joined, head.value.invited)
        } else {
            let head = self.database.get::<RoomHead>(&view.room.number).await?;
            head.map_or((0, 0), |head| (head.value.joined, head.value.invited))
        };
        let named = self.has_name(&view.room, tree, naming).await?;
        let heroes = if named { Vec::new() } else { self.heroes(view).await? };
        Ok(Summary { heroes, joined, invited })
    }

    async fn has_name(&self, room: &Room, tree: StateRoot, naming: &[&str]) -> Result<bool, Error> {
        #[derive(Default, Deserialize)]
        struct Content {
            #[serde(default)]
            name: Option<String>,
            #[serde(default)]
            alias: Option<String>,
        }
        let keys: Vec<_> = naming.iter().map(|kind| room.hash_key.entry_key(kind, "")).collect();
        let numbers: Vec<_> =
            self.rooms.states().get_many(room, tree, &keys).await?.into_iter().flatten().collect();
        for event in self.rooms.events().load_many(room.number, &numbers).await? {
            let content: Content = event.pdu(room)?.content_as().unwrap_or_default();
            if [content.name, content.alias].into_iter().flatten().any(|name| !name.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn heroes(&self, view: &View) -> Result<Vec<(UserNumber, OwnedUserId)>, Error> {
        let range = Range::<RoomMember>::prefix(&view.room.number).limit(HERO_CANDIDATES_MAX);
        let rows = self.database.scan(&range).await?.rows;
        let candidates = rows.iter().map(|((_, user), row)| Candidate {
            id: *user,
            present: matches!(row.value.membership, Membership::Join | Membership::Invite),
            gone: matches!(row.value.membership, Membership::Leave | Membership::Ban),
            since: row.position.get(),
        });
        let heroes = choose(candidates, view.caller.user);
        let ids = self.users.ids(&heroes).await?;
        Ok(heroes.into_iter().zip(ids).filter_map(|(hero, id)| Some((hero, id?))).collect())
    }
}
