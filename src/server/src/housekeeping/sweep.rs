//! Deletes rows whose time is over, in every table whose lifetime is a time.
//!
//! Each such table says how old its rows are ([`Aged`]) and is in `sweeps`; a test fails if one is missing. A table is
//! gone through page by page; where a round ended stands in the database, so that the next one, also after a restart,
//! goes on there.

use allod_storage::CommitError;
use futures_util::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    database::{self, Database, Error, Range, Write},
    tables::{
        Lifetime, Table, TableInfo,
        accounts::{DeviceSeen, OPENID_SECONDS, OpenIdToken},
        appservices::AppserviceQueue,
        inbound::{InboundTransaction, RemoteKeyList, StrandedEvent, UnverifiedEvent},
        inbox::{ToDeviceProgress, ToDeviceTransaction},
        keys::{DeviceListChange, KeyFailure},
        outbox::QueuedEdu,
        rooms::Transaction,
        upkeep::{Chore, ChoreRow, PositionAtTime},
        whereabouts::EgressContact,
    },
};

/// Pages of a table that one round goes through at most.
const PAGES_MAX: usize = 1000;
/// Rows on a page.
const PAGE_ROWS: usize = 500;
/// A table is gone through this many times in its rows' lifetime, though not more often than once a round.
const ROUNDS_PER_LIFETIME: u64 = 24;
const DAY_MS: u64 = 86_400_000;
/// How often the time of a position is noted, at most.
const MARK_MS: u64 = 1_800_000;

/// A table whose rows go after a time.
pub trait Aged: Table {
    /// Whether rows stand in the order of their age, so that a sweep may stop at the first young one.
    const IN_ORDER: bool = false;

    /// Since when, in milliseconds since the epoch, a row's time runs.
    fn since_ms(key: &Self::Key, value: &Self::Value, times: &Times) -> u64;
}

/// When commits were made, as far as it was noted.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Time and newest position, oldest first.
    marks: Vec<(u64, u64)>,
    now_ms: u64,
}

impl Times {
    /// A time at which a commit had been made; not much later than when it was.
    pub fn at(&self, position: allod_storage::Position) -> u64 {
        let behind = self.marks.partition_point(|(_, newest)| *newest < position.get());
        self.marks.get(behind).map_or(self.now_ms, |(at_ms, _)| *at_ms)
    }
}

impl Aged for DeviceSeen {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.seen_ms
    }
}

impl Aged for OpenIdToken {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.expires_ms.saturating_sub(OPENID_SECONDS.saturating_mul(1000))
    }
}

impl Aged for Transaction {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.at_ms
    }
}

impl Aged for ToDeviceTransaction {
    const IN_ORDER: bool = true;

    fn since_ms(key: &Self::Key, (): &Self::Value, _: &Times) -> u64 {
        // At the end of the day.
        u64::from(key.0).saturating_add(1).saturating_mul(DAY_MS)
    }
}

impl Aged for ToDeviceProgress {
    const IN_ORDER: bool = true;

    fn since_ms(key: &Self::Key, _: &Self::Value, _: &Times) -> u64 {
        u64::from(key.0).saturating_add(1).saturating_mul(DAY_MS)
    }
}

impl Aged for DeviceListChange {
    const IN_ORDER: bool = true;

    fn since_ms(key: &Self::Key, (): &Self::Value, times: &Times) -> u64 {
        times.at(key.0)
    }
}

impl Aged for InboundTransaction {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.at_ms
    }
}

impl Aged for RemoteKeyList {
    fn since_ms(_: &Self::Key, row: &Self::Value, _: &Times) -> u64 {
        row.value.at_ms
    }
}

impl Aged for KeyFailure {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        [&value.query, &value.claim].into_iter().flatten().map(|kind| kind.last_ms).max().unwrap_or_default()
    }
}

impl Aged for StrandedEvent {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.since_ms
    }
}

impl Aged for UnverifiedEvent {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.since_ms
    }
}

impl Aged for QueuedEdu {
    fn since_ms(key: &Self::Key, _: &Self::Value, times: &Times) -> u64 {
        times.at(key.1)
    }
}

impl Aged for AppserviceQueue {
    fn since_ms(key: &Self::Key, _: &Self::Value, times: &Times) -> u64 {
        times.at(key.1)
    }
}

impl Aged for EgressContact {
    fn since_ms(_: &Self::Key, value: &Self::Value, _: &Times) -> u64 {
        value.last_ms
    }
}

impl Aged for PositionAtTime {
    const IN_ORDER: bool = true;

    fn since_ms(key: &Self::Key, _: &Self::Value, _: &Times) -> u64 {
        *key
    }
}

/// Sweeps one page behind a cursor.
type SweepPage = for<'a> fn(&'a Database, &'a Times, Option<Vec<u8>>) -> BoxFuture<'a, Result<Swept, Error>>;

/// A sweep of one table, its types forgotten.
struct Sweep {
    info: TableInfo,
    run: SweepPage,
}

/// What a page came to.
struct Swept {
    deleted: usize,
    /// Where to go on; none at the end of the table.
    cursor: Option<Vec<u8>>,
}

