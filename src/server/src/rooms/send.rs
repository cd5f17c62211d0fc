//! Sending: messages, state and redactions of local users.

use allod_matrix::event::build::Draft;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, UserId,
    events::room::power_levels::UserPowerLevel,
};
use serde_json::{Value, value::RawValue};

use super::{Append, AppendError, Rooms, membership::MembershipError};
use crate::{
    database::{Error, Write},
    numbers::{DeviceNumber, Hash128, UserNumber},
    tables::rooms::Transaction,
};

/// The local user, and device if there is one, in whose name something is done.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user's id.
    pub user_id: OwnedUserId,
    /// The user's number.
    pub user: UserNumber,
    /// The device.
    pub device: Option<DeviceNumber>,
}

/// Why an event was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The caller is not in the room, or the server does not know it.
    #[error("you are not in this room")]
    NotInRoom,
    /// The content lacks what its type demands.
    #[error("{0}")]
    BadContent(&'static str),
    /// An alias in `m.room.canonical_alias` does not point to the room.
    #[error("{0} does not point to this room")]
    BadAlias(String),
    /// A file is attached to something already.
    #[error("a file is attached to something already")]
    Attached,
    /// An alias in `m.room.canonical_alias` is no alias.
    #[error("{0}")]
    MalformedAlias(&'static str),
    /// The event was not taken.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<MembershipError> for SendError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::UnknownRoom
            | MembershipError::Forbidden(_)
            | MembershipError::GuestsForbidden
            | MembershipError::InviteBlocked
            | MembershipError::StillIn => Self::NotInRoom,
            MembershipError::Append(error) => Self::Append(error),
            MembershipError::Storage(error) => Self::Storage(error),
        }
    }
}

/// What names one sending, so that a repetition is recognised.
#[derive(Clone, Copy, Debug)]
pub struct TransactionName<'a> {
    /// The endpoint with its path, without the transaction id.
    pub path: &'a str,
    /// The client's transaction id.
    pub id: &'a str,
}

/// What is out of the ordinary about an event.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// When it was sent, if not now.
    pub at: Option<MilliSecondsSinceUnixEpoch>,
    /// Files that are attached to it (MSC3911).
    pub attached: Vec<AttachedMedia>,
}

/// A file that may be attached to an event; [`Media::attachable`](crate::media::Media::attachable) says which may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedMedia(pub(crate) Hash128);

fn keys_of(attached: &[AttachedMedia]) -> Vec<Hash128> {
    attached.iter().map(|file| file.0).collect()
}

impl Rooms {
    /// Sends a message event. A repeated transaction gets the first one's answer.
    pub async fn send(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        kind: &str,
        content: &RawValue,
        transaction: TransactionName<'_>,
    ) -> Result<OwnedEventId, SendError> {
        self.send_with(room_id, caller, (kind, content), transaction, SendOptions::default()).await
    }

    /// The same with what is out of the ordinary about it.
    pub async fn send_with(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        (kind, content): (&str, &RawValue),
        transaction: TransactionName<'_>,
        options: SendOptions,
    ) -> Result<OwnedEventId, SendError> {
        let named = caller.device.map(|device| {
            let hash =
                self.core.database.hash("transaction", format!("{}\0{}", transaction.path, transaction.id));
            (device, hash, transaction.id.to_owned())
        });
        if let Some((device, hash, _)) = &named
            && let Some(done) = self.transaction_done(*device, *hash).await?
        {
            return Ok(done);
        }
        let room = self.find(room_id).await?.ok_or(SendError::NotInRoom)?;
        check_message(kind, content)?;
        let mut draft = self.raw_draft(caller, kind, None, content);
        draft.origin_server_ts = options.at.unwrap_or(draft.origin_server_ts);
        let attached = keys_of(&options.attached);
        let append =
            Append { draft, sender: caller.user, transaction: named.clone(), attached, extra: Write::new() };
        match (self.append(&room, append).await, named) {
            (Ok(appended), _) => Ok(appended.event_id),
            // The same transaction came in twice at once, and the other was first.
            (Err(error @ (AppendError::Conflict(_) | AppendError::Busy)), Some((device, hash, _))) => {
                let done = self.transaction_done(device, hash).await?;
                done.ok_or_else(|| not_sent(error, &options.attached))
            }
            (Err(error), _) => Err(not_sent(error, &options.attached)),
        }
    }

    /// Sets a piece of state; where it is already so, the event that says so is the answer.
    pub async fn set_state(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        kind: &str,
        state_key: &str,
        content: &RawValue,
    ) -> Result<OwnedEventId, SendError> {
        self.set_state_with(room_id, caller, (kind, state_key, content), SendOptions::default()).await
    }

    /// The same with what is out of the ordinary about it.
    pub async fn set_state_with(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        (kind, state_key, content): (&str, &str, &RawValue),
        options: SendOptions,
    ) -> Result<OwnedEventId, SendError> {
        let room = self.find(room_id).await?.ok_or(SendError::NotInRoom)?;
        match kind {
            "m.room.create" => return Err(SendError::BadContent("a room is created once")),
            "m.room.canonical_alias" => self.check_canonical_alias(&room, content).await?,
            "m.room.power_levels" => self.check_power_levels(&room, content).await?,
            _ => {}
        }
        let mut draft = match without_authoriser(kind, content) {
            Some(content) => self.raw_draft(caller, kind, Some(state_key), &raw(&content)?),
            None => self.raw_draft(caller, kind, Some(state_key), content),
        };
        draft.origin_server_ts = options.at.unwrap_or(draft.origin_server_ts);
        let attached = keys_of(&options.attached);
        let append = Append { draft, sender: caller.user, transaction: None, attached, extra: Write::new() };
        let appended = self.append(&room, append).await;
        Ok(appended.map_err(|error| not_sent(error, &options.attached))?.event_id)
    }

