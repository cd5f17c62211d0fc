//! What must be done from time to time, whoever uses the server: letting go of what has outlived its lifetime.

use std::time::Duration;

use crate::{devices::Devices, tasks::Tasks};

/// How often is looked for rows whose lifetime is over.
const PAUSE: Duration = Duration::from_secs(3600);

/// Starts the task, which works once at once and then every hour.
pub fn start(devices: &Devices, tasks: &Tasks) {
    let (devices, stopping) = (devices.clone(), tasks.stopping().clone());
    tasks.spawn("housekeeping", async move {
        loop {
            if let Err(error) = devices.forget_old_addresses().await {
                tracing::warn!(%error, "old network addresses could not be forgotten; trying again in an hour");
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stopping.cancelled() => return,
            }
        }
    });
}
