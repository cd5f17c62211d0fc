//! What must be done from time to time, whoever uses the server: letting go of what has outlived its lifetime, and of the
//! bytes that deleted rows leave behind.
//!
//! A failure is logged and tried again at the next round; what is left to do is in the database, so that a restart
//! forgets none of it.

use std::time::Duration;

use self::{erasure::Erasure, sweep::Sweeper};
use crate::{database::Error, tasks::Tasks};

pub mod erasure;
pub mod sweep;

/// How often is looked for rows whose lifetime is over, if nothing must be erased sooner.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Starts the task, which works once at once and then from time to time.
pub fn start(sweeper: Sweeper, erasure: Erasure, tasks: &Tasks) {
    let stopping = tasks.stopping().clone();
    let pause = PAUSE_MAX.min(erasure.within() / 8);
    tasks.spawn("housekeeping", async move {
        loop {
            report("old rows could not be deleted", sweeper.sweep(&stopping).await);
            report("deleted bytes could not be erased", erasure.run_if_due().await.map(drop));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
        }
    });
}

fn report(what: &'static str, outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "{what}; trying again");
    }
}
