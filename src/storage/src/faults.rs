//! Faults on purpose, from a seed: conflicts, delays, I/O errors and crashes, around any engine.
//!
//! For tests of everything above the seam. Always compiled, since it costs the hot path one arm of a
//! `match`; nothing but tests constructs it. Delays pass in tokio's time, so a paused clock keeps a
//! simulation deterministic; where no runtime is running there are none.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::committer::Outcome;
use crate::{
    AuditRecord, Batch, Commit, CommitError, Error, Key, LogRecord, Mode, Page, Position, Scan, Store,
};

/// How often what goes wrong, in operations of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Batches with checks that are refused although their checks hold, as if another writer had come between.
    pub conflict: u16,
    /// Batches that are committed late, and with them all that come behind.
    pub commit_delay: u16,
    /// Reads that answer late.
    pub read_delay: u16,
    /// The longest delay.
    pub delay_max: Duration,
    /// Batches whose write fails before anything was written: [`CommitError::Unknown`], then read-only.
    pub write_error: u16,
    /// Batches whose write seems to fail but was done: [`CommitError::Unknown`], then read-only; the batch is
    /// there after the recovery.
    pub write_error_late: u16,
    /// Reads that fail with [`Error::Unavailable`].
    pub read_error: u16,
    /// How long the store stays read-only after a write error; zero: until [`Store::try_recover`].
    pub outage: Duration,
}

/// A store whose operations fail as its plan says. Clones share it; keep one to steer the faults.
#[derive(Clone)]
pub struct FaultyStore {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Store,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    random: u64,
    queue: VecDeque<Held>,
    ticket: u64,
    /// Written, as it will turn out, but not visible before the recovery.
    limbo: Vec<Batch>,
    failure: Option<(String, SystemTime)>,
    crashed: bool,
}

/// A batch that is held back, itself or by one before it.
struct Held {
    ticket: u64,
    due: bool,
    batch: Batch,
    answer: oneshot::Sender<Outcome>,
    runtime: Handle,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FaultyStore").field("inner", &self.shared.inner).finish_non_exhaustive()
    }
}

impl FaultyStore {
    /// Wraps a store. Equal seeds, plans and operations give equal faults.
    pub fn new(inner: Store, seed: u64, faults: Faults) -> Self {
        let state = State {
            faults,
            random: seed,
            queue: VecDeque::new(),
            ticket: 0,
            limbo: Vec::new(),
            failure: None,
            crashed: false,
        };
        Self { shared: Arc::new(Shared { inner, state: Mutex::new(state) }) }
    }

    /// The store as the code under test sees it.
    pub fn store(&self) -> Store {
        Store::Faulty(self.clone())
    }

    /// Changes the plan.
    pub fn set(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The process dies: of what was not acknowledged, some is there after the restart and some is not.
    /// Until [`FaultyStore::restart`] nothing works. Handles and subscriptions from before belong to the dead.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.crashed = true;
        let held = std::mem::take(&mut state.queue);
        let survivors = state.below(held.len() + 1);
        // In order, as a log is cut off at one place; dropping the answers makes outcomes unknown.
        let survived = held.into_iter().take(survivors).map(|held| held.batch);
        state.limbo.extend(survived);
    }

