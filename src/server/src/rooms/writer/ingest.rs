//! Placing an event that was not built here: the state around it, whether it is accepted, and what follows.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::{
    event::{DEPTH_MAX, pdu::Pdu},
    state::EntryKey,
};
use allod_storage::Position;
use bytes::Bytes;
use ruma::OwnedEventId;

use super::{Prepared, Writer, awaited::Effect, checks::AuthSet, extremities::Tip};
use crate::{
    database::{Error, Write},
    log::Happened,
    numbers::EventNumber,
    rooms::{
        event::StoredEvent,
        ingest::{Incoming, IngestOutcome, Missing, Placement, ToldBy},
    },
    tables::{
        partial::PartialEventRecord,
        rooms::{BackwardExtremity, EventRecord, EventStatus, GapRecord, StateRoot},
    },
};

/// What [`Writer::ingest`] made of an event.
#[derive(Debug)]
pub(crate) enum Placed {
    /// There is nothing to write.
    Settled(IngestOutcome),
    /// A new event, or one that has its place now.
    New(IngestOutcome, Box<Prepared>),
    /// It can be placed only when nothing is in flight.
    Later,
}

/// What an event follows.
struct Parents {
    /// Those that are here, with their state.
    known: Vec<Arc<StoredEvent>>,
    /// Those that are not.
    missing: Vec<OwnedEventId>,
    /// The state that the caller gives, where some are missing.
    given: Option<Vec<(EntryKey, Option<u32>)>>,
}

/// Where an event stands.
struct Place {
    parents: Parents,
    auth: AuthSet,
    /// The state before it.
    before: StateRoot,
    /// Whether that lacks members, and what making it whole takes.
    partial: Option<PartialEventRecord>,
    /// How deep it may stand at most.
    depth_max: u64,
}

/// What the rules say of an event at its place.
enum Verdict {
    Accepted,
    SoftFailed(String),
    Rejected(String),
}

/// An event that has its place, before it is stored.
struct Judged {
    number: EventNumber,
    /// Whether it was not here before, not even as an outlier.
    new: bool,
    record: EventRecord,
    json: Bytes,
    redacted_by: Option<EventNumber>,
    parents: Parents,
    partial: Option<PartialEventRecord>,
}

impl Writer {
    /// Finds an event's place, judges it, and makes its batches. Backfilled events get at most this depth.
    pub(crate) async fn ingest(
        &mut self,
        incoming: &Incoming,
        depth_max: Option<u64>,
    ) -> Result<Placed, Error> {
        let pdu = &incoming.event.pdu;
        let known = self.held_one(&pdu.event_id).await?;
        if let Some(known) = &known
            && known.has_state()
        {
            let outcome = IngestOutcome::Known { number: known.number, status: known.record.status };
            return Ok(Placed::Settled(outcome));
        }
        if pdu.kind == "m.room.redaction" && self.is_ahead() {
            // What it redacts must be in the database with all its rows.
            return Ok(Placed::Later);
        }
        let (parents, auth) = match self.surroundings(incoming).await? {
            Ok(surroundings) => surroundings,
            Err(missing) => return Ok(Placed::Settled(IngestOutcome::Missing(missing))),
        };
        let mut write = self.new_write();
        let (before, given) = self.state_before(&parents, &mut write).await?;
        let partial = self.partial_event(incoming, &parents.known, &parents.missing, given);
        let verdict = match &known {
            Some(known) if known.record.status == EventStatus::Rejected => {
                Verdict::Rejected(known.record.reason.clone().unwrap_or_default())
            }
            _ => self.judge(incoming, &auth, before, partial.is_some(), &mut write).await?,
        };
        let place = Place { parents, auth, before, partial, depth_max: depth_max.unwrap_or(u64::MAX) };
        let judged = self.judged(incoming, known.as_deref(), place, verdict, &mut write).await?;
        self.store(incoming, judged, write).await
    }

