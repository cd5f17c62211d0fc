//! What a transaction says.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#put_matrixappv1transactionstxnid>

use std::collections::{BTreeMap, BTreeSet};

use allod_storage::Position;
use bytes::Bytes;
use ruma::OwnedUserId;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{Inner, deliver::Queued};
use crate::{
    bridges::Bridge,
    database::{Error, Range},
    numbers::{DeviceNumber, RoomNumber, UserNumber},
    tables::{accounts::Device, appservices::QueuedItem, inbox::ToDeviceMessage, user_data::ReceiptChange},
};

/// Public receipts as they stand in keys.
const PUBLIC: u8 = 1;

/// The body, of what has something in it; both spellings of what was renamed.
#[derive(Default, Serialize)]
struct Body {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral: Vec<Value>,
    #[serde(rename = "de.sorunome.msc2409.ephemeral", skip_serializing_if = "Vec::is_empty")]
    unstable_ephemeral: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to_device: Vec<Value>,
    #[serde(rename = "de.sorunome.msc2409.to_device", skip_serializing_if = "Vec::is_empty")]
    unstable_to_device: Vec<Value>,
    #[serde(rename = "org.matrix.msc3202.device_lists", skip_serializing_if = "Option::is_none")]
    device_lists: Option<Value>,
    #[serde(
        rename = "org.matrix.msc3202.device_one_time_keys_count",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    one_time_keys: BTreeMap<OwnedUserId, Map<String, Value>>,
    #[serde(
        rename = "org.matrix.msc3202.device_unused_fallback_key_types",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    fallback_keys: BTreeMap<OwnedUserId, Map<String, Value>>,
}

impl Inner {
    /// What a transaction with these rows says; none if nothing is left of what they tell of.
    pub(super) async fn body(
        &self,
        bridge: &Bridge,
        queued: &[Queued],
        typing: &BTreeSet<RoomNumber>,
    ) -> Result<Option<Bytes>, Error> {
        let mut body = Body::default();
        let (mut changed, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for ((_, at, _), item) in queued {
            match item {
                QueuedItem::Event { room, event } => {
                    let known = self.sources.rooms.get(*room).await?;
                    let form = self.sources.rooms.form_for_appservice(&known, *event).await?;
                    body.events.extend(form);
                }
                QueuedItem::Invite { room, event, user } => {
                    let form = self.sources.rooms.invite_for_appservice(*room, *event, *user).await?;
                    body.events.extend(form);
                }
                QueuedItem::Receipts { room } => body.ephemeral.extend(self.receipts(*room, *at).await?),
                QueuedItem::ToDevice { user, device } => {
                    body.to_device.extend(self.to_device(*user, *device, *at).await?);
                    devices.insert((*user, *device));
                }
                QueuedItem::DeviceList { user } => changed.extend(self.sources.users.id(*user).await?),
            }
        }
        for room in typing {
            let users = self.sources.typing.in_room(*room).map(|(_, users)| users).unwrap_or_default();
            let room_id = &self.sources.rooms.get(*room).await?.room_id;
            body.ephemeral
                .push(json!({ "type": "m.typing", "room_id": room_id, "content": { "user_ids": users } }));
        }
        if !changed.is_empty() {
            body.device_lists = Some(json!({ "changed": changed, "left": [] }));
        }
        if Self::wants_keys(bridge) {
            self.add_keys(&devices, &mut body).await?;
        }
        let is_empty = body.events.is_empty()
            && body.ephemeral.is_empty()
            && body.to_device.is_empty()
            && body.device_lists.is_none();
        if is_empty {
            return Ok(None);
        }
        body.unstable_ephemeral.clone_from(&body.ephemeral);
        body.unstable_to_device.clone_from(&body.to_device);
        // Only maps with keys that are not strings cannot be written.
        Ok(serde_json::to_vec(&body).ok().map(Bytes::from))
    }

    /// Public receipts that were set by a commit and have not moved since.
    async fn receipts(&self, room: RoomNumber, at: Position) -> Result<Option<Value>, Error> {
        let rows = self.sources.database.scan(&Range::<ReceiptChange>::prefix(&(room, at))).await?.rows;
        let mut content: BTreeMap<String, BTreeMap<&str, BTreeMap<String, Value>>> = BTreeMap::new();
        for ((_, _, _, kind, _), row) in rows {
            if kind == PUBLIC {
                let mut said = json!({ "ts": row.ts });
                if let (Some(thread), Some(said)) = (row.thread, said.as_object_mut()) {
                    said.insert("thread_id".to_owned(), thread.into());
                }
                content
                    .entry(row.event_id)
                    .or_default()
                    .entry("m.read")
                    .or_default()
                    .insert(row.user_id, said);
            }
        }
        if content.is_empty() {
            return Ok(None);
        }
        let room_id = &self.sources.rooms.get(room).await?.room_id;
        Ok(Some(json!({ "type": "m.receipt", "room_id": room_id, "content": content })))
    }

    /// Messages that were sent to a device by a commit and that it has not fetched itself.
    async fn to_device(
        &self,
        user: UserNumber,
        device: DeviceNumber,
        at: Position,
    ) -> Result<Vec<Value>, Error> {
        let database = &self.sources.database;
        let rows = database.scan_all(Range::<ToDeviceMessage>::prefix(&(user, device, at))).await?;
        let (Some(user_id), Some(row)) =
            (self.sources.users.id(user).await?, database.get::<Device>(&(user, device)).await?)
        else {
            return Ok(Vec::new());
        };
        let addressed = rows.into_iter().filter_map(|(_, message)| {
            let mut event: Value = serde_json::from_str(&message.event).ok()?;
            let fields = event.as_object_mut()?;
            fields.insert("to_user_id".to_owned(), user_id.as_str().into());
            fields.insert("to_device_id".to_owned(), row.id.as_str().into());
            Some(event)
        });
        Ok(addressed.collect())
    }

    /// Adds how many keys the devices have left that messages are for.
    async fn add_keys(
        &self,
        devices: &BTreeSet<(UserNumber, DeviceNumber)>,
        body: &mut Body,
    ) -> Result<(), Error> {
        for (user, device) in devices {
            let row = self.sources.database.get::<Device>(&(*user, *device)).await?;
            let (Some(user_id), Some(row)) = (self.sources.users.id(*user).await?, row) else { continue };
            let counts = self.sources.keys.counts(*user, *device).await?;
            let one_time: BTreeMap<String, u32> = counts.one_time.into_iter().collect();
            body.one_time_keys.entry(user_id.clone()).or_default().insert(row.id.clone(), json!(one_time));
            body.fallback_keys.entry(user_id).or_default().insert(row.id, json!(counts.unused_fallback));
        }
        Ok(())
    }
}
