//! The orders in which events are found: of the graph, of time, of arrival.

use std::collections::BTreeSet;

use super::{Check, Damage, PAGE_ROWS, Stop};
use crate::{
    database::Range,
    tables::{
        Table,
        rooms::{Depth, EventStatus, EventTime, Timeline},
    },
};

impl Check {
    pub(super) async fn check_history(&mut self) -> Result<(), Stop> {
        let room = self.room.number;
        let shown = || self.facts.iter().filter(|(_, fact)| fact.shown);
        let places = shown().map(|(number, fact)| (room, fact.depth, number)).collect();
        let times = shown().map(|(number, fact)| (room, fact.origin_server_ts, fact.depth, number)).collect();
        self.check_order::<Depth>(Damage::History, places, |key| key.2).await?;
        self.check_order::<EventTime>(Damage::TimeIndex, times, |key| key.3).await?;
        self.check_timeline().await
    }

    /// Whether an order has exactly these rows.
    async fn check_order<T>(
        &mut self,
        damage: Damage,
        mut expected: BTreeSet<T::Key>,
        number_of: fn(&T::Key) -> crate::numbers::EventNumber,
    ) -> Result<(), Stop>
    where
        T: Table<Value = ()>,
        T::Key: Ord,
    {
        let mut range = Range::<T>::prefix(&self.room.number).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            for (key, ()) in &page {
                if !expected.remove(key) && self.find(damage, self.name_of(number_of(key)), true) {
                    self.write.delete::<T>(key);
                    self.changed.push(number_of(key));
                }
            }
            self.flush_some().await?;
            match page.last() {
                Some((last, ())) if page.len() >= PAGE_ROWS => range = range.continued_after(last),
                _ => break,
            }
        }
        for key in expected {
            if self.find(damage, self.name_of(number_of(&key)), true) {
                self.write.put::<T>(&key, &());
                self.changed.push(number_of(&key));
                self.flush_some().await?;
            }
        }
        Ok(())
    }

    /// Other servers' events may be backfilled, so only those of this server must have arrived.
    async fn check_timeline(&mut self) -> Result<(), Stop> {
        let mut range = Range::<Timeline>::prefix(&self.room.number).limit(PAGE_ROWS);
        loop {
            let page = self.core.database.scan(&range).await?.rows;
            for (key, number) in &page {
                let accepted =
                    self.facts.get(*number).is_some_and(|fact| fact.status == EventStatus::Timeline);
                let right = accepted && self.facts.arrive(*number);
                if !right && self.find(Damage::Timeline, self.name_of(*number), true) {
                    self.write.delete::<Timeline>(key);
                    self.changed.push(*number);
                }
            }
            self.flush_some().await?;
            match page.last() {
                Some((last, _)) if page.len() >= PAGE_ROWS => range = range.continued_after(last),
                _ => break,
            }
        }
        let senders: Vec<_> = self.facts.iter().map(|(_, fact)| fact.sender).collect();
        let ids = self.core.users.ids(&senders).await?;
        let ours = ids.iter().map(|id| id.as_ref().is_some_and(|id| self.core.identity.is_ours(id)));
        let missing = self
            .facts
            .iter()
            .zip(ours)
            .filter(|((number, fact), ours)| *ours && fact.shown && !self.facts.has_arrived(*number));
        let missing: Vec<_> = missing.map(|((number, fact), _)| (number, fact.position)).collect();
        for (number, position) in missing {
            if self.find(Damage::Timeline, self.name_of(number), true) {
                self.write.put_unstamped::<Timeline>(&(self.room.number, position), &number);
                self.changed.push(number);
                self.facts.arrive(number);
                self.flush_some().await?;
            }
        }
        Ok(())
    }
}
