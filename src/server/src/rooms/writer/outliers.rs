//! Outliers: events that are here because others name them. Many are stored in one batch, since none has a place.

use std::sync::Arc;

use allod_storage::Position;

use super::{Prepared, Writer};
use crate::{
    database::{Error, Write},
    numbers::EventNumber,
    rooms::{
        event::StoredEvent,
        ingest::{Incoming, IngestOutcome, Missing},
    },
    tables::rooms::{EventRecord, EventStatus, StateRoot},
};

/// Bytes of events beyond which a batch takes no more.
const BATCH_EVENT_BYTES: usize = 256 << 10;
/// Events beyond which a batch takes no more.
const BATCH_EVENTS: usize = 500;

impl Writer {
    /// Judges outliers by their auth events alone, and makes a batch of as many as fit; as many outcomes as were taken.
    pub(crate) async fn ingest_outliers(
        &mut self,
        events: &[&Incoming],
    ) -> Result<(Vec<IngestOutcome>, Option<Prepared>), Error> {
        let mut write = self.new_write();
        let (mut outcomes, mut stored, mut bytes) = (Vec::new(), Vec::new(), 0_usize);
        for incoming in events.iter().take(BATCH_EVENTS) {
            if bytes > BATCH_EVENT_BYTES {
                break;
            }
            tokio::task::consume_budget().await;
            let (outcome, event) = self.ingest_outlier(incoming, &mut write).await?;
            outcomes.push(outcome);
            if let Some(event) = event {
                bytes = bytes.saturating_add(event.json.len());
                stored.push(event);
            }
        }
        if stored.is_empty() {
            return Ok((outcomes, None));
        }
        self.put_head(&mut write);
        Ok((outcomes, Some(Prepared { write, own_checks: 1, events: stored, changed: Vec::new() })))
    }

    async fn ingest_outlier(
        &mut self,
        incoming: &Incoming,
        write: &mut Write,
    ) -> Result<(IngestOutcome, Option<Arc<StoredEvent>>), Error> {
        let pdu = &incoming.event.pdu;
        if let Some(known) = self.held_one(&pdu.event_id).await? {
            let outcome = IngestOutcome::Known { number: known.number, status: known.record.status };
            return Ok((outcome, None));
        }
        let auth = match self.auth_set(pdu).await? {
            Ok(auth) => auth,
            Err(auth) => return Ok((IngestOutcome::Missing(Missing { auth, ..Missing::default() }), None)),
        };
        let (status, reason) = match self.check_by_auth_events(pdu, &auth) {
            Ok(()) => (EventStatus::Outlier, None),
            Err(error) => (EventStatus::Rejected, Some(format!("by its auth events: {error}"))),
        };
        let number = EventNumber(self.head.next_event);
        self.head.next_event = self.head.next_event.saturating_add(1);
        let record = EventRecord {
            event_id: pdu.event_id.to_string(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            sender: self.core.users.number_or_new(&pdu.sender).await?,
            status,
            reason: reason.clone(),
            depth: pdu.depth,
            origin_server_ts: pdu.origin_server_ts.get().into(),
            state_before: StateRoot::default(),
            state_after: StateRoot::default(),
            prev_events: Vec::new(),
            auth_events: auth.numbers,
            replaces: None,
            transaction: None,
        };
        let json = incoming.event.json.clone();
        let mut event = StoredEvent::new(number, Position::PENDING, record, json);
        if status == EventStatus::Outlier {
            self.redact_outlier(pdu, &mut event, write).await?;
        }
        let event = self.put_event(event, true, write);
        Ok((IngestOutcome::Stored { number, status, reason }, Some(event)))
    }
}