    /// Redacts an event.
    pub async fn redact(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &EventId,
        reason: Option<&str>,
        transaction: TransactionName<'_>,
    ) -> Result<OwnedEventId, SendError> {
        let mut content = serde_json::Map::new();
        content.insert("redacts".to_owned(), target.as_str().into());
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        let content = raw(&Value::Object(content)).map_err(SendError::Append)?;
        self.send(room_id, caller, "m.room.redaction", &content, transaction).await
    }

    /// An event in the caller's name, at the present time.
    pub(crate) fn draft(
        &self,
        caller: &Caller,
        kind: &str,
        state_key: Option<&str>,
        content: &Value,
    ) -> Result<Draft, AppendError> {
        Ok(self.raw_draft(caller, kind, state_key, &raw(content)?))
    }

    pub(crate) fn raw_draft(
        &self,
        caller: &Caller,
        kind: &str,
        state_key: Option<&str>,
        content: &RawValue,
    ) -> Draft {
        Draft {
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: content.to_owned(),
            sender: caller.user_id.clone(),
            redacts: None,
            unsigned: None,
            origin_server_ts: self.core.clock.now(),
        }
    }

    async fn transaction_done(
        &self,
        device: DeviceNumber,
        hash: Hash128,
    ) -> Result<Option<OwnedEventId>, SendError> {
        let done = self.core.database.get::<Transaction>(&(device, hash)).await?;
        Ok(done.and_then(|done| EventId::parse(done.event_id).ok()))
    }

    /// Aliases that are new in `m.room.canonical_alias` must point to the room.
    async fn check_canonical_alias(&self, room: &super::Room, content: &RawValue) -> Result<(), SendError> {
        let before = self.current_content(room, "m.room.canonical_alias", "").await?;
        let after: Value = serde_json::from_str(content.get())
            .map_err(|_| SendError::BadContent("content is not an object"))?;
        let known = aliases_of(&before.unwrap_or_default());
        for alias in aliases_of(&after) {
            let Some(alias) = alias else {
                return Err(SendError::MalformedAlias("aliases must be strings"));
            };
            if known.contains(&Some(alias.clone())) {
                continue;
            }
            if ruma::RoomAliasId::parse(&alias).is_err() {
                return Err(SendError::MalformedAlias("an alias is malformed"));
            }
            if self.resolve_alias(&alias).await? != Some(room.number) {
                return Err(SendError::BadAlias(alias));
            }
        }
        Ok(())
    }

    /// Power levels must not name those whose power has no level: creators since room version 12.
    async fn check_power_levels(&self, room: &super::Room, content: &RawValue) -> Result<(), SendError> {
        #[derive(serde::Deserialize)]
        struct Levels {
            #[serde(default)]
            users: std::collections::BTreeMap<String, Value>,
        }
        // What is malformed otherwise is for the rules of the room to refuse.
        let Ok(Levels { users }) = serde_json::from_str(content.get()) else { return Ok(()) };
        let powers = self.powers(room).await?;
        let mut named = users.keys().filter_map(|user| <&UserId>::try_from(user.as_str()).ok());
        if named.any(|user| powers.of(user) == Some(UserPowerLevel::Infinite)) {
            return Err(SendError::BadContent("users must not name creators, who have all power"));
        }
        Ok(())
    }

    /// The content of a piece of current state.
    pub(crate) async fn current_content(
        &self,
        room: &super::Room,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Value>, Error> {
        Ok(self.current_pdu(room, kind, state_key).await?.and_then(|pdu| pdu.content_as()))
    }
}

/// Why an event with attachments was not taken.
fn not_sent(error: AppendError, attached: &[AttachedMedia]) -> SendError {
    match error {
        AppendError::Conflict(check) if check < attached.len() => SendError::Attached,
        error => SendError::Append(error),
    }
}

fn aliases_of(content: &Value) -> Vec<Option<String>> {
    let one = content.get("alias").filter(|alias| !alias.is_null() && alias.as_str() != Some(""));
    let more = content.get("alt_aliases").and_then(Value::as_array).into_iter().flatten();
    one.into_iter().chain(more).map(|alias| alias.as_str().map(str::to_owned)).collect()
}

/// A member event's content without the name of who lets the member in, if there is one: servers put it in, not clients.
fn without_authoriser(kind: &str, content: &RawValue) -> Option<Value> {
    if kind != "m.room.member" {
        return None;
    }
    let mut content: Value = serde_json::from_str(content.get()).ok()?;
    content.as_object_mut()?.remove("join_authorised_via_users_server")?;
    Some(content)
}

fn check_message(kind: &str, content: &RawValue) -> Result<(), SendError> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        msgtype: Option<std::borrow::Cow<'a, str>>,
        #[serde(borrow)]
        body: Option<std::borrow::Cow<'a, str>>,
    }
    if kind != "m.room.message" {
        return Ok(());
    }
    match serde_json::from_str::<Message<'_>>(content.get()) {
        Ok(Message { msgtype: Some(_), body: Some(_) }) => Ok(()),
        _ => Err(SendError::BadContent("m.room.message needs msgtype and body")),
    }
}

fn raw(content: &Value) -> Result<Box<RawValue>, AppendError> {
    serde_json::value::to_raw_value(content)
        .map_err(|error| AppendError::Malformed(allod_matrix::event::build::BuildError::NotCanonical(error)))
}
