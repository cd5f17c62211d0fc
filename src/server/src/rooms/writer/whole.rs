//! Making a partial room whole: the one place where the whole state replaces what was known of it.
//!
//! The states around all events that rest on the partial one are computed anew, parents first, and the events judged
//! anew: what was let in wrongly is refused, what was refused wrongly is let in. Then the room's ends and its current
//! state follow. Events are rewritten in parts; until the last batch the rows that name them stay, so that an attempt
//! that ends halfway is begun anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use allod_matrix::state::EntryKey;
use allod_storage::Position;
use ruma::{EventId, OwnedEventId};

use super::{Prepared, Writer, extremities::Tip};
use crate::{
    database::{Error, Write},
    devices,
    log::Happened,
    numbers::EventNumber,
    rooms::{event::StoredEvent, partial::StatedState, state::put_current_state},
    tables::{
        Stamped,
        notified::Notified,
        partial::{PartialDeviceList, PartialEvent, PartialEventRecord, PartialRoom, WholeRecord, WholeRoom},
        rooms::{Depth, EventMeta, EventStatus, EventTime, StateRoot, Timeline},
    },
};

/// Events that are rewritten in one commit.
const CHUNK_EVENTS: usize = 500;

/// What came of making a room whole.
#[derive(Debug)]
pub(crate) enum Wholeness {
    /// The room is not partial.
    Already,
    /// The states after these are needed too.
    Missing(Vec<OwnedEventId>),
    /// The last batch of it.
    Done(Box<Prepared>),
}

impl Writer {
    /// Computes everything anew that rests on a partial state. Nothing may be in flight.
    pub(crate) async fn complete(
        &mut self,
        states: &BTreeMap<OwnedEventId, StatedState>,
    ) -> Result<Wholeness, Error> {
        let Some(partial) = self.partial.take() else { return Ok(Wholeness::Already) };
        let joins: Vec<EventNumber> = partial
            .events
            .iter()
            .filter(|(_, record)| !record.missing.is_empty())
            .map(|(it, _)| *it)
            .collect();
        let needed: BTreeSet<OwnedEventId> = partial
            .events
            .values()
            .flat_map(|record| &record.missing)
            .filter_map(|id| OwnedEventId::try_from(id.as_str()).ok())
            .collect();
        let missing: Vec<OwnedEventId> =
            needed.into_iter().filter(|event_id| !states.contains_key(event_id)).collect();
        if !missing.is_empty() {
            self.partial = Some(partial);
            return Ok(Wholeness::Missing(missing));
        }
        let order = self.parents_first(&partial.events).await?;
        let mut write = self.new_write();
        let mut part = 0_usize;
        for number in &order {
            tokio::task::consume_budget().await;
            let Some(record) = partial.events.get(number) else { continue };
            let is_new = self.complete_event(*number, record, states, &mut write).await?;
            part = part.saturating_add(1);
            // A commit has one place in the timeline.
            if is_new || part >= CHUNK_EVENTS {
                self.commit_part(&mut write).await?;
                part = 0;
            }
        }
        self.complete_head(&order, &mut write).await?;
        self.complete_room(joins, &mut write).await?;
        self.put_head(&mut write);
        let changed = order;
        Ok(Wholeness::Done(Box::new(Prepared { write, own_checks: 1, events: Vec::new(), changed })))
    }

    /// Commits what was rewritten so far. The head stays what it is.
    async fn commit_part(&mut self, write: &mut Write) -> Result<(), Error> {
        self.put_head(write);
        self.core.database.commit(std::mem::take(write)).await?;
        *write = self.new_write();
        Ok(())
    }

    /// These events, each behind those of them that it follows.
    async fn parents_first(
        &self,
        events: &BTreeMap<EventNumber, PartialEventRecord>,
    ) -> Result<Vec<EventNumber>, Error> {
        let numbers: Vec<EventNumber> = events.keys().copied().collect();
        let stored = self.events_of(&numbers).await?;
        let parents: BTreeMap<EventNumber, &[EventNumber]> =
            stored.iter().map(|event| (event.number, event.record.prev_events.as_slice())).collect();
        let (mut ordered, mut seen) = (Vec::with_capacity(numbers.len()), HashSet::new());
        for start in numbers {
            let mut stack = vec![(start, false)];
            while let Some((number, parents_done)) = stack.pop() {
                if parents_done {
                    ordered.push(number);
                } else if seen.insert(number) {
                    stack.push((number, true));
                    let above = parents.get(&number).copied().unwrap_or_default();
                    stack.extend(above.iter().filter(|it| events.contains_key(it)).map(|it| (*it, false)));
                }
            }
        }
        Ok(ordered)
    }

