//! Events as application services see them: whoever they concern, with what they replace.

use std::sync::Arc;

use allod_matrix::event::client::Facts;
use ruma::{EventId, UserId};
use serde_json::{Value, value::RawValue};

use super::{Room, Rooms, event::StoredEvent};
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber, UserNumber},
};

impl Rooms {
    /// An event of a room in client format; none if it is gone.
    pub(crate) async fn form_for_appservice(
        &self,
        room: &Arc<Room>,
        event: EventNumber,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let Some(event) = self.core.events.get(room.number, event).await? else { return Ok(None) };
        let replaced = match event.record.replaces {
            Some(number) => self.core.events.get(room.number, number).await?,
            None => None,
        };
        let replaced = replaced.map(|replaced| replaced.pdu(room)).transpose()?;
        let facts = Facts {
            room_id: Some(&room.room_id),
            now: Some(self.core.clock.now()),
            prev_content: replaced.as_ref().map(|pdu| &*pdu.content),
            prev_sender: replaced.as_ref().map(|pdu| -> &UserId { &pdu.sender }),
            replaces_state: replaced.as_ref().map(|pdu| -> &EventId { &pdu.event_id }),
            ..Facts::default()
        };
        form(room, &event, &facts)
    }

    /// An invitation to a room that nobody here is in, with what the invited user was shown of it.
    pub(crate) async fn invite_for_appservice(
        &self,
        room: RoomNumber,
        event: EventNumber,
        user: UserNumber,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let Some(event) = self.core.events.get(room, event).await? else { return Ok(None) };
        let known = self.get(room).await?;
        let facts =
            Facts { room_id: Some(&known.room_id), now: Some(self.core.clock.now()), ..Facts::default() };
        let Some(form) = form(&known, &event, &facts)? else { return Ok(None) };
        let shown = self.outside(room, user).await?.state;
        let Ok(mut form) = serde_json::from_str::<Value>(form.get()) else { return Ok(None) };
        let shown: Vec<Value> = shown.iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
        if let Some(fields) = form.as_object_mut() {
            let unsigned = fields.entry("unsigned").or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Some(unsigned) = unsigned.as_object_mut() {
                unsigned.insert("invite_room_state".to_owned(), shown.into());
            }
        }
        Ok(serde_json::value::to_raw_value(&form).ok())
    }
}

fn form(room: &Room, event: &StoredEvent, facts: &Facts<'_>) -> Result<Option<Box<RawValue>>, Error> {
    Ok(serde_json::from_slice(&event.client_form(room)?.finish(facts)).ok())
}