/// The sweeps of all tables whose rows go after a time.
fn sweeps() -> Vec<Sweep> {
    fn of<T: Aged>() -> Sweep
    where
        T::Key: Send + Sync,
        T::Value: Send + Sync,
    {
        Sweep {
            info: T::INFO,
            run: |database, times, cursor| sweep_page::<T>(database, times, cursor).boxed(),
        }
    }
    vec![
        of::<DeviceSeen>(),
        of::<OpenIdToken>(),
        of::<Transaction>(),
        of::<ToDeviceTransaction>(),
        of::<ToDeviceProgress>(),
        of::<DeviceListChange>(),
        of::<InboundTransaction>(),
        of::<StrandedEvent>(),
        of::<UnverifiedEvent>(),
        of::<RemoteKeyList>(),
        of::<KeyFailure>(),
        of::<QueuedEdu>(),
        of::<AppserviceQueue>(),
        of::<EgressContact>(),
        of::<PositionAtTime>(),
    ]
}

/// The service.
#[derive(Clone, Debug)]
pub struct Sweeper {
    database: Database,
    clock: Clock,
}

impl Sweeper {
    /// Over a database.
    pub fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// One round: goes through the tables whose turn it is, until it is told to stop.
    pub async fn sweep(&self, stopping: &CancellationToken) -> Result<(), Error> {
        let times = self.note_time().await?;
        for sweep in sweeps() {
            let deleted = self.sweep_table(&sweep, &times, stopping).await?;
            if deleted > 0 {
                tracing::info!(table = sweep.info.name, rows = deleted, "deleted rows whose time was over");
            }
        }
        Ok(())
    }

    /// Notes which commit is the newest now; returns all that was noted.
    async fn note_time(&self) -> Result<Times, Error> {
        let now_ms = self.clock.now_ms();
        let rows = self.database.scan_all(Range::<PositionAtTime>::whole()).await?;
        let mut times = Times { marks: rows, now_ms };
        if times.marks.last().is_none_or(|(at_ms, _)| at_ms.saturating_add(MARK_MS) <= now_ms) {
            let newest = self.database.store().head().get();
            let mut write = Write::new();
            write.put::<PositionAtTime>(&now_ms, &newest);
            self.database.commit(write).await?;
            times.marks.push((now_ms, newest));
        }
        Ok(times)
    }

    async fn sweep_table(
        &self,
        sweep: &Sweep,
        times: &Times,
        stopping: &CancellationToken,
    ) -> Result<usize, Error> {
        let mut chore = self.database.get::<Chore>(&sweep.info.id).await?.unwrap_or_default();
        let pause_ms = lifetime_ms(&sweep.info).checked_div(ROUNDS_PER_LIFETIME).unwrap_or_default();
        if chore.cursor.is_none() && times.now_ms < chore.finished_ms.saturating_add(pause_ms) {
            return Ok(0);
        }
        let mut deleted = 0_usize;
        for _ in 0..PAGES_MAX {
            if stopping.is_cancelled() {
                break;
            }
            let swept = (sweep.run)(&self.database, times, chore.cursor.take()).await?;
            deleted = deleted.saturating_add(swept.deleted);
            chore.cursor = swept.cursor;
            if chore.cursor.is_none() {
                chore.finished_ms = times.now_ms;
                break;
            }
        }
        let mut write = Write::new();
        write.put::<Chore>(&sweep.info.id, &ChoreRow { ..chore });
        self.database.commit(write).await?;
        Ok(deleted)
    }
}

fn lifetime_ms(info: &TableInfo) -> u64 {
    match info.lifetime {
        Lifetime::Seconds(seconds) => seconds.saturating_mul(1000),
        Lifetime::Forever | Lifetime::Room | Lifetime::User | Lifetime::Device => u64::MAX,
    }
}

/// Deletes what is too old on one page. A row that changed since it was read stays until the next round.
async fn sweep_page<T: Aged>(
    database: &Database,
    times: &Times,
    cursor: Option<Vec<u8>>,
) -> Result<Swept, Error> {
    let mut range = Range::<T>::whole().limit(PAGE_ROWS);
    if let Some(cursor) = cursor {
        range = range.resumed_after(&cursor);
    }
    let page = database.scan(&range).await?;
    let oldest_ms = times.now_ms.saturating_sub(lifetime_ms(&T::INFO));
    let is_old = |row: &&(T::Key, T::Value)| T::since_ms(&row.0, &row.1, times) < oldest_ms;
    let reached_young = T::IN_ORDER && !page.rows.iter().all(|row| is_old(&row));
    let mut old: Vec<&(T::Key, T::Value)> = page.rows.iter().filter(is_old).collect();
    while !old.is_empty() {
        match database.commit(deletion::<T>(&old)).await {
            Ok(_) => break,
            Err(CommitError::Conflict(changed)) if changed < old.len() => drop(old.remove(changed)),
            Err(error) => return Err(error.into()),
        }
    }
    let last = page.rows.last().filter(|_| page.more && !reached_young);
    Ok(Swept { deleted: old.len(), cursor: last.map(|(key, _)| database::cursor::<T>(key)) })
}

fn deletion<T: Table>(rows: &[&(T::Key, T::Value)]) -> Write {
    let mut write = Write::new();
    for (key, value) in rows {
        write.equals::<T>(key, value);
        write.delete::<T>(key);
    }
    if let (true, Some(first), Some(last)) = (T::INFO.class.is_erased_in_time(), rows.first(), rows.last()) {
        write.erase_between::<T>(&first.0, &last.0);
    }
    write
}

#[cfg(test)]
mod tests;