    /// The state before an event, now that all of it is here.
    async fn whole_before(
        &mut self,
        event: &StoredEvent,
        partial: &PartialEventRecord,
        states: &BTreeMap<OwnedEventId, StatedState>,
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        let parents = self.events_of(&event.record.prev_events).await?;
        let mut roots: Vec<StateRoot> = parents.iter().map(|parent| parent.record.state_after).collect();
        roots.extend(partial.given);
        for event_id in &partial.missing {
            if let Some(stated) = <&EventId>::try_from(event_id.as_str()).ok().and_then(|id| states.get(id)) {
                roots.push(self.stated_root(stated, write).await?);
            }
        }
        self.resolved(roots, write).await
    }

    /// Computes the states around an event anew, and judges it by them; whether it is let in now.
    async fn complete_event(
        &mut self,
        number: EventNumber,
        partial: &PartialEventRecord,
        states: &BTreeMap<OwnedEventId, StatedState>,
        write: &mut Write,
    ) -> Result<bool, Error> {
        let event = self.event_of(number).await?;
        let pdu = event.pdu(&self.room)?;
        let before = self.whole_before(&event, partial, states, write).await?;
        let refusal = match self.auth_set(&pdu).await? {
            Ok(auth) => self.refusal(&pdu, &auth, before).await?,
            Err(_) => Some("what allows it is not here".to_owned()),
        };
        let mut record = event.record.clone();
        record.state_before = before;
        record.state_after = before;
        let was_refused = record.status == EventStatus::Rejected;
        if let Some(reason) = &refusal {
            record.status = EventStatus::Rejected;
            record.reason = Some(reason.clone());
        } else if was_refused {
            record.status = EventStatus::Timeline;
            record.reason = None;
        }
        if let Some(state_key) = &record.state_key {
            let entry = self.room.hash_key.entry_key(&record.kind, state_key);
            let replaces = self.entries_of(before, &[entry]).await?.pop().flatten();
            record.replaces = replaces.filter(|replaced| *replaced != number);
            if refusal.is_none() {
                record.state_after = self.updated(before, &[(entry, Some(number.0))], write).await?;
            }
        }
        let is_refused = refusal.is_some();
        if was_refused && !is_refused {
            let event = self.rewritten(&event, Position::PENDING, record, write);
            self.let_in(&event, write).await?;
            return Ok(true);
        }
        if is_refused && !was_refused {
            self.take_out(&event, write).await?;
        }
        self.rewritten(&event, event.position, record, write);
        Ok(false)
    }

    /// The state after an event that is not here, as another server states it.
    async fn stated_root(&mut self, stated: &StatedState, write: &mut Write) -> Result<StateRoot, Error> {
        let ids: Vec<OwnedEventId> = stated.before.iter().chain([&stated.event]).cloned().collect();
        let entries = match self.given_state(&ids).await? {
            Ok(entries) => entries,
            Err(absent) => {
                let held: Vec<_> = ids.into_iter().filter(|event_id| !absent.contains(event_id)).collect();
                self.given_state(&held).await?.unwrap_or_default()
            }
        };
        // The event comes last, and so replaces what it follows.
        let entries: BTreeMap<EntryKey, Option<u32>> = entries.into_iter().collect();
        let entries: Vec<_> = entries.into_iter().collect();
        self.updated(StateRoot::default(), &entries, write).await
    }

