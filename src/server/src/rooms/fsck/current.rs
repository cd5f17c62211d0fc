//! The room's newest end: extremities, current state, counts.

use std::{cmp::Reverse, collections::BTreeMap};

use allod_matrix::event::PREV_EVENTS_MAX;

use super::{Check, Damage, PAGE_ROWS, Stop};
use crate::{
    database::Range,
    numbers::EventNumber,
    rooms::state::put_current_state,
    tables::{
        Stamped,
        rooms::{EventStatus, FlatState, RoomHead},
    },
};

impl Check {
    pub(super) async fn check_current(&mut self) -> Result<(), Stop> {
        // A room that is known from an invitation only has no end.
        if self.head.extremities.is_empty() && self.facts.leaves().is_empty() {
            return Ok(());
        }
        let mut head = self.head.clone();
        self.check_extremities(&mut head.extremities);
        if self.nodes_damaged && !self.repair {
            return Ok(());
        }
        head.root = self.state_after(&head.extremities.clone()).await?;
        if head.root != self.head.root && self.find(Damage::CurrentState, "the current state", true) {
            put_current_state(&mut self.write, self.room.number, head.root);
        }
        let newest =
            self.core.states.root_at(self.room.number, allod_storage::Position::new(u64::MAX - 1)).await?;
        if newest != self.head.root
            && head.root == self.head.root
            && self.find(Damage::CurrentState, "the newest change of the current state", true)
        {
            put_current_state(&mut self.write, self.room.number, head.root);
        }
        let accepted = self
            .facts
            .iter()
            .filter(|(number, fact)| fact.status == EventStatus::Timeline && self.facts.has_arrived(*number));
        head.depth = accepted.map(|(_, fact)| fact.depth).max().unwrap_or_default();
        head.next_event =
            head.next_event.max(self.facts.newest().map_or(1, |newest| newest.0.saturating_add(1)));
        if (head.depth, head.next_event) != (self.head.depth, self.head.next_event) {
            self.find(Damage::Counts, "depth and number of the newest event", true);
        }
        if head != self.head && self.repair {
            self.write.put::<RoomHead>(&self.room.number, &Stamped::pending(head.clone()));
            self.head = head;
        }
        self.check_flat_state().await
    }

    /// One that is left out is no damage: a room that was joined anew has left its old ends behind, and of more than an
    /// event can cite only the deepest are kept.
    fn check_extremities(&mut self, extremities: &mut Vec<EventNumber>) {
        let leaves = self.facts.leaves();
        let right = !extremities.is_empty() && extremities.iter().all(|number| leaves.contains(number));
        if !right && self.find(Damage::Extremities, "the newest ends", true) {
            let mut deepest: Vec<_> =
                leaves.iter().filter_map(|number| Some((self.facts.get(*number)?.depth, *number))).collect();
            deepest.sort_unstable_by_key(|place| Reverse(*place));
            deepest.truncate(PREV_EVENTS_MAX);
            *extremities = deepest.into_iter().map(|(_, number)| number).collect();
            extremities.sort_unstable();
        }
    }

    async fn check_flat_state(&mut self) -> Result<(), Stop> {
        let (room, epoch) = (self.room.number, self.head.epoch);
        self.flush().await?;
        let all = self.core.states.all(&self.room, self.head.root, None).await?;
        let mut expected: BTreeMap<[u8; 16], EventNumber> =
            all.into_iter().map(|(key, number)| (key.0, number)).collect();
        let mut range = Range::<FlatState>::prefix(&room).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            for (key, number) in &page {
                if key.1 != epoch {
                    // What a large change left behind that did not come to its end; it means nothing.
                    continue;
                }
                match expected.remove(&key.2) {
                    Some(right) if right == *number => {}
                    Some(right) => {
                        if self.find(Damage::FlatState, self.name_of(right), true) {
                            self.write.put::<FlatState>(key, &right);
                        }
                    }
                    None => {
                        if self.find(Damage::FlatState, self.name_of(*number), true) {
                            self.write.delete::<FlatState>(key);
                        }
                    }
                }
            }
            match page.last() {
                Some((last, _)) if page.len() >= PAGE_ROWS => range = range.continued_after(last),
                _ => break,
            }
        }
        for (key, number) in expected {
            if self.find(Damage::FlatState, self.name_of(number), true) {
                self.write.put::<FlatState>(&(room, epoch, key), &number);
                self.changed.push(number);
                self.flush_some().await?;
            }
        }
        Ok(())
    }
}
