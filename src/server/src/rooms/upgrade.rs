//! Upgrading a room: a new one in another version takes its place (§Room Upgrades).
//!
//! The new room is made whole before the old one says so. The tombstone's commit also moves the old room's aliases and
//! its place in the directory, so that a name always leads to the one or the other.

use std::sync::Arc;

use allod_matrix::{
    create_room::{Plan, StateDraft},
    membership::MemberContent,
};
use ruma::{OwnedUserId, RoomId, RoomVersionId};
use serde_json::{Map, Value, json};

use self::plan::{Old, Replacement};
use super::{
    Append, AppendError, Room, Rooms,
    create::{CreateError, CreateRoomError},
    send::Caller,
};
use crate::{
    config::ROOM_VERSIONS,
    database::{Corrupt, Error, Range, Write},
    tables::rooms::{Alias, Membership, Published, RoomAlias},
};

mod plan;

/// Most bans that the new room takes over.
const BANS_MAX: usize = 1_000;
/// Aliases that move in one commit: four rows each.
const ALIASES_PER_COMMIT: usize = 200;
/// How often the tombstone is tried again when an alias changed at the same moment.
const TRIES_MAX: usize = 5;

/// What the upgraded room shall be.
#[derive(Clone, Debug)]
pub struct Upgrade<'a> {
    /// Its version.
    pub version: &'a RoomVersionId,
    /// Who shall be a creator of it besides the caller, where the version has such.
    pub additional_creators: &'a [OwnedUserId],
}

