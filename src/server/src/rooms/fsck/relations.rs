//! Relations: every child stands under its parent, and what is aggregated agrees with the children.

use std::collections::{BTreeMap, HashMap};

use super::{Check, Damage, Stop};
use crate::{
    database::{Range, Write},
    numbers::EventNumber,
    tables::rooms::{
        Aggregate, AggregateRecord, Relating, Relation, RelationCount, RelationRecord, ThreadByLatest,
    },
};

/// A row of [`Relation`].
type Child = ((Relating, u64, EventNumber), RelationRecord);

impl Check {
    pub(super) async fn check_relations(&mut self) -> Result<(), Stop> {
        let right = self.relations_are_right().await?;
        if right || !self.repair {
            return Ok(());
        }
        let room = self.room.number;
        self.write.delete_prefix::<Relation>(&room);
        self.write.delete_prefix::<Aggregate>(&room);
        self.write.delete_prefix::<RelationCount>(&room);
        self.write.delete_prefix::<ThreadByLatest>(&room);
        self.flush().await?;
        let mut children: Vec<_> = self.related.keys().copied().collect();
        children.sort_unstable();
        for child in children {
            let event = self.core.events.load(room, child).await?;
            let mut write = Write::new();
            self.writer.drained();
            self.writer.relate_again(&event, &mut write).await?;
            self.write.append(write);
            self.changed.push(child);
            // What is aggregated next must see this one.
            self.flush().await?;
        }
        Ok(())
    }

    async fn relations_are_right(&mut self) -> Result<bool, Stop> {
        let room = self.room.number;
        let rows = self.core.database.scan_all(Range::<Relation>::prefix(&room)).await?;
        let mut by_parent: BTreeMap<EventNumber, Vec<Child>> = BTreeMap::new();
        let mut expected = self.related.clone();
        expected.retain(|_, parent| self.facts.is_shown(*parent));
        let mut right = true;
        for ((_, parent, relating, depth, child), record) in rows {
            let in_place = self.facts.get(child).is_some_and(|fact| fact.depth == depth);
            if expected.remove(&child) != Some(parent) || !in_place {
                self.find(Damage::Relations, self.name_of(child), true);
                right = false;
            }
            by_parent.entry(parent).or_default().push(((relating, depth, child), record));
        }
        for child in expected.into_keys() {
            self.find(Damage::Relations, self.name_of(child), true);
            right = false;
        }
        let stored = self.core.database.scan_all(Range::<Aggregate>::prefix(&room)).await?;
        let mut stored: HashMap<EventNumber, AggregateRecord> =
            stored.into_iter().map(|((_, parent), aggregate)| (parent, aggregate)).collect();
        for (parent, children) in &by_parent {
            let expected = self.aggregate(children).await?;
            if stored.remove(parent) != Some(expected) {
                self.find(Damage::Relations, self.name_of(*parent), true);
                right = false;
            }
        }
        for parent in stored.into_keys() {
            self.find(Damage::Relations, self.name_of(parent), true);
            right = false;
        }
        Ok(right)
    }

    /// What the children of an event come to.
    async fn aggregate(&self, children: &[Child]) -> Result<AggregateRecord, Stop> {
        let of = |relating| children.iter().filter(move |((way, ..), _)| *way == relating);
        let count = |relating| u64::try_from(of(relating).count()).unwrap_or(u64::MAX);
        let edits: Vec<_> = of(Relating::Edit).map(|((.., edit), _)| *edit).collect();
        let edits = self.core.events.load_many(self.room.number, &edits).await?;
        Ok(AggregateRecord {
            children: u64::try_from(children.len()).unwrap_or(u64::MAX),
            references: count(Relating::Reference),
            replies: count(Relating::Thread),
            latest: of(Relating::Thread).map(|((_, depth, reply), _)| (*depth, *reply)).max(),
            edit: edits.iter().map(|edit| edit.as_edit()).max(),
        })
    }
}
