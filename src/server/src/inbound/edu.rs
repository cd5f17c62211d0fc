//! Ephemeral data and messages of other servers. A server speaks for its own users only, and in rooms only for those who
//! have joined; what it says of others is passed over.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#edus>

use std::{sync::Arc, time::Duration};

use roaring::RoaringBitmap;
use ruma::{
    OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, PresenceContent, ReceiptContent, TypingContent,
    },
    events::receipt::ReceiptThread,
    serde::Raw,
};

use super::{Inbound, standing::Standing};
use crate::{
    database::{Error, Write},
    devices,
    numbers::{RoomNumber, UserNumber},
    presence::Told,
    receipts::{Marks, ReceiptError},
    remote_keys,
    rooms::Room,
    tables::rooms::Membership,
    to_device::ToDeviceError,
};

/// How long a user of another server types, unless it says so again.
const TYPING: Duration = Duration::from_secs(30);
/// Users whose presence, or receipts in all rooms, one EDU may tell.
const USERS_MAX: usize = 1_000;
/// How long receipts wait for the events that they are for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Length of the id of a message to devices, in characters.
const MESSAGE_ID_CHARS_MAX: usize = 32;

/// What somebody has read.
struct Heard {
    room: RoomNumber,
    user: UserNumber,
    user_id: OwnedUserId,
    marks: Marks,
}

impl Inbound {
    /// Takes what a server tells besides events, but for receipts, which are the answer. What is malformed, or not its to
    /// tell, is passed over; an error means that it should tell again.
    pub(super) async fn hear(
        &self,
        origin: &ServerName,
        edus: &[Raw<Edu>],
    ) -> Result<Vec<ReceiptContent>, Error> {
        let mut receipts = Vec::new();
        for edu in edus {
            let Ok(edu) = edu.deserialize() else { continue };
            match edu {
                Edu::Typing(content) => self.hear_typing(origin, &content).await?,
                Edu::Receipt(content) => receipts.push(content),
                Edu::Presence(content) => self.hear_presence(origin, content).await?,
                Edu::DirectToDevice(content) => self.hear_message(origin, content).await?,
                Edu::DeviceListUpdate(content) => self.hear_keys(origin, &content.user_id).await?,
                Edu::SigningKeyUpdate(content) => self.hear_keys(origin, &content.user_id).await?,
                _ => {}
            }
        }
        Ok(receipts)
    }

    async fn hear_typing(&self, origin: &ServerName, content: &TypingContent) -> Result<(), Error> {
        let Some((room, user)) = self.member(origin, &content.room_id, &content.user_id).await? else {
            return Ok(());
        };
        if content.typing {
            self.0.typing.start(room.number, user, &content.user_id, TYPING);
        } else {
            self.0.typing.stop(room.number, user);
        }
        Ok(())
    }

    /// Takes receipts. Those for events that wait for their room wait with them.
    pub(super) async fn hear_receipts(
        &self,
        origin: &ServerName,
        contents: Vec<ReceiptContent>,
    ) -> Result<(), Error> {
        let receipts =
            contents.into_iter().flat_map(|content| content.receipts).flat_map(|(room_id, map)| {
                map.read.into_iter().map(move |(user_id, receipt)| (room_id.clone(), user_id, receipt))
            });
        let mut early = Vec::new();
        for (room_id, user_id, receipt) in receipts.take(USERS_MAX) {
            let Some((room, user)) = self.member(origin, &room_id, &user_id).await? else { continue };
            let Some(event_id) = receipt.event_ids.last() else { continue };
            let thread = receipt.data.thread.clone();
            // Those that do not name a thread go on counting for all.
            let thread = if thread == ReceiptThread::default() { ReceiptThread::Unthreaded } else { thread };
            let marks = Marks { read: Some(event_id.clone()), thread, ..Marks::default() };
            let receipt = Heard { room: room.number, user, user_id, marks };
            if !self.mark(&receipt).await? && self.0.staging.is_busy(room.number) {
                early.push(receipt);
            }
        }
        if !early.is_empty() {
            let inbound = self.clone();
            self.0.tasks.spawn("early receipts", async move { inbound.mark_later(early).await });
        }
        Ok(())
    }

