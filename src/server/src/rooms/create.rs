//! Creating rooms.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

pub use allod_matrix::create_room::CreateRoomError;
use allod_matrix::{
    create_room::{self, Defaults, Encryption, Plan, Profile},
    event::build::{Draft, Place, build, room_id_of},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId,
    RoomVersionId, UInt, UserId,
    api::client::room::{Visibility, create_room::v3::Request},
    room_version_rules::RoomVersionRules,
};

use super::{
    Append, AppendError, Room, Rooms,
    alias::AliasError,
    send::Caller,
    writer::{Outcome, Prepared, Writer},
};
use crate::{
    config::ROOM_VERSIONS,
    database::{Error, Write},
    numbers::RoomNumber,
    tables::rooms::{Published, Room as RoomTable, RoomByName, RoomRecord},
};

/// Why a room was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The request asks for a room that cannot be.
    #[error(transparent)]
    Plan(#[from] CreateRoomError),
    /// The alias is taken.
    #[error("the room alias is taken")]
    AliasInUse,
    /// The alias is malformed.
    #[error("the room alias is malformed")]
    BadAlias,
    /// One of the room's first events is against its own rules.
    #[error("the room would begin in an invalid state: {0}")]
    InvalidState(String),
    /// Invitations that need an identity server.
    #[error("this server does not invite by e-mail address or telephone number")]
    ThirdParty,
    /// Someone who is to be invited does not want invitations of the caller.
    #[error("{0} does not accept your invitations")]
    InviteBlocked(OwnedUserId),
    /// The caller may not publish rooms in the directory.
    #[error("you may not publish rooms in the room directory")]
    MayNotPublish,
    /// An event was not taken.
    #[error(transparent)]
    Append(AppendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Rooms {
    /// Creates a room with all that the request asks for.
    ///
    /// Every event is built and checked before the first is committed, so that an impossible room leaves no trace.
    pub async fn create(
        &self,
        caller: &Caller,
        request: &Request,
        admin: bool,
    ) -> Result<OwnedRoomId, CreateError> {
        self.create_encrypted(caller, request, admin, self.core.options.encryption).await
    }

    /// The same for a room in which the server itself writes, which encrypts nothing.
    pub async fn create_in_clear(
        &self,
        caller: &Caller,
        request: &Request,
    ) -> Result<OwnedRoomId, CreateError> {
        self.create_encrypted(caller, request, true, Encryption::Never).await
    }

    async fn create_encrypted(
        &self,
        caller: &Caller,
        request: &Request,
        admin: bool,
        encryption: Encryption,
    ) -> Result<OwnedRoomId, CreateError> {
        if !request.invite_3pid.is_empty() {
            return Err(CreateError::ThirdParty);
        }
        let published = request.visibility == Visibility::Public;
        if published && !admin && !self.core.options.users_may_publish {
            return Err(CreateError::MayNotPublish);
        }
        for invited in &request.invite {
            if self.is_invite_blocked(caller, invited).await? {
                return Err(CreateError::InviteBlocked(invited.clone()));
            }
        }
        let alias = self.new_alias(request).await?;
        let plan = self.plan(caller, request, alias.as_deref(), encryption).await?;
        let room = self.establish(caller, &plan, alias.as_deref(), published).await?;
        Ok(room.room_id.clone())
    }

    /// Brings a planned room into being.
    pub(super) async fn establish(
        &self,
        caller: &Caller,
        plan: &Plan,
        alias: Option<&RoomAliasId>,
        published: bool,
    ) -> Result<Arc<Room>, CreateError> {
        let at = self.creation_time();
        let drafts: Vec<Draft> = plan
            .events
            .iter()
            .chain(&plan.invites)
            .map(|event| {
                let draft = self.raw_draft(caller, &event.kind, Some(&event.state_key), &event.content);
                Draft { origin_server_ts: at, ..draft }
            })
            .collect();
        let room_id = self.new_room_id(&plan.rules, drafts.first())?;
        let (room, write) = self.room_rows(caller, plan, &room_id, alias, published)?;

        let mut writer = Writer::new(Arc::clone(&self.core), Arc::clone(&room));
        let mut prepared = Vec::with_capacity(drafts.len());
        let mut extra = Some(write);
        for draft in drafts {
            let extra = extra.take().unwrap_or_default();
            let append = Append { extra, ..Append::new(draft, caller.user) };
            if let Outcome::New(_, event) = writer.prepare(append).await.map_err(invalid_state)? {
                prepared.push(*event);
            }
        }
        self.commit_all(prepared).await?;
        self.core.rooms.insert(room.number, Arc::clone(&room));
        Ok(room)
    }

    async fn new_alias(&self, request: &Request) -> Result<Option<OwnedRoomAliasId>, CreateError> {
        let Some(name) = &request.room_alias_name else { return Ok(None) };
        if name.is_empty() || name.contains([':', '\0']) || name.chars().any(char::is_whitespace) {
            return Err(CreateError::BadAlias);
        }
        let alias = RoomAliasId::parse(format!("#{name}:{}", self.core.identity.server_name()))
            .map_err(|_| CreateError::BadAlias)?;
        if self.resolve_alias(alias.as_str()).await?.is_some() {
            return Err(CreateError::AliasInUse);
        }
        Ok(Some(alias))
    }

    async fn plan(
        &self,
        caller: &Caller,
        request: &Request,
        alias: Option<&RoomAliasId>,
        encryption: Encryption,
    ) -> Result<Plan, CreateError> {
        let mut profiles: HashMap<OwnedUserId, Profile> = HashMap::new();
        for user_id in std::iter::once(&caller.user_id).chain(&request.invite) {
            if let Some(user) = self.core.users.number(user_id).await? {
                let known = self.core.profiles.member_profile(user).await?;
                let profile = Profile { displayname: known.displayname, avatar_url: known.avatar_url };
                profiles.insert(user_id.clone(), profile);
            }
        }
        let defaults = Defaults {
            room_version: self.core.options.default_version.clone(),
            supported: &ROOM_VERSIONS,
            encryption,
        };
        let profile_of = |user_id: &UserId| profiles.get(user_id).cloned().unwrap_or_default();
        Ok(create_room::plan(request, &caller.user_id, alias, &defaults, profile_of)?)
    }

    /// The room with its id, and the rows that name it.
    fn room_rows(
        &self,
        caller: &Caller,
        plan: &Plan,
        room_id: &RoomId,
        alias: Option<&RoomAliasId>,
        published: bool,
    ) -> Result<(Arc<Room>, Write), CreateError> {
        let number = RoomNumber(self.core.numbers.next());
        let record = RoomRecord {
            room_id: room_id.to_string(),
            version: plan.room_version.to_string(),
            creator: caller.user,
            created_ms: self.core.clock.now_ms(),
        };
        let room = self.core.room_of(number, &record)?;
        let mut write = Write::new();
        let name = self.core.database.hash("room", room_id.as_str());
        write.absent::<RoomByName>(&name);
        write.put::<RoomByName>(&name, &number);
        write.put::<RoomTable>(&number, &record);
        if published {
            write.put::<Published>(&number, &());
        }
        if let Some(alias) = alias {
            self.write_alias(&mut write, alias, number, caller).map_err(|error| match error {
                AliasError::Storage(error) => CreateError::Storage(error),
                AliasError::InUse => CreateError::AliasInUse,
                AliasError::NotFound | AliasError::NotOurs | AliasError::Forbidden => CreateError::BadAlias,
            })?;
        }
        Ok((Arc::new(room), write))
    }

    /// The time now, but later than that of any room created before: from room version 12 on, the same person creating
    /// the same room twice in a millisecond would otherwise create one room.
    fn creation_time(&self) -> MilliSecondsSinceUnixEpoch {
        let now = self.core.clock.now_ms();
        let last = self.core.last_creation_ms.fetch_max(now, Ordering::Relaxed);
        let at = if now > last {
            now
        } else {
            self.core.last_creation_ms.fetch_add(1, Ordering::Relaxed).saturating_add(1)
        };
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(at))
    }

    /// A random id, or from room version 12 on the hash of the create event, which is therefore built once ahead.
    fn new_room_id(
        &self,
        rules: &RoomVersionRules,
        create: Option<&Draft>,
    ) -> Result<OwnedRoomId, CreateError> {
        if rules.event_format.require_room_create_room_id {
            let id = format!("!{}:{}", self.core.random.token(18), self.core.identity.server_name());
            return RoomId::parse(id).map_err(|_| CreateError::BadAlias);
        }
        let create = create.ok_or(CreateError::InvalidState("no events".to_owned()))?;
        let place = Place { room_id: None, prev_events: Vec::new(), auth_events: Vec::new(), depth: 1 };
        let signed = build(create.clone(), place, rules, self.core.identity.key())
            .map_err(|error| CreateError::Append(error.into()))?;
        room_id_of(&signed.pdu.event_id).ok_or(CreateError::BadAlias)
    }

    /// Commits in order; the later batches fail with the first.
    async fn commit_all(&self, prepared: Vec<Prepared>) -> Result<(), CreateError> {
        let commits: Vec<_> = prepared
            .into_iter()
            .map(|mut prepared| self.core.database.submit(std::mem::take(&mut prepared.write)))
            .collect();
        for commit in commits {
            match commit.await {
                Ok(_) => {}
                // The only thing that can be taken by somebody else meanwhile is the alias.
                Err(allod_storage::CommitError::Conflict(_)) => return Err(CreateError::AliasInUse),
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        Ok(())
    }

    /// The version of new rooms where the client names none.
    pub fn default_version(&self) -> &RoomVersionId {
        &self.core.options.default_version
    }
}

fn invalid_state(error: AppendError) -> CreateError {
    match error {
        AppendError::Forbidden(reason) => CreateError::InvalidState(reason),
        AppendError::Malformed(error) => CreateError::InvalidState(error.to_string()),
        AppendError::Storage(error) => CreateError::Storage(error),
        other => CreateError::Append(other),
    }
}