    /// How deep backfilled events may stand at most, so that they come before what cites them whatever they claim; by
    /// their places in `order`, which has parents first.
    pub(crate) async fn depths_max(
        &self,
        events: &[Incoming],
        order: &[usize],
    ) -> Result<HashMap<usize, u64>, Error> {
        let mut by_id: HashMap<&OwnedEventId, u64> = HashMap::new();
        let mut depths = HashMap::new();
        for place in order.iter().rev() {
            let Some(incoming) = events.get(*place) else { continue };
            if incoming.placement != Placement::Backfilled {
                continue;
            }
            let pdu = &incoming.event.pdu;
            let citing = self.citing(self.name_hash(&pdu.event_id)).await?;
            let above = self.events_of(&citing).await?.into_iter().map(|event| event.record.depth).min();
            let within = by_id.get(&pdu.event_id).copied();
            let depth = above.into_iter().chain(within).min().unwrap_or(self.head.depth).saturating_sub(1);
            depths.insert(*place, depth);
            for parent in &pdu.prev_events {
                let bound = by_id.entry(parent).or_insert(depth);
                *bound = depth.min(*bound);
            }
        }
        Ok(depths)
    }

    /// What the event builds on, or what is missing of it.
    async fn surroundings(&self, incoming: &Incoming) -> Result<Result<(Parents, AuthSet), Missing>, Error> {
        let pdu = &incoming.event.pdu;
        let mut missing = Missing::default();
        let auth = match self.auth_set(pdu).await? {
            Ok(auth) => auth,
            Err(absent) => {
                missing.auth = absent;
                AuthSet::default()
            }
        };
        let (held, mut absent) = self.held(&pdu.prev_events).await?;
        let (known, stateless): (Vec<_>, Vec<_>) = held.into_iter().partition(|event| event.has_state());
        for event in stateless {
            absent.push(event.id()?);
        }
        let mut given = None;
        match &incoming.state {
            Some(state) if !absent.is_empty() => match self.given_state(state).await? {
                Ok(entries) => given = Some(entries),
                Err(absent) => missing.state = absent,
            },
            _ => missing.prev.clone_from(&absent),
        }
        if missing != Missing::default() {
            return Ok(Err(missing));
        }
        Ok(Ok((Parents { known, missing: absent, given }, auth)))
    }

    /// The entries of a state that is given as a list of events; what was refused is no part of any state.
    pub(super) async fn given_state(
        &self,
        event_ids: &[OwnedEventId],
    ) -> Result<Result<Vec<(EntryKey, Option<u32>)>, Vec<OwnedEventId>>, Error> {
        const CHUNK_EVENTS: usize = 1_000;
        let (mut entries, mut missing) = (Vec::with_capacity(event_ids.len()), Vec::new());
        for chunk in event_ids.chunks(CHUNK_EVENTS) {
            tokio::task::consume_budget().await;
            let (events, absent) = self.held(chunk).await?;
            missing.extend(absent);
            for event in events {
                let accepted = event.record.status != EventStatus::Rejected;
                if let (true, Some(state_key)) = (accepted, &event.record.state_key) {
                    let key = self.room.hash_key.entry_key(&event.record.kind, state_key);
                    entries.push((key, Some(event.number.0)));
                }
            }
        }
        Ok(if missing.is_empty() { Ok(entries) } else { Err(missing) })
    }

    /// The state before an event, and the state that was given for parents that are not here.
    async fn state_before(
        &mut self,
        parents: &Parents,
        write: &mut Write,
    ) -> Result<(StateRoot, Option<StateRoot>), Error> {
        let mut roots: Vec<StateRoot> =
            parents.known.iter().map(|parent| parent.record.state_after).collect();
        let given = match &parents.given {
            Some(given) => Some(self.updated(StateRoot::default(), given, write).await?),
            None => None,
        };
        roots.extend(given);
        Ok((self.resolved(roots, write).await?, given))
    }

    /// Why the rules refuse an event at its place.
    pub(super) async fn refusal(
        &mut self,
        pdu: &Pdu,
        auth: &AuthSet,
        before: StateRoot,
    ) -> Result<Option<String>, Error> {
        if let Err(error) = self.check_by_auth_events(pdu, auth) {
            return Ok(Some(format!("by its auth events: {error}")));
        }
        let checked = self.check_at(pdu, before).await?;
        Ok(checked.err().map(|error| format!("by the state before it: {error}")))
    }

