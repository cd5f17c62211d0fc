//! The only place that spawns: every background task has a name and is waited for at shutdown.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The registry of background tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    /// How many tasks of each name there are.
    counts: Arc<RwLock<BTreeMap<&'static str, Arc<AtomicU64>>>>,
}

/// One more task of a name, until it is dropped.
struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tasks {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. It should end soon after [`Tasks::stopping`] is cancelled.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let counted = self.count(name);
        let future = self.tracker.track_future(async move {
            let _counted = counted;
            future.await
        });
        tokio::spawn(future.instrument(tracing::info_span!(parent: None, "task", name)))
    }

    /// Runs blocking work, such as hashing a password, on the pool for it.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// How many tasks of each name run; names without any are those that ran before.
    pub fn running(&self) -> Vec<(&'static str, u64)> {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }

    fn count(&self, name: &'static str) -> Counted {
        let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
        let known = counts.get(name).cloned();
        drop(counts);
        let count = known.unwrap_or_else(|| {
            let mut counts = self.counts.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(counts.entry(name).or_default())
        });
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }

    /// Cancelled when the server begins to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Tells all tasks to stop and waits for them; returns whether all ended within `limit`.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_are_counted_until_they_end() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping().clone();
        let waits = tasks.spawn("waits", async move { stopping.cancelled().await });
        tasks.spawn("ends", async {}).await.unwrap();
        assert_eq!(tasks.running(), [("ends", 0), ("waits", 1)]);
        tasks.spawn("fails", async { panic!("on purpose") }).await.unwrap_err();
        tasks.stopping().cancel();
        waits.await.unwrap();
        assert!(tasks.running().iter().all(|(_, count)| *count == 0), "{:?}", tasks.running());
    }
}
