//! Where the open database stands, so that it can be closed and reopened under its users.
//!
//! Users hold a read lock for one synchronous operation, never across an await; whoever swaps the
//! database takes the write lock and so knows that nobody uses the old one.

use std::fmt;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, TryLockError};

use super::read::{Database, ReadError};
use crate::Error;

/// Holds the database, if there is one.
pub(super) struct Slot {
    database: RwLock<Option<Database>>,
    maintenance: Mutex<()>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl Slot {
    pub(super) fn new(database: Database) -> Self {
        Self { database: RwLock::new(Some(database)), maintenance: Mutex::new(()) }
    }

    /// Uses the database unless it is being swapped just now.
    pub(super) fn try_use<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, ReadError>,
    ) -> Option<Result<T, ReadError>> {
        let guard = match self.database.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(guard.as_ref().map_or_else(|| Err(absent().into()), work))
    }

    /// Uses the database, after a swap that is under way.
    pub(super) fn wait_use<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, E>,
    ) -> Result<T, E> {
        let guard = self.read();
        guard.as_ref().map_or_else(|| Err(absent().into()), work)
    }

    /// Uses the database for long; meanwhile it is not swapped.
    pub(super) fn maintain(&self, work: impl FnOnce(&Database) -> Result<(), Error>) -> Result<(), Error> {
        let _one_at_a_time = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_use(work)
    }

    /// Swaps the database unless maintenance is running.
    pub(super) fn swap<T>(
        &self,
        work: impl FnOnce(&mut Option<Database>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _no_maintenance = match self.maintenance.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Unavailable("maintenance is running".to_owned()));
            }
        };
        work(&mut self.database.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Closes the database for good, stopping maintenance.
    ///
    /// What only the write-ahead log and memory hold is written to tables first: the next start would do that, after
    /// replaying the log, before it answers anyone.
    pub(super) fn close(&self) {
        if let Some(database) = self.read().as_ref() {
            if let Err(error) = database.flush() {
                // The log is durable, so nothing is lost but the next start's time.
                tracing::debug!(%error, "the database is closed without writing its buffers to tables");
            }
            database.stop_background();
        }
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(database);
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn absent() -> Error {
    Error::Unavailable("the store is closed".to_owned())
}