    /// §Checks performed on receipt of a PDU, from the fourth on. Where members are missing, what the event cites counts
    /// too.
    async fn judge(
        &mut self,
        incoming: &Incoming,
        auth: &AuthSet,
        before: StateRoot,
        lacks_members: bool,
        write: &mut Write,
    ) -> Result<Verdict, Error> {
        let pdu = &incoming.event.pdu;
        let by = if lacks_members { self.with_cited(before, auth, write).await? } else { before };
        if let Some(reason) = self.refusal(pdu, auth, by).await? {
            return Ok(Verdict::Rejected(reason));
        }
        if incoming.placement != Placement::Live {
            return Ok(Verdict::Accepted);
        }
        if before != self.head.root && !self.is_fresh(incoming) {
            let current = self.head.root;
            let by =
                if self.partial.is_some() { self.with_cited(current, auth, write).await? } else { current };
            if let Err(error) = self.check_at(pdu, by).await? {
                return Ok(Verdict::SoftFailed(format!("by the current state: {error}")));
            }
        }
        Ok(match &incoming.soft_fail {
            Some(reason) => Verdict::SoftFailed(reason.clone()),
            None => Verdict::Accepted,
        })
    }

    /// The event as it will be stored.
    async fn judged(
        &mut self,
        incoming: &Incoming,
        known: Option<&StoredEvent>,
        place: Place,
        verdict: Verdict,
        write: &mut Write,
    ) -> Result<Judged, Error> {
        let Place { parents, auth, before, partial, depth_max } = place;
        let pdu = &incoming.event.pdu;
        let number = known.map_or(EventNumber(self.head.next_event), |known| known.number);
        let (status, reason) = match verdict {
            Verdict::Accepted => (EventStatus::Timeline, None),
            Verdict::SoftFailed(reason) => (EventStatus::SoftFailed, Some(reason)),
            Verdict::Rejected(reason) => (EventStatus::Rejected, Some(reason)),
        };
        let (mut after, mut replaces) = (before, None);
        if let Some(state_key) = &pdu.state_key {
            let entry = self.room.hash_key.entry_key(&pdu.kind, state_key);
            replaces = self.entries_of(before, &[entry]).await?.pop().flatten();
            if status != EventStatus::Rejected {
                after = self.updated(before, &[(entry, Some(number.0))], write).await?;
            }
        }
        let depth = depth_of(pdu, &parents).min(depth_max);
        let record = EventRecord {
            event_id: pdu.event_id.to_string(),
            kind: pdu.kind.clone(),
            state_key: pdu.state_key.clone(),
            sender: self.core.users.number_or_new(&pdu.sender).await?,
            status,
            reason,
            depth,
            origin_server_ts: pdu.origin_server_ts.get().into(),
            state_before: before,
            state_after: after,
            prev_events: parents.known.iter().map(|parent| parent.number).collect(),
            auth_events: auth.numbers,
            replaces: replaces.filter(|replaced| *replaced != number),
            transaction: None,
        };
        // What was redacted stays so, even if it is sent again whole.
        let redacted = known.filter(|known| known.redacted_by.is_some());
        let json = redacted.map_or(&incoming.event.json, |known| &known.json).clone();
        let redacted_by = redacted.and_then(|known| known.redacted_by);
        Ok(Judged { number, new: known.is_none(), record, json, redacted_by, parents, partial })
    }

    async fn store(
        &mut self,
        incoming: &Incoming,
        judged: Judged,
        mut write: Write,
    ) -> Result<Placed, Error> {
        let Judged { number, new, mut record, json, redacted_by, parents, partial } = judged;
        let pdu = &incoming.event.pdu;
        let live = incoming.placement == Placement::Live;
        let accepted = record.status == EventStatus::Timeline;
        let effect = if accepted { self.effect(pdu, record.state_before).await? } else { Effect::None };
        if let Effect::Held { reason, .. } = &effect {
            record.reason = Some((*reason).to_owned());
        }
        let outcome = IngestOutcome::Stored { number, status: record.status, reason: record.reason.clone() };
        if new {
            self.head.next_event = self.head.next_event.saturating_add(1);
        }
        let mut event = StoredEvent::new(number, Position::PENDING, record, json);
        event.redacted_by = redacted_by;
        let waiting = self.take_waiting(pdu, &mut event, &mut write).await?;
        let event = self.put_event(event, new, &mut write);
        if let Some(partial) = partial {
            self.put_partial(incoming, number, accepted, partial, &mut write);
        }
        let citing = self.close_gaps(&event, &parents, &mut write).await?;
        if event.is_shown() {
            self.put_history(number, &event.record, &mut write);
            if event.redacted_by.is_none() {
                self.put_words(pdu, event.record.depth, number, &mut write);
                self.put_media(pdu, event.record.sender, number, &mut write);
            }
            self.relate_received(pdu, &event, &mut write).await?;
        }
        if accepted && live {
            // Also if it is held back: the state may change with it.
            self.put_arrival(incoming, number, &mut write);
            if event.is_shown() {
                let target = match &effect {
                    Effect::Applies(target) => Some(Arc::clone(target)),
                    Effect::Held { .. } | Effect::None => None,
                };
                let whose = (event.record.sender, number);
                let notified = self.notified(pdu, &event.json, whose, target.is_some()).await?;
                self.write_notified(notified, target.as_deref(), &mut write).await?;
            }
            self.head.depth = self.head.depth.max(event.record.depth);
            self.extend(incoming, &event, &parents, citing, &mut write).await?;
        } else if accepted && citing {
            self.drop_followed_by(&event, &mut write).await?;
        }
        let mut changed = Vec::new();
        match effect {
            Effect::Applies(target) => {
                self.redact_target(&target, number, &mut write).await?;
                changed.push(target.number);
            }
            Effect::Held { awaits: true, .. } => self.await_target(pdu, number, &mut write),
            Effect::Held { awaits: false, .. } | Effect::None => {}
        }
        let mut events = vec![Arc::clone(&event)];
        let released = self.release(&event, waiting, &mut write).await?;
        changed.extend(released.iter().map(|redaction| redaction.number));
        events.extend(released);
        // What was known of it as an outlier is no longer so.
        changed.extend((!new).then_some(number));
        self.put_head(&mut write);
        Ok(Placed::New(outcome, Box::new(Prepared { write, own_checks: 1, events, changed })))
    }

