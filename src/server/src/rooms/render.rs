//! Events as clients see them.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::event::client::Facts;
use ruma::{EventId, RoomId, UserId};
use serde_json::value::RawValue;

use super::{Rooms, access::View, aggregations::Bundles, event::StoredEvent, visibility::Sights};
use crate::{
    database::Error,
    numbers::EventNumber,
    tables::rooms::{EventRecord, EventStatus},
};

/// What an event's `unsigned` needs of other events.
#[derive(Debug, Default)]
struct Around {
    replaced: HashMap<EventNumber, Arc<StoredEvent>>,
    because: HashMap<EventNumber, Box<RawValue>>,
    bundles: Bundles,
}

impl Rooms {
    /// The events in client format, for this viewer. `/sync` leaves out the room id.
    pub async fn render(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        with_room_id: bool,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.render_with(view, events, with_room_id, Bundles::new()).await
    }

    /// The same with these values of `m.relations`.
    pub(super) async fn render_with(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        with_room_id: bool,
        bundles: Bundles,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let around = Around { bundles, ..self.around(view, events).await? };
        let room_id = with_room_id.then_some(&*view.room.room_id);
        self.render_around(view, events, &around, room_id, &mut Sights::default()).await
    }

    /// Events of a timeline as `/sync` tells them, without what relates to them.
    pub(crate) async fn render_timeline(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        sights: &mut Sights,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let around = self.around(view, events).await?;
        self.render_around(view, events, &around, None, sights).await
    }

    /// Events of a state as `/sync` tells them: without the viewer's membership when they were sent, which for each one
    /// would have to be looked up in another state.
    pub(crate) async fn render_state(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let around = self.around(view, events).await?;
        let mut sights = Sights::default();
        let mut rendered = Vec::with_capacity(events.len());
        for event in events {
            let shows_replaced = self.shows_replaced(view, event, &around, &mut sights).await?;
            rendered.push(self.render_one(view, event, &around, None, None, shows_replaced)?);
        }
        Ok(rendered)
    }

    async fn render_around(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        around: &Around,
        room_id: Option<&RoomId>,
        sights: &mut Sights,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let mut rendered = Vec::with_capacity(events.len());
        for event in events {
            let sight = self.sight_after(view, event, sights).await?;
            let membership = Some(sight.membership.as_str());
            let shows_replaced = self.shows_replaced(view, event, around, sights).await?;
            rendered.push(self.render_one(view, event, around, room_id, membership, shows_replaced)?);
        }
        Ok(rendered)
    }

    /// Whether the viewer may see the state that the event replaced.
    async fn shows_replaced(
        &self,
        view: &View,
        event: &StoredEvent,
        around: &Around,
        sights: &mut Sights,
    ) -> Result<bool, Error> {
        match event.record.replaces.and_then(|number| around.replaced.get(&number)) {
            // What the room's state was made of before the server came to it is no secret from who sees the change.
            Some(replaced) if replaced.record.status == EventStatus::Outlier => Ok(true),
            Some(replaced) => self.is_visible(view, replaced, sights).await,
            None => Ok(false),
        }
    }

    fn render_one(
        &self,
        view: &View,
        event: &StoredEvent,
        around: &Around,
        room_id: Option<&RoomId>,
        membership: Option<&str>,
        shows_replaced: bool,
    ) -> Result<Vec<u8>, Error> {
        let replaced = event.record.replaces.and_then(|number| around.replaced.get(&number));
        let replaced_pdu = replaced.map(|replaced| replaced.pdu(&view.room)).transpose()?;
        let shown = replaced_pdu.as_ref().filter(|_| shows_replaced);
        let facts = Facts {
            room_id,
            now: Some(self.core.clock.now()),
            transaction_id: transaction_of(&event.record, view),
            prev_content: shown.map(|pdu| &*pdu.content),
            prev_sender: shown.map(|pdu| -> &UserId { &pdu.sender }),
            replaces_state: replaced_pdu.as_ref().map(|pdu| -> &EventId { &pdu.event_id }),
            redacted_because: around.because.get(&event.number).map(|because| &**because),
            membership,
            relations: around.bundles.get(&event.number).map(|bundle| &**bundle),
        };
        Ok(event.client_form(&view.room)?.finish(&facts))
    }

    async fn around(&self, view: &View, events: &[Arc<StoredEvent>]) -> Result<Around, Error> {
        let room = view.room.number;
        let mut around = Around::default();
        let replaced: Vec<_> = events.iter().filter_map(|event| event.record.replaces).collect();
        for event in self.core.events.load_many(room, &replaced).await? {
            around.replaced.insert(event.number, event);
        }
        for event in events {
            let Some(redaction) = event.redacted_by else { continue };
            let because = self.core.events.load(room, redaction).await?;
            let facts = Facts { room_id: Some(&view.room.room_id), ..Facts::default() };
            let json = because.client_form(&view.room)?.finish(&facts);
            if let Ok(raw) = serde_json::from_slice(&json) {
                around.because.insert(event.number, raw);
            }
        }
        Ok(around)
    }
}

/// The transaction id, for the device that sent the event alone.
fn transaction_of<'a>(record: &'a EventRecord, view: &View) -> Option<&'a str> {
    let (device, id) = record.transaction.as_ref()?;
    (Some(*device) == view.caller.device).then_some(id.as_str())
}