    /// Whether the event that somebody has read is here.
    async fn mark(&self, receipt: &Heard) -> Result<bool, Error> {
        let Heard { room, user, user_id, marks } = receipt;
        match self.0.receipts.mark(*room, *user, user_id, marks).await {
            Ok(()) | Err(ReceiptError::Busy | ReceiptError::AccountData(_)) => Ok(true),
            Err(ReceiptError::UnknownEvent) => Ok(false),
            Err(ReceiptError::Database(error)) => Err(error),
        }
    }

    async fn mark_later(&self, receipts: Vec<Heard>) {
        let stopping = self.0.tasks.stopping();
        for receipt in receipts {
            tokio::select! {
                () = self.0.staging.placed(receipt.room) => {}
                () = tokio::time::sleep(PATIENCE) => {}
                () = stopping.cancelled() => return,
            }
            if let Err(error) = self.mark(&receipt).await {
                tracing::debug!(%error, "a receipt is lost");
            }
        }
    }

    async fn hear_presence(&self, origin: &ServerName, content: PresenceContent) -> Result<(), Error> {
        for update in content.push.into_iter().take(USERS_MAX) {
            let Some((user, rooms)) = self.acquaintance(origin, &update.user_id).await? else { continue };
            let idle_ms = if update.currently_active { 0 } else { update.last_active_ago.into() };
            let told = Told { state: update.presence, status: update.status_msg, idle_ms };
            self.0.presence.hear(user, &update.user_id, Arc::new(rooms), told);
        }
        Ok(())
    }

    async fn hear_message(&self, origin: &ServerName, content: DirectDeviceContent) -> Result<(), Error> {
        let message_id = content.message_id.as_str();
        if content.sender.server_name() != origin || message_id.chars().count() > MESSAGE_ID_CHARS_MAX {
            return Ok(());
        }
        let messages = content.messages.into_iter().map(|(user_id, messages)| {
            (user_id, messages.into_iter().map(|(device, content)| (device, content.into_json())).collect())
        });
        let kind = content.ev_type.to_string();
        let messages = messages.collect();
        match self.0.to_device.deliver(&content.sender, &kind, message_id, &messages).await {
            Ok(()) | Err(ToDeviceError::TooLarge | ToDeviceError::Full) => Ok(()),
            Err(ToDeviceError::Database(error)) => Err(error),
        }
    }

    /// The devices or keys of a user changed: whoever shares a room asks for them anew.
    async fn hear_keys(&self, origin: &ServerName, user_id: &UserId) -> Result<(), Error> {
        if user_id.server_name() == origin && self.0.rooms.is_in_partial_room(origin) {
            let user = self.0.users.number_or_new(user_id).await?;
            self.0.rooms.note_device_list(origin, user).await?;
        }
        let Some((user, rooms)) = self.acquaintance(origin, user_id).await? else { return Ok(()) };
        let mut write = Write::new();
        devices::list_changed(&mut write, user);
        remote_keys::forget(&mut write, user, self.0.clock.now_ms());
        self.0.database.commit(write).await?;
        self.0.wakes.wake_rooms(&rooms);
        Ok(())
    }

    /// A room, and a user of the server who has joined it; none where the server has no say in it. Where members of the
    /// room are missing, the server's word is taken that one is there who is not known.
    async fn member(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<(Arc<Room>, UserNumber)>, Error> {
        if user_id.server_name() != origin {
            return Ok(None);
        }
        let Standing::Allowed(room) = self.standing(origin, room_id).await? else { return Ok(None) };
        if self.0.rooms.is_partial(room.number) {
            let user = self.0.users.number_or_new(user_id).await?;
            let member = self.0.rooms.member(room.number, user).await?;
            let may_be_in = member.is_none_or(|member| member.membership == Membership::Join);
            return Ok(may_be_in.then_some((room, user)));
        }
        let Some(user) = self.0.users.number(user_id).await? else { return Ok(None) };
        Ok(self.0.rooms.is_joined(room.number, user).await?.then_some((room, user)))
    }

    /// A user of the server, and the rooms that they have joined; none who shares no room with anybody here.
    async fn acquaintance(
        &self,
        origin: &ServerName,
        user_id: &UserId,
    ) -> Result<Option<(UserNumber, RoaringBitmap)>, Error> {
        if user_id.server_name() != origin {
            return Ok(None);
        }
        let Some(user) = self.0.users.number(user_id).await? else { return Ok(None) };
        let rooms = self.0.rooms.joined_by(user).await?;
        Ok((!rooms.is_empty()).then_some((user, rooms)))
    }
}
