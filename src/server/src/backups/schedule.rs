//! Backups that the server makes by itself, as its configuration says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Added, BackupError, Repository, Sources, Staging};
use crate::{
    clock::Clock,
    config::{Config, Live},
    database::{Database, Error as DatabaseError},
    tasks::Tasks,
};

/// How soon after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(600);
/// The longest sleep, after which the configuration is looked at again.
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// Why a backup by schedule was not made.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("the database could not be copied: {0}")]
    Database(#[from] DatabaseError),
    #[error("the copying broke off")]
    Panicked,
}

/// The service.
#[derive(Clone, Debug)]
pub struct Schedule {
    config: Live,
    database: Database,
    clock: Clock,
    tasks: Tasks,
    /// The configuration file, which is backed up too.
    configuration: Option<PathBuf>,
}

impl Schedule {
    /// Of a server whose configuration stands in this file.
    pub fn new(
        config: Live,
        database: Database,
        clock: Clock,
        tasks: Tasks,
        configuration: Option<PathBuf>,
    ) -> Self {
        Self { config, database, clock, tasks, configuration }
    }

    /// Makes backups from now on, whenever one is due.
    pub fn start(self) {
        let tasks = self.tasks.clone();
        tasks.spawn("backups", async move {
            let stopping = self.tasks.stopping().clone();
            loop {
                let wait = self.step().await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the backup that was due was not made; it is tried again");
                    RETRY
                });
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(wait.min(SLEEP_MAX)) => {}
                }
            }
        });
    }

    /// Makes a backup if one is due; how long it is until the next.
    async fn step(&self) -> Result<Duration, Failure> {
        let config = self.config.get();
        let Some(folder) = config.backup.folder.clone() else { return Ok(SLEEP_MAX) };
        let every = config.backup.every.0;
        let now_ms = self.clock.now_ms();
        let age = self.blocking({
            let folder = folder.clone();
            move || age_of_newest(&folder, now_ms)
        });
        if let Some(left) = age.await?.and_then(|age| every.checked_sub(age)).filter(|left| !left.is_zero()) {
            return Ok(left);
        }
        let added = self.make(&config, folder, now_ms).await?;
        tracing::info!(
            snapshot = added.snapshot.name,
            bytes = added.snapshot.bytes(),
            new_bytes = added.new_bytes,
            "backup made"
        );
        Ok(every)
    }

    async fn make(&self, config: &Config, folder: PathBuf, now_ms: u64) -> Result<Added, Failure> {
        let staging = Staging::enter(config)?;
        let store = self.database.store();
        store.checkpoint(&staging.checkpoint()).await.map_err(DatabaseError::from)?;
        let sources = Sources::new(config, store, staging.checkpoint(), self.configuration.clone());
        let keep = config.backup.keep;
        self.blocking(move || {
            let repository = Repository::create(&folder)?;
            let added = repository.add(&sources, now_ms, |_, _| {})?;
            repository.prune(usize::try_from(keep).unwrap_or(usize::MAX))?;
            drop(staging);
            Ok(added)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
    ) -> Result<T, Failure> {
        Ok(self.tasks.spawn_blocking(work).await.map_err(|_| Failure::Panicked)??)
    }
}

/// How long ago the newest snapshot was begun; none if there is none.
fn age_of_newest(folder: &Path, now_ms: u64) -> Result<Option<Duration>, BackupError> {
    let newest = match Repository::open(folder) {
        Ok(repository) => repository.newest()?,
        Err(BackupError::NoBackups(_)) => None,
        Err(error) => return Err(error),
    };
    Ok(newest.map(|snapshot| Duration::from_millis(now_ms.saturating_sub(snapshot.made_at_ms))))
}
