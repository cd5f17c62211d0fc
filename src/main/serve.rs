//! `allod serve`: from a configuration to a running server, and to its end.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use allod_api::{
    app::App,
    operation, router,
    server::{Bound, PassedSocket, Server},
    tls::{Tls, TlsError},
};
use allod_server::{
    config::{self, Config, ListenAddress, Listeners, Live, Overrides},
    tasks::Tasks,
};
use allod_storage::Store;
use anyhow::Context;
use axum::Router;
use ruma::ServerName;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    arguments::Serve,
    dev,
    logging::{self, FilterHandle},
    opened::Opened,
    service_manager,
    user::say,
};

/// Where the configuration is if nobody says.
const CONFIG_FILE: &str = "/etc/allod/allod.toml";
/// How long requests may take to finish once the server stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);

/// A configuration that parses, and that the machine does not allow.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misconfigured(String);

/// Where the configuration came from, for reading it again.
struct Source<'a> {
    options: &'a Serve,
    /// Kept until the end: the folder of a server that forgets all.
    forgotten: Option<TempDir>,
}

impl Source<'_> {
    /// The file, if there is one.
    fn file(&self) -> Option<PathBuf> {
        let file = self.options.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
        (!self.options.dev).then(|| file.to_owned())
    }

    fn read(&self) -> anyhow::Result<Config> {
        if self.options.dev {
            let forgotten = self.forgotten.as_ref().map_or(Path::new(""), TempDir::path);
            return dev::config(self.options, forgotten);
        }
        let file = self.options.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
        let overrides = Overrides { server_name: self.options.server_name.clone() };
        Ok(config::load(file, &overrides)?)
    }
}

/// Runs the server until it is told to stop.
pub(crate) fn run(options: &Serve) -> anyhow::Result<()> {
    let forgets = options.dev && options.data_dir.is_none() && options.config.is_none();
    let forgotten = if forgets { Some(TempDir::with_prefix("allod-")?) } else { None };
    let source = Source { options, forgotten };
    let config = source.read()?;
    check(&config)?;
    let sockets = service_manager::sockets()?;
    let filter = logging::start(&config.logging)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(run_server(source, config, sockets, &filter))
}

/// What can be found wrong with a configuration only by looking at this machine.
pub(crate) fn check(config: &Config) -> Result<(), Misconfigured> {
    logging::check(&config.logging.filter)
        .map_err(|error| Misconfigured(format!("logging.filter: {:?}: {error}", config.logging.filter)))?;
    for (name, secret) in [
        ("accounts.registration_secret", &config.accounts.registration_secret),
        ("calls.turn_secret", &config.calls.turn_secret),
        ("mail.password", &config.mail.password),
    ] {
        if let Some(secret) = secret {
            secret.read().map_err(|error| Misconfigured(format!("{name}: {error}")))?;
        }
    }
    tls(&config.listeners).map_err(|error| Misconfigured(format!("listeners.certificate: {error}")))?;
    Ok(())
}

async fn run_server(
    source: Source<'_>,
    config: Config,
    sockets: Vec<PassedSocket>,
    filter: &FilterHandle,
) -> anyhow::Result<()> {
    // First of all, so that a signal while the server starts is not lost; nor ignored, as process 1 does by default.
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let listeners = config.listeners.clone();
    let admin = ListenAddress::Unix(listeners.admin_socket(&config.server.data_dir));
    let opened = Opened::open(config, source.forgotten.is_some()).await?;
    opened.start_backups(source.file());
    let Opened { app, store, tasks, live, .. } = opened;
    let name = app.users.server_name().to_owned();
    let server = Server::with_sockets(app.clone(), sockets);
    let mut addresses = Vec::new();
    for address in &listeners.client {
        let router = router::build(app.clone());
        addresses.push(listen(&server, address, listeners.client_socket_mode(), router)?);
    }
    let tls = tls(&listeners)?;
    addresses.extend(listen_for_servers(&server, &app, &listeners, tls.as_ref())?);
    listen(&server, &admin, 0o600, router::build_admin(app.clone()))?;
    for address in &listeners.metrics {
        let bound = listen(&server, address, listeners.client_socket_mode(), operation::build(app.clone()))?;
        tracing::info!(%bound, "metrics");
    }
    refuse_unclaimed(&server)?;
    service_manager::watch(&tasks, &store);
    announce(&name, &addresses)?;
    signals.wait(|| service_manager::reload(|| reload(&source, &live, filter, tls.as_ref()))).await;
    service_manager::stopping();
    drain(&server, &tasks, &store, &mut signals).await
}