    /// Puts an event back with other states; with its position, unless that is to be the commit's.
    fn rewritten(
        &mut self,
        event: &StoredEvent,
        position: Position,
        record: crate::tables::rooms::EventRecord,
        write: &mut Write,
    ) -> Arc<StoredEvent> {
        let key = (self.room.number, event.number);
        let row = Stamped { position, value: record.clone() };
        if position == Position::PENDING {
            write.put::<EventMeta>(&key, &row);
        } else {
            write.put_unstamped::<EventMeta>(&key, &row);
        }
        let mut new = StoredEvent::new(event.number, position, record, event.json.clone());
        new.redacted_by = event.redacted_by;
        let new = Arc::new(new);
        self.ahead.insert(&new);
        new
    }

    /// Shows an event that was refused wrongly.
    async fn let_in(&mut self, event: &Arc<StoredEvent>, write: &mut Write) -> Result<(), Error> {
        let pdu = event.pdu(&self.room)?;
        self.put_history(event.number, &event.record, write);
        self.put_words(&pdu, event.record.depth, event.number, write);
        self.put_media(&pdu, event.record.sender, event.number, write);
        self.put_timeline(event.number, write);
        self.relate_received(&pdu, event, write).await?;
        let notified = self.notified(&pdu, &event.json, (event.record.sender, event.number), false).await?;
        self.write_notified(notified, None, write).await
    }

    /// Takes an event out of everything that clients are shown.
    async fn take_out(&mut self, event: &StoredEvent, write: &mut Write) -> Result<(), Error> {
        let (room, record) = (self.room.number, &event.record);
        write.delete::<Timeline>(&(room, event.position));
        write.delete::<Notified>(&(room, event.position));
        write.delete::<Depth>(&(room, record.depth, event.number));
        write.delete::<EventTime>(&(room, record.origin_server_ts, record.depth, event.number));
        self.core.notified.remove(&(room, event.number));
        self.unrelate(event, write).await
    }

    /// The room's newest ends and its current state, as they are with the events that count now.
    async fn complete_head(&mut self, order: &[EventNumber], write: &mut Write) -> Result<(), Error> {
        let numbers: Vec<EventNumber> =
            self.tips.iter().map(|tip| tip.number).chain(order.iter().copied()).collect();
        let mut candidates: BTreeMap<EventNumber, Arc<StoredEvent>> = BTreeMap::new();
        let (mut followed, mut beneath) = (BTreeSet::new(), BTreeSet::new());
        for event in self.events_of(&numbers).await? {
            let parents = self.events_of(&event.record.prev_events).await?;
            let covered = self.covered(&parents).await?;
            if event.record.status == EventStatus::Timeline {
                followed.extend(covered);
                candidates.insert(event.number, event);
            } else {
                // What a refused event follows may be an end.
                beneath.extend(covered);
            }
        }
        let beneath: Vec<EventNumber> =
            beneath.into_iter().filter(|it| !candidates.contains_key(it)).collect();
        for event in self.events_of(&beneath).await? {
            if event.record.status == EventStatus::Timeline {
                candidates.insert(event.number, event);
            }
        }
        let mut tips = Vec::with_capacity(candidates.len());
        for event in candidates.into_values().filter(|event| !followed.contains(&event.number)) {
            let ours = self.core.identity.is_ours(&event.pdu(&self.room)?.sender);
            self.head.depth = self.head.depth.max(event.record.depth);
            tips.push(Tip::of(&event, ours)?);
        }
        self.set_tips(tips);
        let roots: Vec<StateRoot> = self.tips.iter().map(|tip| tip.root).collect();
        let root = self.resolved(roots, write).await?;
        self.doubt_audience();
        self.apply_root(root, write).await
    }

    /// The rows that say that the room is whole.
    async fn complete_room(&mut self, joins: Vec<EventNumber>, write: &mut Write) -> Result<(), Error> {
        let room = self.room.number;
        write.delete::<PartialRoom>(&room);
        write.delete_prefix::<PartialEvent>(&room);
        write.put::<WholeRoom>(&room, &Stamped::pending(WholeRecord { joins }));
        let range = crate::database::Range::<PartialDeviceList>::prefix(&room);
        for ((_, user), ()) in self.core.database.scan_all(range).await? {
            devices::list_changed(write, user);
        }
        write.delete_prefix::<PartialDeviceList>(&room);
        // Also if the state is the same: those who were not shown the room are to look.
        put_current_state(write, room, self.head.root);
        write.log(Happened::Whole { room });
        Ok(())
    }
}