    /// Puts an event at the end of the timeline. Who hands it on is told with it, so that no crash comes between.
    fn put_arrival(&self, incoming: &Incoming, number: EventNumber, write: &mut Write) {
        self.put_timeline(number, write);
        let room = self.room.number;
        match incoming.told_by {
            ToldBy::Sender => {}
            ToldBy::Us => write.log(Happened::Relay { room, event: number }),
        }
    }

    /// Whether the event begins the room anew for this server.
    fn is_fresh(&self, incoming: &Incoming) -> bool {
        incoming.stale.as_ref().is_some_and(|ends| *ends == self.head.extremities)
    }

    /// Makes an accepted event an extremity, and the state that all extremities come to the current one.
    async fn extend(
        &mut self,
        incoming: &Incoming,
        event: &StoredEvent,
        parents: &Parents,
        is_followed: bool,
        write: &mut Write,
    ) -> Result<(), Error> {
        let tip = Tip::of(event, self.core.identity.is_ours(&incoming.event.pdu.sender))?;
        if self.is_fresh(incoming) {
            self.set_tips(vec![tip]);
        } else {
            let covered = self.covered(&parents.known).await?;
            let own = tip.number;
            let mut tips = self.tips_with(tip, &covered);
            if is_followed && tips.len() > 1 {
                tips.retain(|tip| tip.number != own);
            }
            self.set_tips(tips);
        }
        self.settle_on_tips(write).await
    }

    /// Notes what the event follows and is not here, and that the event itself is here now. Whether an accepted event
    /// follows it already.
    async fn close_gaps(
        &mut self,
        event: &StoredEvent,
        parents: &Parents,
        write: &mut Write,
    ) -> Result<bool, Error> {
        let room = self.room.number;
        let name = self.core.database.hash("event", &event.record.event_id);
        let citing = self.citing(name).await?;
        for number in &citing {
            write.delete::<BackwardExtremity>(&(room, name, *number));
        }
        if event.record.status == EventStatus::Timeline {
            for missing in &parents.missing {
                let gap = GapRecord { event_id: missing.to_string(), depth: event.record.depth };
                let name = self.name_hash(missing);
                write.put::<BackwardExtremity>(&(room, name, event.number), &gap);
                self.ahead.gap(name, event.number);
            }
        }
        Ok(!citing.is_empty())
    }
}

/// One more than the greatest depth of the parents, if all are here; what the sender claims counts only as far as some
/// are not, and never above those that are.
fn depth_of(pdu: &Pdu, parents: &Parents) -> u64 {
    let claimed = pdu.depth.min(DEPTH_MAX);
    let above = parents.known.iter().map(|parent| parent.record.depth.saturating_add(1)).max();
    match above {
        Some(above) if parents.missing.is_empty() => above,
        Some(above) => claimed.min(above),
        None if pdu.prev_events.is_empty() => 1,
        None => claimed,
    }
}
