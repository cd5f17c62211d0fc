//! `allod backup` and `allod restore`: of a running server or a stopped one.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use allod_server::{
    backups::{self, Repository, Snapshot, Sources, Staging},
    clock::Clock,
    config::Config,
};
use anyhow::{Context, bail};
use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::{
    admin_client::AdminClient,
    arguments::{Backup, ConfigFile, Restore, Socket},
    fsck,
    opened::Opened,
    user::{say, text},
};

/// Runs `allod backup`.
pub(crate) async fn run(command: Backup) -> anyhow::Result<()> {
    match command {
        Backup::Create { folder, keep, socket } => create(&folder, keep, &socket).await,
        Backup::List { folder, json } => list(&folder, json),
        Backup::Verify { folder, snapshot, scratch, file } => {
            verify(&folder, snapshot.as_deref(), scratch.as_deref(), &file).await
        }
    }
}

async fn create(folder: &Path, keep: Option<usize>, socket: &Socket) -> anyhow::Result<()> {
    let (config, admin) = socket.load()?;
    let staging = Staging::enter(&config)?;
    let identity = copy_database(&config, &admin, &staging).await?;
    let checkpoint = staging.checkpoint();
    let sources = Sources::with_identity(&config, identity, checkpoint, Some(socket.file.config.clone()));
    let repository = Repository::create(folder)?;
    let mut progress = Progress::new("files copied");
    let added = repository.add(&sources, Clock::system().now_ms(), |done, all| progress.tell(done, all))?;
    drop(staging);
    progress.end();
    let Snapshot { name, files, .. } = &added.snapshot;
    say(&format!(
        "Made {name} in {}: {} files, {}, of them new {}.",
        folder.display(),
        files.len(),
        size(added.snapshot.bytes()),
        size(added.new_bytes)
    ))?;
    if let Some(keep) = keep {
        let removed = repository.prune(keep)?;
        say(&format!("Removed {removed} older ones."))?;
    }
    Ok(())
}

/// Copies the database to the staging folder: by the running server, or here. Its creation id and generation.
async fn copy_database(config: &Config, admin: &Path, staging: &Staging) -> anyhow::Result<(u128, u32)> {
    if UnixStream::connect(admin).await.is_ok() {
        let client = AdminClient::new(admin.to_owned());
        let path = "/_allod/admin/v1/backup/checkpoint";
        let copied = client.send(Method::POST, path, Some(&json!({}))).await?;
        let creation_id = u128::from_str_radix(text(&copied, "creation_id"), 16);
        let generation = copied.get("generation").and_then(Value::as_u64).map(u32::try_from);
        let unlike = "the server answers as another version would; restart it";
        return Ok((creation_id.context(unlike)?, generation.context(unlike)?.context(unlike)?));
    }
    if !config.server.data_dir.join("database").exists() {
        bail!(
            "there is no database in {}; is this the right configuration?",
            config.server.data_dir.display()
        );
    }
    let store = crate::opened::open_store(config, false).with_context(|| {
        format!("no server answers at {}, and the database cannot be opened", admin.display())
    })?;
    let copied = store.checkpoint(&staging.checkpoint()).await;
    let identity = (store.creation_id(), store.generation());
    store.close().await;
    copied?;
    Ok(identity)
}

fn list(folder: &Path, as_json: bool) -> anyhow::Result<()> {
    let snapshots = Repository::open(folder)?.snapshots()?;
    let mut damaged = 0_usize;
    for snapshot in &snapshots {
        match snapshot {
            Ok(snapshot) if as_json => say(&json!({
                "name": snapshot.name,
                "server_name": snapshot.server_name,
                "made_by": snapshot.made_by,
                "made_at_ms": snapshot.made_at_ms,
                "files": snapshot.files.len(),
                "bytes": snapshot.bytes(),
            })
            .to_string())?,
            Ok(snapshot) => say(&format!(
                "{}  {}  {} files, {}",
                snapshot.name,
                snapshot.server_name,
                snapshot.files.len(),
                size(snapshot.bytes())
            ))?,
            Err(error) => {
                damaged += 1;
                say(&error.to_string())?;
            }
        }
    }
    match (snapshots.len(), damaged) {
        (0, _) => bail!("no backup has been made in {} yet", folder.display()),
        (_, 0) => Ok(()),
        _ => bail!("{damaged} of the backups cannot be used"),
    }
}

