//! Backups: one folder that holds any number of snapshots of the whole server, each taken while it runs.
//!
//! A snapshot is a list of files with the hash of each: the database as of one commit, media, the signing key, the
//! configuration. A file's bytes are kept under their hash, so that a snapshot costs what changed since the one before: the
//! database's tables and media never change once written. The list comes last and whole or not at all, so that a backup
//! that is cut short leaves the earlier snapshots as they were.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Live},
    database::{Database, Error},
};

mod list;
mod repository;
mod restore;
mod schedule;
mod sources;

pub use self::{
    list::{Snapshot, SnapshotFile},
    repository::{Added, Damage, Repository},
    restore::{Restored, restore, settle},
    schedule::Schedule,
    sources::Sources,
};

/// Where a running server lays out what is to be copied, in the data folder.
const STAGING: &str = "backup";
/// The copy of the database in it.
const CHECKPOINT: &str = "checkpoint";

/// Why a backup was not made, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] io::Error),
    /// There is something else there.
    #[error("{0} is neither empty nor a folder of backups; name another folder")]
    Foreign(PathBuf),
    /// There is nothing there.
    #[error("{0} is no folder of backups: `allod backup create {0}` makes one")]
    NoBackups(PathBuf),
    /// Another program works on it.
    #[error("another backup is under way ({0} is locked); wait until it has ended")]
    Busy(PathBuf),
    /// The backups are of another server.
    #[error("the backups in {folder} are of {found}, and not of {expected}")]
    OtherServer {
        /// The folder.
        folder: PathBuf,
        /// Whose they are.
        found: String,
        /// Who asks.
        expected: String,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {0}; `allod backup list` shows those that there are")]
    NoSnapshot(String),
    /// A snapshot's list is not what was written.
    #[error("the list of snapshot {0} is damaged; take another snapshot")]
    DamagedList(String),
    /// A file of a snapshot is not what was written.
    #[error("{path} of snapshot {snapshot} is {damage}; take another snapshot")]
    DamagedFile {
        /// The snapshot.
        snapshot: String,
        /// The file, as it is called in the snapshot.
        path: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// There is data already.
    #[error("{0} exists; move it away first, for instance with `mv {0} {0}.old`")]
    Occupied(PathBuf),
}

impl BackupError {
    fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::File(path, error)
    }
}

/// The place in the data folder where a checkpoint is laid out for one backup at a time. Dropped, it is empty again.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    /// Takes the place, unless another backup has it.
    pub fn enter(config: &Config) -> Result<Self, BackupError> {
        let folder = config.server.data_dir.join(STAGING);
        make_folder(&folder)?;
        let lock = lock(&folder.join("lock"))?;
        let staging = Self { folder, _lock: lock };
        staging.clear()?;
        Ok(staging)
    }

    /// Where the checkpoint belongs.
    pub fn checkpoint(&self) -> PathBuf {
        self.folder.join(CHECKPOINT)
    }

    fn clear(&self) -> Result<(), BackupError> {
        let checkpoint = self.checkpoint();
        match fs::remove_dir_all(&checkpoint) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BackupError::File(checkpoint, error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "a backup's copy of the database stays until the next backup");
        }
    }
}

/// Copies the database of a running server for a command that has entered its [`Staging`].
#[derive(Clone, Debug)]
pub struct Checkpoints {
    database: Database,
    config: Live,
}

/// A copy of the database, and what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The identity of the database.
    pub creation_id: u128,
    /// Its generation.
    pub generation: u32,
    /// The last commit that it surely has.
    pub position: u64,
}

impl Checkpoints {
    /// Of a server with this configuration.
    pub fn new(database: Database, config: Live) -> Self {
        Self { database, config }
    }

    /// Copies the database into the staging folder, where no other copy may be.
    pub async fn make(&self) -> Result<Checkpoint, Error> {
        let store = self.database.store();
        let position = store.head().get();
        let to = self.config.get().server.data_dir.join(STAGING).join(CHECKPOINT);
        store.checkpoint(&to).await?;
        Ok(Checkpoint { creation_id: store.creation_id(), generation: store.generation(), position })
    }
}

/// Makes a folder that only its owner may look into; who owns the folder above owns it.
fn make_folder(folder: &Path) -> Result<(), BackupError> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => give(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(BackupError::File(folder.to_owned(), error)),
    }
}

/// Gives a file to the owner of its folder: root runs commands, and the server's own user the server.
fn give(path: &Path) -> Result<(), BackupError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let owner = fs::metadata(folder).map_err(BackupError::file(folder))?;
    let own = fs::symlink_metadata(path).map_err(BackupError::file(path))?;
    if (own.uid(), own.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid())).map_err(BackupError::file(path))
}

/// Locks a file for as long as it stays open.
fn lock(path: &Path) -> Result<File, BackupError> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = file.map_err(BackupError::file(path))?;
    give(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(BackupError::Busy(path.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(BackupError::File(path.to_owned(), error)),
    }
}

/// Makes what was renamed into a folder durable.
fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(BackupError::file(folder))
}

#[cfg(test)]
mod tests;
