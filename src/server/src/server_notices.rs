//! Notices of the server to its users: each user gets them in a room with nobody else, from an account that nobody signs
//! in to.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-notices>

use std::sync::Arc;

use ruma::{
    OwnedUserId, RoomId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
    events::tag::TagInfo,
    serde::Raw,
};
use serde_json::{json, value::RawValue};
use tokio::sync::Mutex;

use crate::{
    accounts::{AccountError, Accounts, NewAccount},
    audit::Actor,
    config::Live,
    database::{Database, Error, Write},
    numbers::{DeviceNumber, UserNumber},
    profiles::{ProfileError, Profiles},
    rooms::{
        Room, Rooms,
        create::CreateError,
        membership::{MembershipError, MembershipOptions},
        send::{Caller, SendError, TransactionName},
    },
    tables::{accounts::AccountKind, notices::NoticeRoom, rooms::Membership},
    tags::{TagError, Tags},
};

/// The tag by which clients know such rooms.
const TAG: &str = "m.server_notice";
/// The display name of the account that sends.
const DISPLAY_NAME: &str = "Notices";
/// The name of the rooms.
const ROOM_NAME: &str = "Notices of your server";
/// The level of everybody but the server's account: they cannot invite, and not send.
const USERS_LEVEL: i64 = -10;

/// A notice.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// Whom it is for.
    pub to: &'a UserId,
    /// The event's type.
    pub kind: &'a str,
    /// Its state key, for a state event.
    pub state_key: Option<&'a str>,
    /// Its content.
    pub content: &'a RawValue,
}

/// Why a notice was not sent.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// No account is configured to send them.
    #[error("notices.user is not set in the configuration")]
    Off,
    /// There is no such account here.
    #[error("there is no such account on this server")]
    UnknownUser,
    /// The account that sends them could not be made.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// It could not be named.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The room could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The user could not be invited.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The room could not be tagged.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The event was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct ServerNoticesSources {
    /// The rows.
    pub database: Database,
    /// The configuration.
    pub config: Live,
    /// Accounts, for the one that sends.
    pub accounts: Accounts,
    /// Its profile.
    pub profiles: Profiles,
    /// Rooms.
    pub rooms: Rooms,
    /// Tags of rooms.
    pub tags: Tags,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerNotices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: ServerNoticesSources,
    /// Held while a room is made, so that nobody gets two.
    making: Mutex<()>,
}

impl ServerNotices {
    /// The service.
    pub fn new(sources: ServerNoticesSources) -> Self {
        Self(Arc::new(Inner { sources, making: Mutex::default() }))
    }

    /// Sends a notice; its event id. The same transaction of the same device again gets the first one's answer.
    pub async fn send(
        &self,
        notice: Notice<'_>,
        device: Option<DeviceNumber>,
        transaction: TransactionName<'_>,
    ) -> Result<ruma::OwnedEventId, NoticeError> {
        let sources = &self.0.sources;
        let name = sources.config.get().notices.user.clone().ok_or(NoticeError::Off)?;
        let sender = self.sender(&name).await?;
        let users = sources.accounts.users();
        let user = users.number(notice.to).await?.ok_or(NoticeError::UnknownUser)?;
        let account = users.account(user).await?.ok_or(NoticeError::UnknownUser)?;
        if account.deactivated_ms.is_some() || user == sender.user {
            return Err(NoticeError::UnknownUser);
        }
        let target = Caller { user_id: notice.to.to_owned(), user, device: None };
        let room = self.room_of(&sender, &target).await?;
        let rooms = &sources.rooms;
        if let Some(key) = notice.state_key {
            return Ok(rooms.set_state(&room.room_id, &sender, notice.kind, key, notice.content).await?);
        }
        let sender = Caller { device, ..sender };
        Ok(rooms.send(&room.room_id, &sender, notice.kind, notice.content, transaction).await?)
    }

    /// Whether a user may leave a room: an invitation to the room of notices cannot be refused.
    pub async fn may_leave(&self, caller: &Caller, room_id: &RoomId) -> Result<bool, Error> {
        let sources = &self.0.sources;
        let Some(number) = sources.database.get::<NoticeRoom>(&caller.user).await? else { return Ok(true) };
        if sources.rooms.get(number).await?.room_id != room_id {
            return Ok(true);
        }
        let member = sources.rooms.member(number, caller.user).await?;
        Ok(member.is_none_or(|member| member.membership != Membership::Invite))
    }

    /// The account that sends, made if there is none yet.
    async fn sender(&self, name: &str) -> Result<Caller, NoticeError> {
        let accounts = &self.0.sources.accounts;
        let server_name = accounts.users().server_name();
        let user_id: OwnedUserId =
            UserId::parse(format!("@{name}:{server_name}")).map_err(|_| NoticeError::Off)?;
        let user = match self.account(&user_id).await? {
            Some(user) => user,
            None => self.make_account(&user_id).await?,
        };
        let display_name = serde_json::value::to_raw_value(DISPLAY_NAME).ok();
        self.0.sources.profiles.set(user, "displayname", display_name.as_deref()).await?;
        Ok(Caller { user_id, user, device: None })
    }

    async fn make_account(&self, user_id: &UserId) -> Result<UserNumber, NoticeError> {
        let new = NewAccount {
            user_id: user_id.to_owned(),
            kind: AccountKind::User,
            admin: false,
            password_hash: None,
        };
        match self.0.sources.accounts.create(Actor::Operator, &new).await {
            // Made by another notice meanwhile.
            Err(AccountError::NameTaken) => self.account(user_id).await?.ok_or(NoticeError::UnknownUser),
            made => Ok(made?),
        }
    }

    async fn account(&self, user_id: &UserId) -> Result<Option<UserNumber>, Error> {
        let users = self.0.sources.accounts.users();
        let Some(user) = users.number(user_id).await? else { return Ok(None) };
        Ok(users.account(user).await?.map(|_| user))
    }

    /// The user's room of notices, with the user in it or invited.
    async fn room_of(&self, sender: &Caller, target: &Caller) -> Result<Arc<Room>, NoticeError> {
        let sources = &self.0.sources;
        let making = self.0.making.lock().await;
        let room = match sources.database.get::<NoticeRoom>(&target.user).await? {
            Some(number) if sources.rooms.is_joined(number, sender.user).await? => {
                sources.rooms.get(number).await?
            }
            Some(_) | None => self.make_room(sender, target).await?,
        };
        drop(making);
        let member = sources.rooms.member(room.number, target.user).await?;
        let membership = member.map(|member| member.membership);
        if !matches!(membership, Some(Membership::Join | Membership::Invite)) {
            let invitation = MembershipOptions::default();
            sources.rooms.invite(&room.room_id, sender, &target.user_id, &invitation).await?;
        }
        Ok(room)
    }

    async fn make_room(&self, sender: &Caller, target: &Caller) -> Result<Arc<Room>, NoticeError> {
        let sources = &self.0.sources;
        let mut request = Request::new();
        request.preset = Some(RoomPreset::PrivateChat);
        request.name = Some(ROOM_NAME.to_owned());
        let levels = json!({ "users_default": USERS_LEVEL }).to_string();
        request.power_level_content_override = Raw::from_json_string(levels).ok();
        let room_id = sources.rooms.create_in_clear(sender, &request).await?;
        let room = sources.rooms.known(&room_id).await?;
        let mut write = Write::new();
        write.put::<NoticeRoom>(&target.user, &room.number);
        sources.database.commit(write).await.map_err(Error::from)?;
        sources.tags.set(target.user, room.number, TAG, &TagInfo::new()).await?;
        Ok(room)
    }
}