async fn verify(
    folder: &Path,
    name: Option<&str>,
    scratch: Option<&Path>,
    file: &ConfigFile,
) -> anyhow::Result<()> {
    let mut config = file.load()?;
    let scratch = match scratch {
        Some(scratch) => TempDir::with_prefix_in("allod-verify-", scratch)?,
        None => TempDir::with_prefix("allod-verify-")?,
    };
    // What is checked is a copy, and it says nothing to anybody.
    config.server.data_dir = scratch.path().join("data");
    config.media.folder = None;
    config.keep_to_itself();
    let repository = Repository::open(folder)?;
    let snapshot = choose(&repository, name)?;
    bring_back(&repository, &snapshot, &config)?;
    let opened = Opened::open(config, false).await.context("the database in the backup cannot be opened")?;
    let (rooms, wrong) = fsck::check_opened(opened).await?;
    if wrong > 0 {
        bail!(
            "{} can be restored, but {wrong} things in its database are wrong; `allod fsck` on the running server says \
             whether they are there too",
            snapshot.name
        );
    }
    say(&format!(
        "{} is whole: {} files with {} are what was written, and {rooms} rooms are as they should be.",
        snapshot.name,
        snapshot.files.len(),
        size(snapshot.bytes())
    ))
}

/// Runs `allod restore`.
pub(crate) async fn restore(options: Restore) -> anyhow::Result<()> {
    let (config, socket) = options.socket.load().context(
        "the configuration says where the data belongs; the one of that time is a file in the backup's objects, whose name the \
         list in its snapshots has at configuration/allod.toml",
    )?;
    if UnixStream::connect(&socket).await.is_ok() {
        bail!("the server is running; stop it first, for instance with `systemctl stop allod`");
    }
    let repository = Repository::open(&options.folder)?;
    let snapshot = choose(&repository, options.snapshot.as_deref())?;
    let restored = bring_back(&repository, &snapshot, &config)?;
    say(&format!(
        "Restored {} into {}: {} files, {}.",
        snapshot.name,
        config.server.data_dir.display(),
        restored.files,
        size(restored.bytes)
    ))?;
    if let Some(configuration) = restored.configuration {
        say(&format!("The configuration of that time is {}.", configuration.display()))?;
    }
    say(
        "Start the server now. Clients that were signed in go on; what was said after the backup was made is gone.",
    )
}

fn bring_back(
    repository: &Repository,
    snapshot: &Snapshot,
    config: &Config,
) -> anyhow::Result<backups::Restored> {
    let mut progress = Progress::new("files read");
    let restored = backups::restore(repository, snapshot, config, |done, all| progress.tell(done, all))?;
    progress.end();
    Ok(restored)
}

fn choose(repository: &Repository, name: Option<&str>) -> anyhow::Result<Snapshot> {
    match name {
        Some(name) => Ok(repository.snapshot(name)?),
        None => {
            repository.newest()?.context("there is no backup that can be used; `allod backup list` says more")
        }
    }
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut left = bytes;
    let mut unit = 0;
    let mut tenths = 0;
    while left >= 1024 && unit + 1 < UNITS.len() {
        tenths = (left % 1024) * 10 / 1024;
        left /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{left} {name}") } else { format!("{left}.{tenths} {name}") }
}

/// A line on a terminal that tells how far something is.
struct Progress {
    what: &'static str,
    shown: bool,
    hundredth: usize,
}

impl Progress {
    fn new(what: &'static str) -> Self {
        Self { what, shown: io::stderr().is_terminal(), hundredth: usize::MAX }
    }

    fn tell(&mut self, done: usize, all: usize) {
        let hundredth = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        if self.shown && hundredth != self.hundredth {
            self.hundredth = hundredth;
            // Nobody can be told that standard error is gone.
            let _ = write!(io::stderr(), "\r{done} of {all} {}", self.what);
        }
    }

    fn end(&self) {
        if self.shown {
            let _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }
}