/// Why a room was not upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The server does not know the room.
    #[error("this server does not know the room")]
    UnknownRoom,
    /// The caller is not in the room, or lacks the power to send a tombstone.
    #[error("you may not upgrade this room")]
    Forbidden,
    /// The new room was not made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The new room was made, but the old one could not be closed.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Rooms {
    /// Replaces a room by a new one with the same settings.
    pub async fn upgrade(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        upgrade: &Upgrade<'_>,
    ) -> Result<Arc<Room>, UpgradeError> {
        let old = self.find(room_id).await?.ok_or(UpgradeError::UnknownRoom)?;
        if !self.may_send_state(&old, caller, "m.room.tombstone").await? {
            return Err(UpgradeError::Forbidden);
        }
        let plan = self.plan_upgrade(&old, caller, upgrade).await?;
        let new = self.establish(caller, &plan, None, false).await?;
        self.bury(&old, &new, caller).await?;
        self.close(&old, caller).await?;
        Ok(new)
    }

    /// The room that this one says it replaces, if that one says so too, or if the user made this one themselves.
    pub async fn predecessor(&self, room: &Arc<Room>, caller: &Caller) -> Result<Option<Arc<Room>>, Error> {
        let create = self.current_content(room, "m.room.create", "").await?;
        let named = create.as_ref().and_then(|content| content.get("predecessor")?.get("room_id")?.as_str());
        let Some(old) = named.and_then(|room_id| RoomId::parse(room_id).ok()) else { return Ok(None) };
        let Some(old) = self.find(&old).await?.filter(|old| old.number != room.number) else {
            return Ok(None);
        };
        if room.creator == caller.user {
            return Ok(Some(old));
        }
        let tombstone = self.current_content(&old, "m.room.tombstone", "").await?;
        let replacement = tombstone.as_ref().and_then(|content| content.get("replacement_room")?.as_str());
        Ok((replacement == Some(room.room_id.as_str())).then_some(old))
    }

    async fn plan_upgrade(
        &self,
        old: &Arc<Room>,
        caller: &Caller,
        upgrade: &Upgrade<'_>,
    ) -> Result<Plan, UpgradeError> {
        let version = upgrade.version;
        let unsupported = || CreateError::Plan(CreateRoomError::UnsupportedVersion(version.clone()));
        let rules = version.rules().filter(|_| ROOM_VERSIONS.contains(version)).ok_or_else(unsupported)?;
        let state = self.old_state(old).await?;
        let replacement = Replacement {
            version,
            rules: &rules.authorization,
            creator: &caller.user_id,
            additional_creators: upgrade.additional_creators,
        };
        let profile = self.core.profiles.member_profile(caller.user).await?;
        let member = MemberContent {
            membership: "join",
            displayname: profile.displayname.as_deref(),
            avatar_url: profile.avatar_url.as_deref(),
            ..MemberContent::default()
        };
        let member = StateDraft {
            kind: "m.room.member".to_owned(),
            state_key: caller.user_id.to_string(),
            content: member.to_raw().map_err(|error| CreateError::Plan(error.into()))?,
        };
        let events = plan::events(&state, &replacement, member).map_err(CreateError::Plan)?;
        Ok(Plan { room_version: version.clone(), rules, events, invites: Vec::new() })
    }

    /// What the new room is made from.
    async fn old_state(&self, old: &Arc<Room>) -> Result<Old, Error> {
        let (at, shown) = self.shown_at(old).await?;
        let children = self.space_children(old, at, &shown, false).await?;
        let mut state = Map::new();
        for kind in plan::COPIED.iter().chain(&["m.room.create", "m.room.power_levels"]) {
            if let Some(content) = self.current_content(old, kind, "").await? {
                state.insert((*kind).to_owned(), content);
            }
        }
        let last = shown.head.extremities.first().copied();
        let last = last.ok_or(Error::Corrupt("RoomHead", Corrupt("a room has no events")))?;
        let last = self.core.events.load(old.number, last).await?;
        Ok(Old {
            room_id: old.room_id.clone(),
            last_event: last.record.event_id.clone(),
            privileges_creators: old.rules.authorization.explicitly_privilege_room_creators,
            state,
            aliases: self.aliases(old.number).await?,
            children: children
                .into_iter()
                .map(|child| (child.room_id.to_string(), Value::Object(child.content)))
                .collect(),
            bans: self.bans(old).await?,
        })
    }

    async fn bans(&self, old: &Arc<Room>) -> Result<Vec<(String, Value)>, Error> {
        let mut banned = self.members(old.number, Membership::Ban).await?;
        if banned.len() > BANS_MAX {
            tracing::warn!(bans = banned.len(), "an upgraded room takes over only its first {BANS_MAX} bans");
            banned.truncate(BANS_MAX);
        }
        let mut bans = Vec::with_capacity(banned.len());
        for user_id in self.core.users.ids(&banned).await?.into_iter().flatten() {
            let content = self.current_content(old, "m.room.member", user_id.as_str()).await?;
            let reason = content.as_ref().and_then(|content| content.get("reason")?.as_str());
            let mut ban = json!({"membership": "ban"});
            if let (Some(reason), Some(ban)) = (reason, ban.as_object_mut()) {
                ban.insert("reason".to_owned(), reason.into());
            }
            bans.push((user_id.to_string(), ban));
        }
        Ok(bans)
    }

    /// Sends the tombstone, and moves the names of the old room with it.
    async fn bury(&self, old: &Arc<Room>, new: &Arc<Room>, caller: &Caller) -> Result<(), UpgradeError> {
        let content = json!({
            "body": "This room has been replaced",
            "replacement_room": new.room_id,
        });
        let mut tries = 0;
        loop {
            let (extra, _) = self.moved_names(old, new).await?;
            let draft = self.draft(caller, "m.room.tombstone", Some(""), &content)?;
            let append = Append { extra, ..Append::new(draft, caller.user) };
            match self.append(old, append).await {
                Err(AppendError::Conflict(_)) if tries < TRIES_MAX => tries += 1,
                other => break drop(other?),
            }
        }
        loop {
            let (write, aliases) = self.moved_names(old, new).await?;
            if aliases == 0 {
                return Ok(());
            }
            match self.core.database.commit(write).await {
                Ok(_) | Err(allod_storage::CommitError::Conflict(_)) => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }

    /// The rows that move a page of the old room's aliases and its place in the directory; how many aliases that are.
    async fn moved_names(&self, old: &Room, new: &Room) -> Result<(Write, usize), Error> {
        let mut write = Write::new();
        if self.is_published(old.number).await? {
            write.delete::<Published>(&old.number);
            write.put::<Published>(&new.number, &());
        }
        let range = Range::<RoomAlias>::prefix(&old.number).limit(ALIASES_PER_COMMIT);
        let page = self.core.database.scan(&range).await?;
        for ((_, hash), text) in &page.rows {
            write.delete::<RoomAlias>(&(old.number, *hash));
            let Some(row) = self.core.database.get::<Alias>(hash).await? else { continue };
            if row.room == old.number {
                write.equals::<Alias>(hash, &row);
                let mut moved = row;
                moved.room = new.number;
                write.put::<Alias>(hash, &moved);
                write.put::<RoomAlias>(&(new.number, *hash), text);
            }
        }
        Ok((write, page.rows.len()))
    }

    /// Raises what it takes to speak and to invite in the old room, as far as the caller may.
    async fn close(&self, old: &Arc<Room>, caller: &Caller) -> Result<(), Error> {
        const KIND: &str = "m.room.power_levels";
        let Some(Value::Object(mut levels)) = self.current_content(old, KIND, "").await? else {
            return Ok(());
        };
        if !plan::raise(&mut levels) {
            return Ok(());
        }
        let Ok(draft) = self.draft(caller, KIND, Some(""), &Value::Object(levels)) else { return Ok(()) };
        let append = Append::new(draft, caller.user);
        match self.append(old, append).await {
            Err(AppendError::Storage(error)) => Err(error),
            // The spec asks for it "if possible": the tombstone is what counts.
            Err(error) => {
                tracing::debug!(%error, "the levels of an upgraded room stay as they were");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}
