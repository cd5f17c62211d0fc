//! The queue in front of the committer thread: bounded, in call order, taken in groups.
//!
//! Grouping waits for nothing: an idle committer takes a single batch at once, and what arrives while
//! it writes becomes the next group. Knows no engine.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::{Batch, CommitError, Error, Position};

/// Most batches waiting.
const QUEUE_COMMITS_MAX: usize = 16 * 1024;
/// Most bytes of batches waiting.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most batches in one group.
const GROUP_COMMITS_MAX: usize = 1024;
/// A group takes no further batch once it holds this many bytes.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The answer to a commit.
pub(crate) type Outcome = Result<Position, CommitError>;

/// A batch in the queue.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) batch: Batch,
    pub(crate) bytes: usize,
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// Other work of the committer thread, done in its turn.
#[derive(Debug)]
pub(crate) enum Order {
    /// Removes the log below a position.
    TrimLog(Position, oneshot::Sender<Result<(), Error>>),
    /// Reopens the engine if it takes no writes.
    Recover(oneshot::Sender<Result<(), Error>>),
}

/// What the committer thread is to do next.
#[derive(Debug)]
pub(crate) enum Task {
    /// Commit these batches, in this order.
    Group(Vec<Pending>),
    /// Do this.
    Order(Order),
    /// Nothing came within the time.
    Idle,
    /// Everything is done and nothing more will come.
    Closed,
}

/// The queue itself.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commits: VecDeque<Pending>,
    orders: VecDeque<Order>,
    bytes: usize,
    closed: bool,
    waiting: bool,
}

impl Queue {
    /// Appends a batch, unless the queue is full or closed.
    pub(crate) fn push(&self, pending: Pending) -> Result<(), CommitError> {
        let mut state = self.lock();
        let full = state.commits.len() >= QUEUE_COMMITS_MAX || state.bytes + pending.bytes > QUEUE_BYTES_MAX;
        if full || state.closed {
            return Err(CommitError::Unavailable);
        }
        state.bytes += pending.bytes;
        state.commits.push_back(pending);
        self.wake(state);
        Ok(())
    }

    /// Appends other work; it is done before batches that wait, since none of it touches their rows.
    pub(crate) fn order(&self, order: Order) -> Result<(), Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Unavailable("the store is closed".to_owned()));
        }
        state.orders.push_back(order);
        self.wake(state);
        Ok(())
    }

    /// Waits for work, at most `patience` if there is such a limit.
    pub(crate) fn take(&self, patience: Option<Duration>) -> Task {
        let mut state = self.lock();
        loop {
            if let Some(order) = state.orders.pop_front() {
                return Task::Order(order);
            }
            if !state.commits.is_empty() {
                return Task::Group(state.group());
            }
            if state.closed {
                return Task::Closed;
            }
            state.waiting = true;
            match patience {
                None => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited =
                        self.filled.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
                    state = waited.0;
                    if waited.1.timed_out() && state.is_empty() {
                        state.waiting = false;
                        return Task::Idle;
                    }
                }
            }
        }
    }

    /// Takes no more work; what is queued is still done.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Batches and bytes waiting.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.commits.len(), state.bytes)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if waiting {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.orders.is_empty() && !self.closed
    }

    fn group(&mut self) -> Vec<Pending> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while group.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            let Some(pending) = self.commits.pop_front() else { break };
            bytes += pending.bytes;
            group.push(pending);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        group
    }
}
