//! What a gateway is told of an event: all that the specification has, or ids and counts alone.
//!
//! <https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify>

use std::sync::Arc;

use allod_storage::Position;
use bytes::Bytes;
use ruma::push::{Action, HighlightTweakValue, Tweak};
use serde_json::{Map, Value, json};

use super::Inner;
use crate::{
    database::Error,
    numbers::UserNumber,
    rooms::{Room, access::View, event::StoredEvent, send::Caller},
    tables::{
        notified::Notified,
        push::{PusherRow, QueuedPushRow},
    },
};

/// The format of pushers that want nothing but ids.
const EVENT_ID_ONLY: &str = "event_id_only";

impl Inner {
    /// What a gateway is told of an event, and how much is unread with it; none if it tells the user nothing new: they
    /// have read it, or it is not theirs to see (any more).
    pub(super) async fn notification(
        &self,
        user: UserNumber,
        pusher: &PusherRow,
        at: Position,
        row: &QueuedPushRow,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        let sources = &self.sources;
        let Some(user_id) = sources.users.id(user).await? else { return Ok(None) };
        let Some(event) = sources.rooms.events().get(row.room, row.event).await? else { return Ok(None) };
        let room = sources.rooms.get(row.room).await?;
        let caller = Caller { user_id, user, device: None };
        if !row.invites && !self.is_news(&room, &caller, at, &event).await? {
            return Ok(None);
        }
        let actions = sources.rooms.push_actions(&room, &event, &caller).await?;
        if row.invites && !actions.iter().any(Action::should_notify) {
            return Ok(None);
        }
        let unread = self.unread(user).await?;
        let mut notification = Map::new();
        notification.insert("event_id".to_owned(), event.record.event_id.as_str().into());
        notification.insert("room_id".to_owned(), room.room_id.as_str().into());
        notification.insert("counts".to_owned(), counts(unread));
        let is_urgent = event.record.kind == "m.room.encrypted" || actions.iter().any(is_loud);
        notification.insert("prio".to_owned(), if is_urgent { "high" } else { "low" }.into());
        let mut device = Self::device(pusher);
        if !self.is_reduced(pusher) {
            device.insert("tweaks".to_owned(), tweaks(&actions));
            self.describe(&room, &event, &caller, &mut notification).await?;
        }
        notification.insert("devices".to_owned(), json!([device]));
        Ok(Some((body(&notification), unread)))
    }

    /// What a gateway is told when nothing but the count is new. Nothing unread is told too, though the specification would
    /// leave it out: gateways take an absent count for an unknown one.
    pub(super) fn count(pusher: &PusherRow, unread: u64) -> Bytes {
        let mut notification = Map::new();
        notification.insert("counts".to_owned(), json!({ "unread": unread }));
        notification.insert("prio".to_owned(), "low".into());
        notification.insert("devices".to_owned(), json!([Self::device(pusher)]));
        body(&notification)
    }

    /// How many notifications a user has not read, in all rooms.
    pub(super) async fn unread(&self, user: UserNumber) -> Result<u64, Error> {
        self.sources.sync.unread_notifications(user).await
    }

    /// Whether an event is news for a member.
    pub(super) async fn is_news(
        &self,
        room: &Arc<Room>,
        caller: &Caller,
        at: Position,
        event: &Arc<StoredEvent>,
    ) -> Result<bool, Error> {
        let sources = &self.sources;
        // Who a redaction takes it back from is not notified.
        let record = sources.database.get::<Notified>(&(room.number, at)).await?;
        let Some(record) = record.filter(|record| record.notified.contains(caller.user)) else {
            return Ok(false);
        };
        if !sources.rooms.is_joined(room.number, caller.user).await? {
            return Ok(false);
        }
        let read = sources.sync.read_marks(room.number, caller.user).await?;
        if read.covers(record.thread, at) {
            return Ok(false);
        }
        let view: View = sources.rooms.view_of(Arc::clone(room), caller).await?;
        sources.rooms.was_member_at(&view, event).await
    }

    /// Whether a pusher gets nothing but ids and counts.
    fn is_reduced(&self, pusher: &PusherRow) -> bool {
        self.sources.config.get().push.event_id_only || pusher.format.as_deref() == Some(EVENT_ID_ONLY)
    }

    fn device(pusher: &PusherRow) -> Map<String, Value> {
        let mut device = Map::new();
        device.insert("app_id".to_owned(), pusher.app_id.as_str().into());
        device.insert("pushkey".to_owned(), pusher.pushkey.as_str().into());
        device.insert("pushkey_ts".to_owned(), (pusher.set_ms / 1000).into());
        let mut data: Map<String, Value> = serde_json::from_str(&pusher.data).unwrap_or_default();
        if let Some(format) = &pusher.format {
            data.insert("format".to_owned(), format.as_str().into());
        }
        if !data.is_empty() {
            device.insert("data".to_owned(), data.into());
        }
        device
    }

    /// Adds what the event says and where it was said.
    async fn describe(
        &self,
        room: &Room,
        event: &StoredEvent,
        caller: &Caller,
        notification: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let pdu = event.pdu(room)?;
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                notification.insert(key.to_owned(), value);
            }
        };
        put("type", Some(pdu.kind.as_str().into()));
        put("sender", Some(pdu.sender.as_str().into()));
        put("content", pdu.content_as::<Value>());
        let is_target =
            pdu.kind == "m.room.member" && pdu.state_key.as_deref() == Some(caller.user_id.as_str());
        put("user_is_target", is_target.then_some(true.into()));
        for (key, kind, state_key, field) in [
            ("sender_display_name", "m.room.member", pdu.sender.as_str(), "displayname"),
            ("room_name", "m.room.name", "", "name"),
            ("room_alias", "m.room.canonical_alias", "", "alias"),
        ] {
            put(key, self.current_text(room, kind, state_key, field).await?.map(Value::from));
        }
        Ok(())
    }

    /// A text of a room's state, unless it is empty.
    pub(super) async fn current_text(
        &self,
        room: &Room,
        kind: &str,
        state_key: &str,
        field: &str,
    ) -> Result<Option<String>, Error> {
        let content = self.sources.rooms.current_content(room, kind, state_key).await?;
        let text = content.and_then(|content| Some(content.get(field)?.as_str()?.to_owned()));
        Ok(text.filter(|text| !text.is_empty()))
    }
}

fn counts(unread: u64) -> Value {
    if unread == 0 { json!({}) } else { json!({ "unread": unread }) }
}

fn body(notification: &Map<String, Value>) -> Bytes {
    json!({ "notification": notification }).to_string().into()
}

fn is_loud(action: &Action) -> bool {
    match action {
        Action::SetTweak(Tweak::Highlight(value)) => *value == HighlightTweakValue::Yes,
        Action::SetTweak(Tweak::Sound(_)) => true,
        _ => false,
    }
}

/// The tweaks of a rule, as an object.
fn tweaks(actions: &[Action]) -> Value {
    let tweaks = actions.iter().filter_map(|action| match action {
        Action::SetTweak(Tweak::Highlight(value)) => {
            Some(("highlight".to_owned(), Value::from(*value == HighlightTweakValue::Yes)))
        }
        Action::SetTweak(tweak) => {
            let value = tweak.value()?;
            Some((tweak.set_tweak().to_owned(), serde_json::from_str(value.get()).ok()?))
        }
        _ => None,
    });
    Value::Object(tweaks.collect())
}
