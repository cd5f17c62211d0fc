//! From a snapshot to a data folder, and what must be different in a restored database.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use allod_storage::BlobName;
use bytes::Bytes;

use super::{
    BackupError, Repository, Snapshot, give, make_folder,
    sources::{CONFIGURATION, DATABASE, MEDIA},
    sync_folder,
};
use crate::{
    config::Config,
    database::{Database, Error, Range, Write},
    tables::{
        Stamped,
        keys::{KeyCounts, OneTimeKey, OneTimeKeyById},
        media::{SharedBlob, Thumbnail, UnownedBlob},
        meta::Meta,
    },
};

/// Where files stand until all are there.
const PARTIAL: &str = "restore.partial";
/// Row of [`Meta`] that holds the generation in which the server last ran.
const META_GENERATION: u8 = 2;
/// Rows that are read or changed at a time.
const PAGE_ROWS: usize = 500;

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many files.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
    /// Where the configuration of that time stands now, to be compared, if the snapshot has it.
    pub configuration: Option<PathBuf>,
}

/// Brings the files of a snapshot to where the configuration wants them. Nothing is in its place before all of them have
/// been read and found whole; a database that is there stays, and is an error.
pub fn restore(
    repository: &Repository,
    snapshot: &Snapshot,
    config: &Config,
    mut progress: impl FnMut(usize, usize),
) -> Result<Restored, BackupError> {
    let expected = config.server.name.to_string();
    if snapshot.server_name != expected {
        let found = snapshot.server_name.clone();
        return Err(BackupError::OtherServer { folder: PathBuf::from(&snapshot.name), found, expected });
    }
    let data_dir = &config.server.data_dir;
    let media = config.media.folder(data_dir);
    let database = data_dir.join(DATABASE);
    for folder in [&database, &media] {
        if folder.exists() {
            return Err(BackupError::Occupied(folder.clone()));
        }
    }
    make_folders(data_dir)?;
    let partial = data_dir.join(PARTIAL);
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(BackupError::File(partial, error));
        }
        _ => make_folder(&partial)?,
    }
    for (number, file) in snapshot.files.iter().enumerate() {
        progress(number, snapshot.files.len());
        let path = partial.join(&file.path);
        make_folders(path.parent().unwrap_or(&partial))?;
        let made = File::options().create_new(true).write(true).mode(0o600).open(&path);
        let mut to = made.map_err(BackupError::file(&path))?;
        repository.copy_out(snapshot, file, &mut to)?;
        to.sync_all().map_err(BackupError::file(&path))?;
        give(&path)?;
    }
    progress(snapshot.files.len(), snapshot.files.len());
    let configuration = place(&partial, config)?;
    Ok(Restored { files: snapshot.files.len(), bytes: snapshot.bytes(), configuration })
}

/// Moves what has been read to where it belongs, the database last: with it, the server can start.
fn place(partial: &Path, config: &Config) -> Result<Option<PathBuf>, BackupError> {
    let data_dir = &config.server.data_dir;
    let moved = |from: PathBuf, to: PathBuf| fs::rename(from, &to).map_err(BackupError::file(to));
    let media = config.media.folder(data_dir);
    if partial.join(MEDIA).exists() {
        make_folders(media.parent().unwrap_or(data_dir))?;
        moved(partial.join(MEDIA), media)?;
    }
    let mut configuration = None;
    if partial.join(CONFIGURATION).exists() {
        let to = data_dir.join("restored.toml");
        moved(partial.join(CONFIGURATION), to.clone())?;
        configuration = Some(to);
    }
    for entry in fs::read_dir(partial).map_err(BackupError::file(partial))? {
        let from = entry.map_err(BackupError::file(partial))?.path();
        if let Some(name) = from.file_name().filter(|_| from.is_file()) {
            moved(from.clone(), data_dir.join(name))?;
        }
    }
    sync_folder(data_dir)?;
    moved(partial.join(DATABASE), data_dir.join(DATABASE))?;
    fs::remove_dir_all(partial).map_err(BackupError::file(partial))?;
    sync_folder(data_dir)?;
    Ok(configuration)
}

/// Makes a folder and those above it that are missing.
fn make_folders(folder: &Path) -> Result<(), BackupError> {
    if folder.exists() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_folders(parent)?;
    }
    make_folder(folder)
}

/// To be called when a database has been opened and before anything uses it: if it was restored from a backup since it was
/// last used, what must not happen twice is made impossible. One-time keys may have been handed out after the backup was
/// made, so they go, and clients upload new ones; media that no row names came after the backup, and go too.
pub async fn settle(database: &Database, config: &Config) -> Result<(), Error> {
    let generation = database.store().generation().to_be_bytes();
    let last = database.get::<Meta>(&META_GENERATION).await?;
    if last.as_deref() == Some(&generation) {
        return Ok(());
    }
    if last.is_some() {
        forget_one_time_keys(database).await?;
        if let Err(error) = remove_unknown_media(database, config).await? {
            tracing::warn!(%error, "files that came after the backup could not be removed from the media folder");
        }
    }
    let mut write = Write::new();
    write.put::<Meta>(&META_GENERATION, &Bytes::copy_from_slice(&generation));
    database.commit(write).await?;
    Ok(())
}

async fn forget_one_time_keys(database: &Database) -> Result<(), Error> {
    let mut write = Write::new();
    write.delete_prefix::<OneTimeKey>(&());
    write.delete_prefix::<OneTimeKeyById>(&());
    database.commit(write).await?;
    let mut range = Range::<KeyCounts>::whole().limit(PAGE_ROWS);
    loop {
        let rows = database.scan(&range).await?.rows;
        let mut write = Write::new();
        for (key, row) in &rows {
            let mut counts = row.value.clone();
            counts.one_time.clear();
            write.put::<KeyCounts>(key, &Stamped::pending(counts));
        }
        if !write.is_empty() {
            database.commit(write).await?;
        }
        match rows.last() {
            Some((last, _)) if rows.len() >= PAGE_ROWS => range = range.continued_after(last),
            _ => return Ok(()),
        }
    }
}

async fn remove_unknown_media(database: &Database, config: &Config) -> Result<io::Result<()>, Error> {
    let mut known: HashSet<String> = HashSet::new();
    let mut knows = |name: [u8; 16]| known.insert(BlobName(name).to_string());
    for (_, row) in database.scan_all(Range::<SharedBlob>::whole()).await? {
        knows(row.blob);
    }
    for (_, row) in database.scan_all(Range::<Thumbnail>::whole()).await? {
        knows(row.blob);
    }
    for (name, _) in database.scan_all(Range::<UnownedBlob>::whole()).await? {
        knows(name);
    }
    Ok(remove_files_but(&known, &config.media.folder(&config.server.data_dir)))
}

/// Removes the files below a folder that have none of these names.
fn remove_files_but(known: &HashSet<String>, folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_files_but(known, &entry.path())?;
        } else if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
