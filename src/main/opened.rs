//! The services over the database that the configuration names, as the server and commands on a stopped server use them.

use std::{fs, os::unix::fs::DirBuilderExt, path::PathBuf};

use allod_api::app::{App, Base};
use allod_server::{
    backups::Schedule,
    clock::Clock,
    config::{Config, Live},
    database::Database,
    identity::Identity,
    random::Random,
    tables,
    tasks::Tasks,
};
use allod_storage::{OpenOptions, Store};
use anyhow::{Context, bail};

/// Records of the commit log that are kept: its consumers are in this process, and start at its end.
const LOG_RECORDS_MAX: u64 = 100_000;
/// How long the tasks are given to end.
const END_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(60);

/// The services, and what ends with them.
pub(crate) struct Opened {
    pub(crate) app: App,
    pub(crate) store: Store,
    pub(crate) tasks: Tasks,
    pub(crate) live: Live,
    database: Database,
    clock: Clock,
}

impl Opened {
    /// Opens the database, or makes it, and the services over it.
    pub(crate) async fn open(config: Config, in_memory: bool) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let random = Random::secure().context("this machine gives no randomness")?;
        let tasks = Tasks::new();
        let store = open_store(&config, in_memory)?;
        let database = Database::open(store.clone(), &random).await?;
        let key = config.server.data_dir.join("signing.key");
        let identity = Identity::open(config.server.name.clone(), &key, &random)?;
        let live = Live::new(config);
        let base = Base {
            identity,
            database: database.clone(),
            config: live.clone(),
            clock: clock.clone(),
            random,
            tasks: tasks.clone(),
        };
        Ok(Self { app: App::open(base).await?, store, tasks, live, database, clock })
    }

    /// Makes backups by schedule from now on, with this configuration file in them.
    pub(crate) fn start_backups(&self, configuration: Option<PathBuf>) {
        let (live, database, clock) = (self.live.clone(), self.database.clone(), self.clock.clone());
        Schedule::new(live, database, clock, self.tasks.clone(), configuration).start();
    }

    /// Ends the services' tasks and closes the database.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let Self { app, store, tasks, database, .. } = self;
        drop((app, database));
        if !tasks.shut_down(END_TIME_MAX).await {
            bail!("a task does not end");
        }
        store.close().await;
        Ok(())
    }
}

/// Opens the database, or makes it.
pub(crate) fn open_store(config: &Config, in_memory: bool) -> anyhow::Result<Store> {
    if in_memory {
        return Ok(Store::memory(tables::SPACES));
    }
    let folder = &config.server.data_dir;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let mut options = OpenOptions::new(
        folder.join("database"),
        tables::SPACES,
        tables::FORMAT,
        config.server.name.as_str(),
    );
    options.memory_bytes = config.storage.memory_bytes();
    options.log_records_max = LOG_RECORDS_MAX;
    Store::open(options).with_context(|| format!("cannot open the database in {}", folder.display()))
}
