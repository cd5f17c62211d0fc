//! The states around events: computed anew, parents first, as the room's task computes them.

use std::collections::HashSet;

use allod_matrix::state::{Node, NodeId};

use super::{Check, Damage, PAGE_ROWS, Stop};
use crate::{
    database::{Error, Range, Write},
    numbers::EventNumber,
    tables::rooms::{EventMeta, EventStatus, StateNode, StateRoot},
};

/// Events between which the nodes that are at hand are let go.
const EVENTS_WITH_NODES: usize = 200;

impl Check {
    pub(super) async fn check_states(&mut self) -> Result<(), Stop> {
        self.check_nodes().await?;
        // With nodes missing, the states can be walked only as they are made anew.
        if self.nodes_damaged && !self.repair {
            return Ok(());
        }
        for (count, number) in self.facts.by_depth().into_iter().enumerate() {
            if count % EVENTS_WITH_NODES == 0 && !self.nodes_damaged {
                self.writer.drained();
            }
            self.check_state(number).await?;
            self.flush_some().await?;
        }
        Ok(())
    }

    /// Whether all nodes are what their names stand for, and every state has its own.
    async fn check_nodes(&mut self) -> Result<(), Stop> {
        let (mut present, mut named) = (HashSet::new(), HashSet::new());
        let mut range = Range::<StateNode>::prefix(&self.room.number).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            for ((_, id), bytes) in &page {
                let id = NodeId(id.0);
                match Node::decode(bytes) {
                    Ok(node) if self.room.hash_key.node_id(bytes) == id => {
                        present.insert(id);
                        named.extend(node.child_ids());
                    }
                    _ => {
                        self.find(Damage::StateNode, hex(id), true);
                        self.nodes_damaged = true;
                    }
                }
            }
            match page.last() {
                Some((last, _)) if page.len() >= PAGE_ROWS => range = range.continued_after(last),
                _ => break,
            }
        }
        let roots = self.facts.iter().flat_map(|(_, fact)| [fact.before, fact.after]);
        let roots = roots.chain([self.head.root]).filter(|root| *root != StateRoot::default());
        named.extend(roots.map(|root| NodeId(root.0)));
        for id in named.difference(&present) {
            self.find(Damage::StateNode, hex(*id), true);
            self.nodes_damaged = true;
        }
        Ok(())
    }

    async fn check_state(&mut self, number: EventNumber) -> Result<(), Stop> {
        let Some(fact) = self.facts.get(number).cloned() else { return Ok(()) };
        let mut nodes = Write::new();
        let before = match self.parents_roots(number) {
            Some(roots) => self.writer.resolution(roots, &mut nodes).await?,
            None => fact.before,
        };
        let mut after = before;
        if fact.is_state && fact.status != EventStatus::Rejected {
            let row = self.core.database.get::<EventMeta>(&(self.room.number, number)).await?;
            let Some(record) = row.map(|row| row.value) else { return Ok(()) };
            let state_key = record.state_key.as_deref().unwrap_or_default();
            let entry = self.room.hash_key.entry_key(&record.kind, state_key);
            after = self.writer.with_entry(before, entry, number, &mut nodes).await?;
        }
        if self.nodes_damaged && self.repair {
            self.write.append(nodes);
            self.changed.push(number);
        } else if (before, after) != (fact.before, fact.after) && self.repair {
            self.write.append(nodes);
        }
        if (before, after) == (fact.before, fact.after) || !self.find(Damage::State, fact.event_id, true) {
            return Ok(());
        }
        let row = self.core.database.get::<EventMeta>(&(self.room.number, number)).await?;
        if let Some(row) = row {
            let mut record = row.value;
            (record.state_before, record.state_after) = (before, after);
            self.put_record(number, row.position, &record);
        }
        if let Some(fact) = self.facts.get_mut(number) {
            (fact.before, fact.after) = (before, after);
        }
        Ok(())
    }

    /// The states after an event's parents; nothing where not all of them are known.
    fn parents_roots(&self, number: EventNumber) -> Option<Vec<StateRoot>> {
        let fact = self.facts.get(number).filter(|fact| fact.complete)?;
        let root_of = |parent: &EventNumber| {
            self.facts.get(*parent).filter(|parent| parent.has_state).map(|parent| parent.after)
        };
        fact.parents.iter().map(root_of).collect()
    }

    /// The state that these events together come to.
    pub(super) async fn state_after(&mut self, events: &[EventNumber]) -> Result<StateRoot, Error> {
        let roots: Vec<_> = events.iter().filter_map(|number| Some(self.facts.get(*number)?.after)).collect();
        let mut nodes = Write::new();
        let root = self.writer.resolution(roots, &mut nodes).await?;
        if self.repair {
            self.write.append(nodes);
        }
        Ok(root)
    }
}

fn hex(id: NodeId) -> String {
    use std::fmt::Write as _;
    id.0.iter().fold(String::from("node "), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
