//! The service manager that started the server (systemd): what it is told, and the sockets that it hands over. Without one,
//! nothing is told and nothing handed over.
//!
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::time::Duration;

use allod_api::server::PassedSocket;
use allod_server::tasks::Tasks;
use allod_storage::Store;
use anyhow::Context;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Requests are answered from now on, as this line says.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Lets the manager wait until the configuration is read again.
pub(crate) fn reload(work: impl FnOnce()) {
    match NotifyState::monotonic_usec_now() {
        // Both in one message: the time says which request to reload is answered.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager is not told of a reload"),
    }
    work();
    tell(&[NotifyState::Ready]);
}

/// The server is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the manager again and again that the server is alive, if it wants to know: that tasks run, and that the store
/// answers, be it with an error. A manager that hears nothing starts the server anew.
pub(crate) fn watch(tasks: &Tasks, store: &Store) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let (store, stopping) = (store.clone(), tasks.stopping().clone());
    let pause = (limit / 3).max(Duration::from_millis(10));
    tasks.spawn("watchdog", async move {
        loop {
            // A store that fails is an operator's matter, which a new start does not mend.
            let _ = store.log_start().await;
            tell(&[NotifyState::Watchdog]);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stopping.cancelled() => return,
            }
        }
    });
}

/// The sockets that are handed over. Called before there are threads, since it changes the environment.
pub(crate) fn sockets() -> anyhow::Result<Vec<PassedSocket>> {
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        if let Ok(Some(tcp)) = handed.take_tcp_listener(index) {
            sockets.push(PassedSocket::Tcp(tcp));
            continue;
        }
        let unix = handed.take_unix_listener(index);
        let unix =
            unix.with_context(|| format!("socket {index} of the service manager waits for no streams"))?;
        sockets.extend(unix.map(PassedSocket::Unix));
    }
    Ok(sockets)
}

/// A manager that cannot be told gives up on the server by its own time limit.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
