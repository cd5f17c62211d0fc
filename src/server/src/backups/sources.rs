//! What is copied: which files, and what they are called in a snapshot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use allod_storage::Store;

use super::BackupError;
use crate::config::Config;

/// The folder of the database, in the data folder and in a snapshot.
pub(super) const DATABASE: &str = "database";
/// The folder of media in a snapshot.
pub(super) const MEDIA: &str = "media";
/// Where the configuration stands in a snapshot.
pub(super) const CONFIGURATION: &str = "configuration/allod.toml";
/// Where blobs stand until they are whole.
const INCOMING: &str = "incoming";

/// What a snapshot is made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The server's name.
    pub server_name: String,
    /// The identity of the database.
    pub creation_id: u128,
    /// Its generation.
    pub generation: u32,
    /// The copy of the database.
    pub checkpoint: PathBuf,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The folder of media.
    pub media: PathBuf,
    /// The configuration file, if there is one.
    pub configuration: Option<PathBuf>,
}

/// A file to be copied.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// What it is called in the snapshot.
    pub(super) path: String,
    /// Where it is.
    pub(super) at: PathBuf,
    /// Whether its bytes never change while it has this name.
    pub(super) is_immutable: bool,
    /// Whether it may be gone by the time it is copied, having been deleted.
    pub(super) may_go: bool,
}

impl Sources {
    /// Those of a server with this configuration whose database has been copied to `checkpoint`.
    pub fn new(config: &Config, store: &Store, checkpoint: PathBuf, configuration: Option<PathBuf>) -> Self {
        Self::with_identity(config, (store.creation_id(), store.generation()), checkpoint, configuration)
    }

    /// The same for a database that another process has open, by its creation id and generation.
    pub fn with_identity(
        config: &Config,
        (creation_id, generation): (u128, u32),
        checkpoint: PathBuf,
        configuration: Option<PathBuf>,
    ) -> Self {
        Self {
            server_name: config.server.name.to_string(),
            creation_id,
            generation,
            checkpoint,
            data_dir: config.server.data_dir.clone(),
            media: config.media.folder(&config.server.data_dir),
            configuration,
        }
    }

    /// All files. Media come last: whatever the copy of the database names is there or has been deleted since.
    pub(super) fn files(&self) -> Result<Vec<SourceFile>, BackupError> {
        let mut files = Vec::new();
        for (name, at) in entries(&self.checkpoint)? {
            // Tables are written once; the rest of a database is small.
            let is_immutable = Path::new(&name).extension().is_some_and(|extension| extension == "sst");
            files.push(SourceFile { path: format!("{DATABASE}/{name}"), at, is_immutable, may_go: false });
        }
        for (name, at) in entries(&self.data_dir)? {
            if fs::symlink_metadata(&at).is_ok_and(|file| file.is_file()) {
                files.push(SourceFile { path: name, at, is_immutable: false, may_go: true });
            }
        }
        if let Some(at) = self.configuration.clone() {
            let path = CONFIGURATION.to_owned();
            files.push(SourceFile { path, at, is_immutable: false, may_go: false });
        }
        let first = files.len();
        self.add_media(&self.media, MEDIA, &mut files)?;
        // In the order of their names, whatever the file system's is.
        files.get_mut(first..).unwrap_or_default().sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }

    fn add_media(&self, folder: &Path, path: &str, files: &mut Vec<SourceFile>) -> Result<(), BackupError> {
        for (name, at) in entries(folder)? {
            let path = format!("{path}/{name}");
            if at.is_dir() {
                if folder != self.media || name != INCOMING {
                    self.add_media(&at, &path, files)?;
                }
            } else {
                files.push(SourceFile { path, at, is_immutable: true, may_go: true });
            }
        }
        Ok(())
    }
}

/// The entries of a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BackupError::File(folder.to_owned(), error)),
    };
    let mut entries = Vec::new();
    for entry in listing {
        let entry = entry.map_err(BackupError::file(folder))?;
        // Nothing of ours has a name that is not text.
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((name, entry.path()));
        }
    }
    Ok(entries)
}
