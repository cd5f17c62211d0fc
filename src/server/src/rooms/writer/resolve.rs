//! States that several events lead to: fetches what state resolution asks for until it has decided.

use std::collections::BTreeSet;

use allod_matrix::{
    resolve::{Change, Need, Progress, Resolution, Vertex, conflicts},
    state::{EntryKey, Root, get_many},
};

use super::Writer;
use crate::{
    database::{Corrupt, Error, Range, Write},
    numbers::EventNumber,
    tables::rooms::{AuthReferrer, EventMeta, EventRecord, StateRoot},
};

/// Most outcomes kept.
const RESOLVED_KEPT_MAX: usize = 256;

impl Writer {
    /// The state that several states together come to.
    pub(super) async fn resolved(
        &mut self,
        roots: impl IntoIterator<Item = StateRoot>,
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        let distinct: BTreeSet<[u8; 16]> = roots.into_iter().map(|root| root.0).collect();
        let distinct: Vec<StateRoot> = distinct.into_iter().map(StateRoot).collect();
        let Some(first) = distinct.first().copied() else { return Ok(StateRoot::default()) };
        if distinct.len() == 1 {
            return Ok(first);
        }
        if let Some(resolved) = self.resolved.get(&distinct) {
            return Ok(*resolved);
        }
        let changes = self.resolve(&distinct, first).await?;
        let entries: Vec<(EntryKey, Option<u32>)> = changes
            .into_iter()
            .map(|change| (self.room.hash_key.entry_key(&change.kind, &change.state_key), change.winner))
            .collect();
        let resolved = self.updated(first, &entries, write).await?;
        if self.resolved.len() >= RESOLVED_KEPT_MAX {
            self.resolved.clear();
        }
        self.resolved.insert(distinct, resolved);
        Ok(resolved)
    }

    async fn resolve(&mut self, roots: &[StateRoot], base: StateRoot) -> Result<Vec<Change>, Error> {
        let trees: Vec<Root> = roots.iter().map(|root| Root::from_bytes(root.0)).collect();
        let core = std::sync::Arc::clone(&self.core);
        let sets = core.states.run(&self.room, &mut self.nodes, |nodes| conflicts(&trees, nodes)).await?;
        let create_key = [self.room.hash_key.entry_key("m.room.create", "")];
        let mut create = None;
        for root in roots {
            create = create.or(self.entries_of(*root, &create_key).await?.into_iter().next().flatten());
        }
        // A state without a create event lets nothing pass, so there is nothing to choose between.
        let Some(create) = create else { return Ok(Vec::new()) };
        let Some(mut resolution) = Resolution::new(&self.room.rules, create.0, sets) else {
            return Ok(Vec::new());
        };
        loop {
            tokio::task::consume_budget().await;
            match resolution.step(&mut self.graph) {
                Progress::Done(changes) => return Ok(changes),
                Progress::Need(need) => self.supply(&mut resolution, need, base).await?,
                Progress::Corrupt(_) => {
                    return Err(Error::Corrupt("EventMeta", Corrupt("an auth chain does not end")));
                }
            }
        }
    }

    async fn supply(
        &mut self,
        resolution: &mut Resolution,
        need: Need,
        base: StateRoot,
    ) -> Result<(), Error> {
        for (number, vertex) in self.vertices(&need.vertices).await? {
            self.graph.insert(number, vertex);
        }
        let numbers: Vec<_> = need.events.iter().copied().map(EventNumber).collect();
        for event in self.events_of(&numbers).await? {
            resolution.supply_event(event.number.0, event.pdu(&self.room)?);
        }
        for number in need.referrers {
            resolution.supply_referrers(number, self.referrers(EventNumber(number)).await?);
        }
        let keys: Vec<EntryKey> = need
            .state
            .iter()
            .map(|(kind, state_key)| self.room.hash_key.entry_key(&kind.to_string(), state_key))
            .collect();
        let found = self.entries_of(base, &keys).await?;
        for ((kind, state_key), number) in need.state.into_iter().zip(found) {
            resolution.supply_state(kind, state_key, number.map(|number| number.0));
        }
        Ok(())
    }

    async fn vertices(&self, numbers: &[u32]) -> Result<Vec<(u32, Vertex)>, Error> {
        let vertex = |record: &EventRecord| Vertex {
            kind: record.kind.clone(),
            state_key: record.state_key.clone(),
            auth_events: record.auth_events.iter().map(|number| number.0).collect(),
        };
        let mut vertices = Vec::with_capacity(numbers.len());
        let mut missing = Vec::new();
        for number in numbers {
            match self.in_flight(EventNumber(*number)) {
                Some(event) => vertices.push((*number, vertex(&event.record))),
                None => missing.push((self.room.number, EventNumber(*number))),
            }
        }
        let rows = self.core.database.get_all::<EventMeta>(&missing).await?;
        for ((_, number), row) in missing.iter().zip(rows) {
            let lost = Error::Corrupt("EventMeta", Corrupt("an auth event is not there"));
            vertices.push((number.0, vertex(&row.ok_or(lost)?.value)));
        }
        Ok(vertices)
    }

    async fn referrers(&self, of: EventNumber) -> Result<Vec<u32>, Error> {
        let range = Range::<AuthReferrer>::prefix(&(self.room.number, of));
        let rows = self.core.database.scan_all(range).await?;
        let mut referrers: Vec<u32> = rows.into_iter().map(|((.., referrer), ())| referrer.0).collect();
        referrers.extend(self.ahead.referrers(of));
        referrers.sort_unstable();
        referrers.dedup();
        Ok(referrers)
    }

    /// The events at these entries of a state that may be in flight.
    pub(super) async fn entries_of(
        &mut self,
        root: StateRoot,
        keys: &[EntryKey],
    ) -> Result<Vec<Option<EventNumber>>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let root = Root::from_bytes(root.0);
        let core = std::sync::Arc::clone(&self.core);
        let found = core.states.run(&self.room, &mut self.nodes, |nodes| get_many(root, keys, nodes)).await?;
        Ok(found.into_iter().map(|number| number.map(EventNumber)).collect())
    }
}