fn listen(
    server: &Server,
    address: &ListenAddress,
    socket_mode: u32,
    router: Router,
) -> anyhow::Result<Bound> {
    server.listen(address, socket_mode, router).with_context(|| format!("cannot listen on {address}"))
}

/// The certificate for other servers, if there is one.
fn tls(listeners: &Listeners) -> Result<Option<Tls>, TlsError> {
    match (&listeners.certificate, &listeners.certificate_key) {
        (Some(certificate), Some(key)) => Tls::open(certificate, key).map(Some),
        (_, _) => Ok(None),
    }
}

/// Listens for other servers, unless federation is off.
fn listen_for_servers(
    server: &Server,
    app: &App,
    listeners: &Listeners,
    tls: Option<&Tls>,
) -> anyhow::Result<Vec<Bound>> {
    let mut addresses = Vec::new();
    for address in &listeners.federation {
        let (Some(router), Some(tls)) = (router::build_federation(app.clone()), tls) else {
            tracing::warn!(%address, "nothing listens there: federation is off");
            continue;
        };
        let bound = server.listen_tls(address, listeners.client_socket_mode(), router, tls.clone());
        addresses.push(bound.with_context(|| format!("cannot listen on {address}"))?);
    }
    Ok(addresses)
}

/// A socket that nobody answers would keep clients waiting for ever.
fn refuse_unclaimed(server: &Server) -> Result<(), Misconfigured> {
    match server.unclaimed().as_slice() {
        [] => Ok(()),
        addresses => Err(Misconfigured(format!(
            "the service manager hands over sockets at {addresses:?}, where the configuration has no listener: make \
             ListenStream= in the socket unit and listeners.client in the configuration the same"
        ))),
    }
}

/// Says to the service manager and on standard output that requests are answered from now on.
fn announce(name: &ServerName, addresses: &[Bound]) -> anyhow::Result<()> {
    for address in addresses {
        tracing::info!(%address, server_name = %name, version = env!("CARGO_PKG_VERSION"), "ready");
    }
    let first = addresses.first().map(|address| format!("allod serves {name} at {address}"));
    service_manager::ready(first.as_deref().unwrap_or("allod serves nobody"));
    first.map_or(Ok(()), |line| say(&line))
}

/// Takes over a changed configuration as far as a running server can.
fn reload(source: &Source<'_>, live: &Live, filter: &FilterHandle, tls: Option<&Tls>) {
    // Renewed under the same name: no option changes with it.
    if let Some(Err(error)) = tls.map(Tls::reload) {
        tracing::error!("the certificate stays as it was: {error}");
    }
    let outcome = source.read().and_then(|config| {
        check(&config)?;
        Ok(live.reload(&config))
    });
    match outcome {
        Ok(changes) if changes.is_empty() => tracing::info!("the configuration has not changed"),
        Ok(changes) => {
            for change in changes {
                let option = format!("{}.{}", change.section, change.key);
                if change.live {
                    tracing::info!(option, "taken over");
                } else {
                    tracing::warn!(option, "changed; takes effect at the next start");
                }
            }
            if let Err(error) = filter.set(&live.get().logging.filter) {
                tracing::error!("{error:#}");
            }
        }
        Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
    }
}

/// Ends in order: no new connections, the requests under way and the other tasks, the store.
async fn drain(server: &Server, tasks: &Tasks, store: &Store, signals: &mut Signals) -> anyhow::Result<()> {
    tracing::info!("stopping");
    let orderly = async {
        tasks.stopping().cancel();
        let requests = server.drain(DRAIN_TIME_MAX).await;
        let tasks = tasks.shut_down(DRAIN_TIME_MAX).await;
        if !requests || !tasks {
            tracing::warn!(requests, tasks, "something did not finish in time");
        }
        store.close().await;
    };
    tokio::select! {
        () = orderly => {
            tracing::info!("stopped");
            Ok(())
        }
        () = signals.wait(|| ()) => anyhow::bail!("told to stop twice: stopped at once"),
    }
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the server is to stop; meanwhile reloads when asked to.
    async fn wait(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reload(),
            }
        }
    }
}
