//! The scanner: a program or a server that looks at each file before anybody can fetch it.
//!
//! The commit that makes a file known leaves a row for it ([`WaitingScan`]); while that is there the file is given to
//! nobody, and who asks for it waits as for one that is still being uploaded. A scanner that is out of order, or takes too
//! long, is asked again, later and later. What it finds infected goes into quarantine, where administrators see it.

use std::{io, path::PathBuf, time::Duration};

use allod_storage::BlobName;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use self::command::Temporary;
use super::{Media, is_conflict};
use crate::{
    config::Scanner,
    database::{Error, Range, Write},
    egress::EgressError,
    numbers::Hash128,
    retry,
    tables::media::{MediaContent, MediaFile, MediaFinding, MediaFindingRow, WaitingScan, WaitingScanRow},
};

mod command;
mod icap;

/// Files that are looked at at a time.
const AT_ONCE: usize = 4;
/// The first pause after the scanner did not judge a file.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before it is asked about the same file again.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The longest pause after it judged none of the files that it was asked about.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How often is looked for what waits, though nothing is known to.
const IDLE: Duration = Duration::from_secs(600);
/// Longest text of a finding that is kept, in letters.
const FINDING_LETTERS_MAX: usize = 200;

/// What a scanner says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing speaks against it.
    Clean,
    /// What it found.
    Infected(String),
}

/// Why a scanner says nothing of a file.
#[derive(Debug, thiserror::Error)]
enum ScanError {
    /// It could not be started, read from or written to; or the file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was not reached.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It says that it failed, or nothing that is understood.
    #[error("{0}")]
    Failed(String),
    /// It did not answer in time.
    #[error("it took longer than media.scan_time")]
    TimedOut,
}

/// What came of looking at what was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// Files that were judged.
    pub(super) judged: usize,
    /// Whether the scanner judged none of those that it was asked about last.
    pub(super) failed: bool,
    /// When the next file is due, in milliseconds since the Unix epoch.
    next_ms: Option<u64>,
}

/// Looks at what waits, and at what comes.
pub(super) fn start(media: &Media) {
    let (media, stopping) = (media.clone(), media.0.tasks.stopping().clone());
    // What a crash left in the way.
    if let Err(error) = std::fs::remove_dir_all(&media.0.scan_folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "what a scanner was given before the last stop could not be removed");
    }
    media.0.tasks.clone().spawn("media scan", async move {
        let mut failures = 0_u32;
        loop {
            // Listens before it looks, so that what comes between is heard.
            let mut more = std::pin::pin!(media.0.to_scan.notified());
            more.as_mut().enable();
            let round = tokio::select! {
                round = media.scan_due() => round,
                () = stopping.cancelled() => return,
            };
            let pause = match round {
                Ok(round) if !round.failed => {
                    failures = 0;
                    let now_ms = media.0.clock.now_ms();
                    let due_ms = round.next_ms.map(|next_ms| next_ms.saturating_sub(now_ms));
                    due_ms.map_or(IDLE, Duration::from_millis).min(IDLE).max(FIRST_PAUSE)
                }
                outcome => {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "files could not be given to the scanner; trying again");
                    }
                    failures = failures.saturating_add(1);
                    retry::pause(failures, FIRST_PAUSE, LONGEST_REST, &media.0.random)
                }
            };
            tokio::select! {
                // News do not end the pause of a scanner that is out of order.
                () = more, if failures == 0 => {}
                () = sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
        }
    });
}

impl Media {
    /// Adds to the commit that makes a file known that it waits for the scanner, if there is one.
    pub(super) fn hold(&self, write: &mut Write, key: Hash128) {
        if !self.options().scan.is_empty() {
            let now_ms = self.0.clock.now_ms();
            write
                .put::<WaitingScan>(&key, &WaitingScanRow { since_ms: now_ms, failures: 0, next_ms: now_ms });
        }
    }

