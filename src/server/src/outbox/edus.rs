//! Ephemeral data that may be lost: who is typing, what people have read.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#edus>

use std::{collections::HashMap, sync::Arc};

use allod_storage::Position;
use ruma::OwnedServerName;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use super::{
    Inner,
    destination::{Edu, EduSubject},
    recipients::server_of,
};
use crate::{
    database::{Error, Range},
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::{
        outbox::QueuedEdu,
        user_data::{ReceiptChange, StoredReceipt},
    },
    typing::Typed,
};

/// Who goes on typing is told again after this time: servers let typing end by themselves.
const TYPING_REPEAT_MS: u64 = 20_000;
/// Public receipts as they stand in keys.
const PUBLIC: u8 = 1;

impl Inner {
    /// Starts telling other servers who is typing.
    pub(super) fn start_typing(self: &Arc<Self>) {
        let (inner, mut changes) = (Arc::clone(self), self.sources.typing.follow());
        let stopping = self.sources.tasks.stopping().clone();
        self.sources.tasks.spawn("outbox typing", async move {
            let mut told = HashMap::new();
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stopping.cancelled() => return,
                };
                match change {
                    Ok(typed) => {
                        if let Err(error) = inner.hand_out_typing(&mut told, &typed).await {
                            tracing::debug!(%error, "other servers are not told who is typing");
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    async fn hand_out_typing(
        self: &Arc<Self>,
        told: &mut HashMap<(RoomNumber, UserNumber), u64>,
        typed: &Typed,
    ) -> Result<(), Error> {
        let key = (typed.room, typed.user);
        let now = self.sources.clock.now_ms();
        let last = told.get(&key).copied();
        let is_news = match (typed.typing, last) {
            (true, Some(last)) => now.saturating_sub(last) >= TYPING_REPEAT_MS,
            (true, None) => true,
            (false, last) => last.is_some(),
        };
        if !is_news || !self.sources.identity.is_ours(&typed.user_id) {
            return Ok(());
        }
        if typed.typing {
            told.retain(|_, last| now.saturating_sub(*last) < TYPING_REPEAT_MS.saturating_mul(10));
            told.insert(key, now);
        } else {
            told.remove(&key);
        }
        let room = self.sources.rooms.get(typed.room).await?;
        let servers = self.recipients.of_room(&room).await?;
        let content =
            json!({ "room_id": room.room_id, "user_id": typed.user_id, "typing": typed.typing }).to_string();
        let subject = EduSubject::Typing(typed.room, typed.user);
        self.send_edu(&servers, &Edu { subject, kind: "m.typing", content: content.into() });
        Ok(())
    }

    /// Hands out the public receipts of local users that a commit set; whether there are any.
    pub(super) async fn hand_out_receipts(
        self: &Arc<Self>,
        room: RoomNumber,
        at: Position,
    ) -> Result<bool, Error> {
        let range = Range::<ReceiptChange>::between(&(room, at), &(room, at.next()));
        let rows = self.sources.database.scan_all(range).await?;
        let ours = rows.into_iter().filter(|((.., kind, _), receipt)| {
            *kind == PUBLIC && server_of(&receipt.user_id) == Some(self.sources.identity.server_name())
        });
        let ours: Vec<_> = ours.collect();
        if ours.is_empty() {
            return Ok(false);
        }
        let room = self.sources.rooms.get(room).await?;
        let servers = self.recipients.of_room(&room).await?;
        for ((_, _, user, _, thread), receipt) in ours {
            let content = receipt_content(room.room_id.as_str(), &receipt).into();
            let subject = EduSubject::Receipt(room.number, user, thread);
            self.send_edu(&servers, &Edu { subject, kind: "m.receipt", content });
        }
        Ok(servers.len() > 1)
    }

    /// The name of the server whose rows stand under a hash, from its first row if it is not known otherwise.
    pub(super) async fn name_of(
        &self,
        hash: Hash128,
        known: Option<OwnedServerName>,
    ) -> Result<Option<OwnedServerName>, Error> {
        if known.is_some() {
            return Ok(known);
        }
        let page = self.sources.database.scan(&Range::<QueuedEdu>::prefix(&hash).limit(1)).await?;
        Ok(page.rows.first().and_then(|(_, row)| ruma::ServerName::parse(&row.server).ok()))
    }
}

fn receipt_content(room_id: &str, receipt: &StoredReceipt) -> String {
    let mut data = json!({ "ts": receipt.ts });
    if let (Some(thread), Some(data)) = (&receipt.thread, data.as_object_mut()) {
        data.insert("thread_id".to_owned(), thread.as_str().into());
    }
    let of_user = json!({ "data": data, "event_ids": [receipt.event_id] });
    json!({ room_id: { "m.read": { &receipt.user_id: of_user } } }).to_string()
}