    /// Starts again after a crash.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.crashed = false;
        self.settle(&mut state);
    }

    pub(crate) fn inner(&self) -> &Store {
        &self.shared.inner
    }

    pub(crate) async fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        self.read_fault().await?;
        self.shared.inner.get(key).await
    }

    pub(crate) async fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Error> {
        self.read_fault().await?;
        self.shared.inner.multi_get(keys).await
    }

    pub(crate) async fn scan(&self, scan: &Scan) -> Result<Page, Error> {
        self.read_fault().await?;
        self.shared.inner.scan(scan).await
    }

    pub(crate) async fn scan_many(&self, scans: &[Scan]) -> Result<Vec<Page>, Error> {
        self.read_fault().await?;
        self.shared.inner.scan_many(scans).await
    }

    pub(crate) async fn read_log(&self, after: Position, limit: usize) -> Result<Vec<LogRecord>, Error> {
        self.read_fault().await?;
        self.shared.inner.read_log(after, limit).await
    }

    pub(crate) async fn read_audit(
        &self,
        after: (Position, u16),
        limit: usize,
    ) -> Result<Vec<AuditRecord>, Error> {
        self.read_fault().await?;
        self.shared.inner.read_audit(after, limit).await
    }

    pub(crate) fn submit(&self, batch: Batch) -> Commit {
        let mut state = self.lock();
        if state.crashed {
            return Commit::ready(Err(CommitError::Unavailable));
        }
        if let Some((reason, _)) = &state.failure {
            return Commit::ready(Err(CommitError::ReadOnly(reason.clone())));
        }
        let faults = state.faults;
        if !batch.checks.is_empty() && state.strikes(faults.conflict) {
            let check = state.below(batch.checks.len());
            return Commit::ready(Err(CommitError::Conflict(check)));
        }
        if state.strikes(faults.write_error) {
            self.fail(&mut state, None);
            return Commit::ready(Err(CommitError::Unknown));
        }
        if state.strikes(faults.write_error_late) {
            self.fail(&mut state, Some(batch));
            return Commit::ready(Err(CommitError::Unknown));
        }
        let delay = state.strikes(faults.commit_delay).then(|| state.delay());
        match Handle::try_current() {
            Ok(runtime) if delay.is_some() || !state.queue.is_empty() => {
                self.hold(&mut state, batch, delay, runtime)
            }
            _ => {
                self.release(&mut state, true);
                self.shared.inner.submit(batch)
            }
        }
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.lock().failure.clone() {
            Some((reason, since)) => Mode::ReadOnly { reason, since },
            None => self.shared.inner.mode(),
        }
    }

    pub(crate) async fn try_recover(&self) -> Result<(), Error> {
        self.recover()?;
        self.shared.inner.try_recover().await
    }

    fn recover(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.crashed {
            return Err(crashed());
        }
        self.settle(&mut state);
        Ok(())
    }

    /// What was in limbo turns out to be there, and writing goes on.
    fn settle(&self, state: &mut State) {
        for batch in std::mem::take(&mut state.limbo) {
            // Nobody waits for it any more.
            drop(self.shared.inner.submit(batch));
        }
        state.failure = None;
    }

    /// A write fails; what was submitted before it is done first.
    fn fail(&self, state: &mut State, limbo: Option<Batch>) {
        self.release(state, true);
        state.limbo.extend(limbo);
        state.failure = Some(("an injected write error".to_owned(), now()));
        let outage = state.faults.outage;
        if let Ok(runtime) = Handle::try_current()
            && !outage.is_zero()
        {
            let store = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(outage).await;
                // Fails only after a crash, and then the restart does it.
                let _recovered = store.recover();
            });
        }
    }

    fn hold(&self, state: &mut State, batch: Batch, delay: Option<Duration>, runtime: Handle) -> Commit {
        let (answer, outcome) = oneshot::channel();
        state.ticket += 1;
        let ticket = state.ticket;
        if let Some(delay) = delay {
            let store = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(delay).await;
                let mut state = store.lock();
                if let Some(held) = state.queue.iter_mut().find(|held| held.ticket == ticket) {
                    held.due = true;
                }
                store.release(&mut state, false);
            });
        }
        state.queue.push_back(Held { ticket, due: delay.is_none(), batch, answer, runtime });
        Commit::waiting(outcome)
    }

    /// Hands on batches in order, up to one that is not due; or all.
    fn release(&self, state: &mut State, all: bool) {
        while state.queue.front().is_some_and(|held| all || held.due) {
            let Some(held) = state.queue.pop_front() else { return };
            let commit = self.shared.inner.submit(held.batch);
            held.runtime.spawn(async move {
                // The one who waited may have gone.
                let _unheard = held.answer.send(commit.await);
            });
        }
    }

    /// The fault of the next read, if it has one.
    fn read_fault(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let mut state = self.lock();
        let faults = state.faults;
        let verdict = if state.crashed {
            Err(crashed())
        } else if state.strikes(faults.read_error) {
            Err(Error::Unavailable("an injected read error".to_owned()))
        } else {
            Ok(())
        };
        let delay = state.strikes(faults.read_delay).then(|| state.delay());
        async move {
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            verdict
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a fault with this rate in a thousand strikes now.
    fn strikes(&mut self, rate: u16) -> bool {
        rate > 0 && self.below(1000) < usize::from(rate)
    }

    fn delay(&mut self) -> Duration {
        let part = u32::try_from(self.below(1000)).unwrap_or(0) + 1;
        self.faults.delay_max * part / 1000
    }

    /// A number below `bound`, by SplitMix64: seeds must mean the same for ever, whatever a crate does.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(mixed % bound).unwrap_or(0)
    }
}

fn crashed() -> Error {
    Error::Unavailable("the store crashed".to_owned())
}

#[expect(clippy::disallowed_methods, reason = "shown to operators; nothing is decided by it")]
fn now() -> SystemTime {
    SystemTime::now()
}