    /// Has the scanner look at all that is due.
    pub(super) async fn scan_due(&self) -> Result<Round, Error> {
        let _one_at_a_time = self.0.scanning.lock().await;
        let options = self.options();
        // Without one, what waits goes on waiting: nobody has found it clean.
        let Ok(Some(scanner)) = Scanner::of(&options.scan) else { return Ok(Round::default()) };
        let now_ms = self.0.clock.now_ms();
        let waiting = self.0.database.scan_all(Range::<WaitingScan>::whole()).await?;
        let (mut due, later): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(_, waiting)| waiting.next_ms <= now_ms);
        due.sort_by_key(|(_, waiting)| waiting.next_ms);
        let mut round =
            Round { next_ms: later.iter().map(|(_, waiting)| waiting.next_ms).min(), ..Round::default() };
        for files in due.chunks(AT_ONCE) {
            let asked = files
                .iter()
                .map(|(key, waiting)| self.scan_one(&scanner, options.scan_time.0, *key, waiting));
            let mut judged = 0_usize;
            for outcome in join_all(asked).await {
                match outcome? {
                    None => judged = judged.saturating_add(1),
                    Some(next_ms) => {
                        round.next_ms = Some(round.next_ms.map_or(next_ms, |other| other.min(next_ms)));
                    }
                }
            }
            round.judged = round.judged.saturating_add(judged);
            round.failed = judged == 0;
            if round.failed {
                break;
            }
        }
        Ok(round)
    }

    /// Has the scanner look at a file: `None` if that is done with, or else when it is due again.
    async fn scan_one(
        &self,
        scanner: &Scanner,
        time_max: Duration,
        key: Hash128,
        waiting: &WaitingScanRow,
    ) -> Result<Option<u64>, Error> {
        let Some(content) = self.row(key).await?.and_then(|row| row.content) else {
            self.release_scanned(key, waiting).await?;
            return Ok(None);
        };
        let judging = timeout(time_max, self.ask(scanner, &content));
        match judging.await.unwrap_or(Err(ScanError::TimedOut)) {
            Ok(Some(Verdict::Infected(finding))) => self.quarantine_infected(key, waiting, finding).await?,
            Ok(Some(Verdict::Clean) | None) => self.release_scanned(key, waiting).await?,
            Err(error) => {
                tracing::warn!(%error, "the scanner did not judge a file; trying again later");
                return self.put_off(key, waiting).await.map(Some);
            }
        }
        self.0.arrived.notify_waiters();
        Ok(None)
    }

    /// What the scanner says; `None` if the file has gone meanwhile.
    async fn ask(&self, scanner: &Scanner, content: &MediaContent) -> Result<Option<Verdict>, ScanError> {
        let Some(reader) = self.open_blob(content.blob, 0, content.bytes).await? else { return Ok(None) };
        let verdict = match scanner {
            Scanner::Icap(address) => icap::judge(&self.0.egress, address, reader, content.sha256).await?,
            Scanner::Command { program, arguments } => {
                let said = self.temporary()?;
                let (path, _spooled): (PathBuf, Option<Temporary>) =
                    if let Some(path) = self.0.blobs.path(BlobName(content.blob)) {
                        (path, None)
                    } else {
                        let spooled = self.temporary()?;
                        spooled.fill(reader).await?;
                        (spooled.path().to_owned(), Some(spooled))
                    };
                command::judge((program, arguments), &path, &said).await?
            }
        };
        Ok(Some(verdict))
    }

    fn temporary(&self) -> io::Result<Temporary> {
        Temporary::new(&self.0.scan_folder, &BlobName(self.0.random.bytes()).to_string())
    }

    /// Lets a file go that was found clean; one that was let go or deleted meanwhile stays as it is.
    async fn release_scanned(&self, key: Hash128, waiting: &WaitingScanRow) -> Result<(), Error> {
        let mut write = Write::new();
        write.equals::<WaitingScan>(&key, waiting);
        write.delete::<WaitingScan>(&key);
        match self.0.database.commit(write).await {
            Err(error) if is_conflict(&error) => Ok(()),
            outcome => Ok(outcome.map(drop)?),
        }
    }

    async fn quarantine_infected(
        &self,
        key: Hash128,
        waiting: &WaitingScanRow,
        finding: String,
    ) -> Result<(), Error> {
        tracing::warn!(finding, "a file was found infected and is kept in quarantine");
        let found = MediaFindingRow { found_ms: self.0.clock.now_ms(), finding };
        loop {
            let Some(row) = self.row(key).await? else { return self.release_scanned(key, waiting).await };
            let mut write = Write::new();
            write.equals::<WaitingScan>(&key, waiting);
            write.delete::<WaitingScan>(&key);
            write.equals::<MediaFile>(&key, &row);
            // Of a protected file too: who protected it did not know.
            let mut kept = row;
            kept.quarantined = true;
            write.put::<MediaFile>(&key, &kept);
            write.put::<MediaFinding>(&key, &found);
            match self.0.database.commit(write).await {
                Err(error) if is_conflict(&error) => {
                    if self.0.database.get::<WaitingScan>(&key).await?.as_ref() != Some(waiting) {
                        return Ok(());
                    }
                }
                outcome => return Ok(outcome.map(drop)?),
            }
        }
    }

    /// Notes that the scanner did not judge a file; when it is asked again.
    async fn put_off(&self, key: Hash128, waiting: &WaitingScanRow) -> Result<u64, Error> {
        let failures = waiting.failures.saturating_add(1);
        let pause = retry::pause(failures, FIRST_PAUSE, LONGEST_PAUSE, &self.0.random);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let next_ms = self.0.clock.now_ms().saturating_add(pause_ms);
        let mut write = Write::new();
        write.equals::<WaitingScan>(&key, waiting);
        write.put::<WaitingScan>(&key, &WaitingScanRow { failures, next_ms, ..*waiting });
        match self.0.database.commit(write).await {
            Err(error) if !is_conflict(&error) => Err(error.into()),
            _ => Ok(next_ms),
        }
    }
}

/// What a scanner says, on one line of a reasonable length.
fn shown(said: &str) -> String {
    let printable = said.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    printable.take(FINDING_LETTERS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests;
