//! Files go with the events that they were sent with.
//!
//! A commit that redacts an event leaves a row for each file that the event named or carried
//! ([`LooseMedia`]). Behind it each of these files is looked at. One that was attached goes. One that was named goes if no
//! event names it any more, and if it was its uploader who sent it into a room: else anybody could have files of others
//! deleted. What somebody has as their picture, or in a collection of stickers, stays.
//!
//! An event that names the file in the meantime takes the row away, and the commit that deletes the file requires it.

use std::time::Duration;

use allod_storage::Hint;

use super::{Media, is_conflict, sweep::is_deletable};
use crate::{
    database::{Error, Range, Write},
    log::Happened,
    named_media::ATTACHED,
    numbers::{Hash128, RoomNumber},
    tables::{
        Stamped,
        media::{LooseMedia, MediaFile, MediaKeeper, MediaMark, MediaRow, MediaSender},
    },
};

/// How long is waited after a failure of the machine.
const PAUSE: Duration = Duration::from_secs(5);
/// The mark of the time since when what events name is written down.
const NAMED_SINCE: u8 = 1;

/// A row of [`LooseMedia`].
pub(super) type Loose = ((Hash128, u8), Stamped<u64>);

/// Looks at what an earlier run left over, then at what becomes loose.
pub(super) fn start(media: &Media) {
    let mut subscription = media.0.database.store().subscribe();
    let (media, stopping) = (media.clone(), media.0.tasks.stopping().clone());
    media.0.tasks.clone().spawn("media of events", async move {
        loop {
            let failed = media.let_go().await.inspect_err(|error| {
                tracing::warn!(%error, "files of deleted events could not be deleted; trying again");
            });
            loop {
                let hint = tokio::select! {
                    hint = subscription.recv() => hint,
                    () = tokio::time::sleep(PAUSE), if failed.is_err() => Some(Hint::Lagged),
                    () = stopping.cancelled() => return,
                };
                match hint {
                    Some(Hint::Record(record)) => {
                        let happened = record.entries.iter().filter_map(Happened::decode);
                        if happened.into_iter().any(|happened| happened == Happened::LooseMedia) {
                            break;
                        }
                    }
                    Some(Hint::Lagged) => break,
                    None => return,
                }
            }
        }
    });
}

impl Media {
    /// Notes since when what events name is written down: what is older may be named by events of which nothing is known.
    pub(super) async fn mark_beginning(&self) -> Result<(), Error> {
        let database = &self.0.database;
        if database.get::<MediaMark>(&NAMED_SINCE).await?.is_some() {
            return Ok(());
        }
        let files = database.scan(&Range::<MediaFile>::whole().limit(1)).await?;
        let since_ms = if files.rows.is_empty() { 0 } else { self.0.clock.now_ms() };
        let mut write = Write::new();
        write.put::<MediaMark>(&NAMED_SINCE, &since_ms);
        Ok(database.commit(write).await.map(drop)?)
    }

    /// Looks at all files that are loose, and deletes those that nothing keeps.
    pub async fn let_go(&self) -> Result<(), Error> {
        let mut range = Range::<LooseMedia>::whole();
        loop {
            let page = self.0.database.scan(&range).await?;
            for loose in &page.rows {
                self.let_go_of(loose).await?;
            }
            let (true, Some((last, _))) = (page.more, page.rows.last()) else { return Ok(()) };
            range = range.continued_after(last);
        }
    }

    /// Has the files go that only events of a room named or carried, with their thumbnails. For who removes the room: after
    /// its task has ended, and before its rows go.
    pub async fn let_go_of_room(&self, room: RoomNumber) -> Result<(), Error> {
        while self.0.rooms.forget_media_of(room).await? {}
        self.let_go().await
    }

    async fn let_go_of(&self, loose: &Loose) -> Result<(), Error> {
        let ((key, kind), _) = loose;
        let goes = match self.row(*key).await? {
            Some(row) if !is_deletable(&row) => false,
            Some(_) if *kind == ATTACHED => true,
            Some(row) => self.options().delete_with_events && !self.is_kept(*key, &row).await?,
            None => false,
        };
        if goes && self.delete_loose(loose).await? {
            return Ok(());
        }
        let mut write = Write::new();
        write.equals::<LooseMedia>(&loose.0, &loose.1);
        write.delete::<LooseMedia>(&loose.0);
        match self.0.database.commit(write).await {
            // It is loose anew, or an event has taken the row away.
            Err(error) if is_conflict(&error) => Ok(()),
            outcome => Ok(outcome.map(drop)?),
        }
    }

    /// Whether something keeps a file that an event named.
    async fn is_kept(&self, key: Hash128, row: &MediaRow) -> Result<bool, Error> {
        if self.0.rooms.is_named(key).await? {
            return Ok(true);
        }
        // Of another server's file this is a copy, which can be fetched anew.
        if row.server.is_some() {
            return Ok(false);
        }
        let Some(uploader) = row.uploader else { return Ok(true) };
        let database = &self.0.database;
        let since_ms = database.get::<MediaMark>(&NAMED_SINCE).await?;
        let unknown = since_ms.is_none_or(|since_ms| row.created_ms < since_ms);
        if unknown || database.get::<MediaSender>(&(key, uploader)).await?.is_none() {
            return Ok(true);
        }
        let keepers = database.scan(&Range::<MediaKeeper>::prefix(&key)).await?;
        for ((_, user), ()) in keepers.rows {
            if self.0.rooms.has_account(user).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
