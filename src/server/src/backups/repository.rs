//! A folder of backups: `objects/ab/abcd…` are files by the hash of their bytes, `snapshots/*.json` the lists that name
//! them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::{
    BackupError, Snapshot, SnapshotFile, Sources, lock, make_folder, sources::SourceFile, sync_folder,
};

/// A file that tells a folder of backups from others.
const MARK: &str = "ALLOD-BACKUPS";
const MARK_TEXT: &str = "Backups made by `allod backup`. Keep this folder as secret as the server itself.\n";
const OBJECTS: &str = "objects";
const SNAPSHOTS: &str = "snapshots";
const INCOMING: &str = "incoming";
/// How much is read and written at a time.
const PIECE: usize = 1 << 20;

/// A folder of backups that this process alone writes to.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    _lock: File,
}

/// What a new snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How many bytes were written that no earlier snapshot had.
    pub new_bytes: u64,
}

/// What can be wrong with a file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// Its bytes are others than were written.
    Altered,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "missing",
            Self::Altered => "not what was written",
        })
    }
}

impl Repository {
    /// Opens the folder, or makes it if there is nothing.
    pub fn create(folder: &Path) -> Result<Self, BackupError> {
        if !folder.join(MARK).exists() {
            make_folder(folder)?;
            let mut entries = fs::read_dir(folder).map_err(BackupError::file(folder))?;
            if entries.next().is_some() {
                return Err(BackupError::Foreign(folder.to_owned()));
            }
            for name in [OBJECTS, SNAPSHOTS, INCOMING] {
                make_folder(&folder.join(name))?;
            }
            let mark = folder.join(MARK);
            write_new(&mark, MARK_TEXT.as_bytes()).map_err(BackupError::file(mark))?;
            sync_folder(folder)?;
        }
        Self::open(folder)
    }

    /// Opens a folder of backups.
    pub fn open(folder: &Path) -> Result<Self, BackupError> {
        if !folder.join(MARK).exists() {
            return Err(BackupError::NoBackups(folder.to_owned()));
        }
        let lock = lock(&folder.join("lock"))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// The snapshots, the oldest first. One whose list is damaged is an error in its place.
    pub fn snapshots(&self) -> Result<Vec<Result<Snapshot, BackupError>>, BackupError> {
        let folder = self.folder.join(SNAPSHOTS);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(BackupError::file(&folder))? {
            let name = entry.map_err(BackupError::file(&folder))?.file_name();
            names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names.iter().map(|name| self.snapshot(name)).collect())
    }

    /// The snapshot of this name.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, BackupError> {
        let known = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let path = self.folder.join(SNAPSHOTS).join(format!("{name}.json"));
        match fs::read(&path) {
            Ok(bytes) if known => {
                Snapshot::decode(name, &bytes).ok_or_else(|| BackupError::DamagedList(name.to_owned()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::File(path, error)),
            _ => Err(BackupError::NoSnapshot(name.to_owned())),
        }
    }

    /// The newest snapshot whose list is sound.
    pub fn newest(&self) -> Result<Option<Snapshot>, BackupError> {
        Ok(self.snapshots()?.into_iter().rev().find_map(Result::ok))
    }

    /// Takes a snapshot. `progress` is told of each file and of how many there are.
    pub fn add(
        &self,
        sources: &Sources,
        now_ms: u64,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Added, BackupError> {
        let before = self.newest()?;
        if let Some(other) = before.as_ref().filter(|before| before.server_name != sources.server_name) {
            return Err(BackupError::OtherServer {
                folder: self.folder.clone(),
                found: other.server_name.clone(),
                expected: sources.server_name.clone(),
            });
        }
        self.clear_incoming()?;
        let known = Known::of(before.as_ref(), sources);
        let mut snapshot = Snapshot::new(self.free_name(now_ms), now_ms, sources);
        let mut new_bytes = 0_u64;
        let files = sources.files()?;
        for (number, source) in files.iter().enumerate() {
            progress(number, files.len());
            let Some((file, written)) = self.take(source, &known)? else { continue };
            new_bytes = new_bytes.saturating_add(written);
            snapshot.files.push(file);
        }
        progress(files.len(), files.len());
        self.write_list(&snapshot)?;
        Ok(Added { snapshot, new_bytes })
    }

    /// Keeps the newest snapshots, and removes the others and what only they needed. How many were removed.
    pub fn prune(&self, keep: usize) -> Result<usize, BackupError> {
        let snapshots = self.snapshots()?;
        let surplus = snapshots.len().saturating_sub(keep.max(1));
        let mut needed = HashSet::new();
        for (number, snapshot) in snapshots.into_iter().enumerate() {
            match snapshot {
                Ok(snapshot) if number < surplus => {
                    let path = self.folder.join(SNAPSHOTS).join(format!("{}.json", snapshot.name));
                    fs::remove_file(&path).map_err(BackupError::file(&path))?;
                }
                Ok(snapshot) => needed.extend(snapshot.files.into_iter().map(|file| file.hash)),
                // What it needed cannot be known, so nothing goes before it is dealt with.
                Err(error) => return Err(error),
            }
        }
        if surplus > 0 {
            sync_folder(&self.folder.join(SNAPSHOTS))?;
            self.remove_objects_but(&needed)?;
        }
        Ok(surplus)
    }

    /// The first file of a snapshot that is not what was written.
    pub fn verify(
        &self,
        snapshot: &Snapshot,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<(), BackupError> {
        for (number, file) in snapshot.files.iter().enumerate() {
            progress(number, snapshot.files.len());
            self.copy_out(snapshot, file, &mut io::sink())?;
        }
        Ok(())
    }

    /// Writes the bytes of a file of a snapshot, which are compared with its hash on the way.
    pub(super) fn copy_out(
        &self,
        snapshot: &Snapshot,
        file: &SnapshotFile,
        to: &mut impl Write,
    ) -> Result<(), BackupError> {
        let damaged = |damage| BackupError::DamagedFile {
            snapshot: snapshot.name.clone(),
            path: file.path.clone(),
            damage,
        };
        let path = self.object(&file.hash);
        let mut object = match File::open(&path) {
            Ok(object) => object,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(Damage::Missing)),
            Err(error) => return Err(BackupError::File(path, error)),
        };
        let (hash, _) = copy(&mut object, to).map_err(BackupError::file(path))?;
        if hash == file.hash { Ok(()) } else { Err(damaged(Damage::Altered)) }
    }

    /// Keeps a file, if that is not done already. None if the file is gone and may be.
    fn take(&self, source: &SourceFile, known: &Known) -> Result<Option<(SnapshotFile, u64)>, BackupError> {
        let opened = File::open(&source.at).and_then(|file| Ok((file.metadata()?, file)));
        let (facts, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound && source.may_go => return Ok(None),
            Err(error) => return Err(BackupError::File(source.at.clone(), error)),
        };
        let changed_ns = i128::from(facts.mtime())
            .saturating_mul(1_000_000_000)
            .saturating_add(i128::from(facts.mtime_nsec()));
        let kept = |hash: String, bytes| SnapshotFile { path: source.path.clone(), hash, bytes, changed_ns };
        if let Some(hash) = known.hash(source, facts.len(), changed_ns)
            && self.has(hash, facts.len())
        {
            return Ok(Some((kept(hash.to_owned(), facts.len()), 0)));
        }
        let incoming = self.folder.join(INCOMING).join("file");
        let mut options = File::options();
        let made = options.create(true).truncate(true).write(true).mode(0o600).open(&incoming);
        let mut writing = made.map_err(BackupError::file(&incoming))?;
        let (hash, bytes) = copy(&mut file, &mut writing).map_err(BackupError::file(&incoming))?;
        if self.has(&hash, bytes) {
            return Ok(Some((kept(hash, bytes), 0)));
        }
        writing.sync_all().map_err(BackupError::file(&incoming))?;
        let object = self.object(&hash);
        let folder = object.parent().unwrap_or(&self.folder);
        make_folder(folder)?;
        fs::rename(&incoming, &object).map_err(BackupError::file(&object))?;
        sync_folder(folder)?;
        Ok(Some((kept(hash, bytes), bytes)))
    }

    fn write_list(&self, snapshot: &Snapshot) -> Result<(), BackupError> {
        // The folders of objects are new in it.
        sync_folder(&self.folder.join(OBJECTS))?;
        let incoming = self.folder.join(INCOMING).join("list");
        write_new(&incoming, &snapshot.encode()).map_err(BackupError::file(&incoming))?;
        let folder = self.folder.join(SNAPSHOTS);
        let path = folder.join(format!("{}.json", snapshot.name));
        fs::rename(&incoming, &path).map_err(BackupError::file(&path))?;
        sync_folder(&folder)
    }

    /// A name for a snapshot begun now: two in one second differ by a number.
    fn free_name(&self, now_ms: u64) -> String {
        let name = name_at(now_ms);
        let is_free = |name: &str| !self.folder.join(SNAPSHOTS).join(format!("{name}.json")).exists();
        let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
        std::iter::once(name.clone()).chain(numbered).find(|name| is_free(name)).unwrap_or_default()
    }

    /// What an earlier backup that was cut short has left.
    fn clear_incoming(&self) -> Result<(), BackupError> {
        let folder = self.folder.join(INCOMING);
        for entry in fs::read_dir(&folder).map_err(BackupError::file(&folder))? {
            let path = entry.map_err(BackupError::file(&folder))?.path();
            fs::remove_file(&path).map_err(BackupError::file(path))?;
        }
        Ok(())
    }

    fn remove_objects_but(&self, needed: &HashSet<String>) -> Result<(), BackupError> {
        let objects = self.folder.join(OBJECTS);
        for folder in fs::read_dir(&objects).map_err(BackupError::file(&objects))? {
            let folder = folder.map_err(BackupError::file(&objects))?.path();
            for object in fs::read_dir(&folder).map_err(BackupError::file(&folder))? {
                let object = object.map_err(BackupError::file(&folder))?;
                if !object.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                    fs::remove_file(object.path()).map_err(BackupError::file(object.path()))?;
                }
            }
        }
        Ok(())
    }

    fn object(&self, hash: &str) -> PathBuf {
        let folder = hash.get(..2).unwrap_or_default();
        self.folder.join(OBJECTS).join(folder).join(hash)
    }

    fn has(&self, hash: &str, bytes: u64) -> bool {
        fs::metadata(self.object(hash)).is_ok_and(|facts| facts.len() == bytes)
    }
}

/// Files of the snapshot before that need not be read again.
struct Known<'a>(HashMap<&'a str, &'a SnapshotFile>);

impl<'a> Known<'a> {
    fn of(before: Option<&'a Snapshot>, sources: &Sources) -> Self {
        let same = |before: &&Snapshot| {
            (before.creation_id, before.generation) == (sources.creation_id, sources.generation)
        };
        let files = before.filter(same).into_iter().flat_map(|before| &before.files);
        Self(files.map(|file| (file.path.as_str(), file)).collect())
    }

    fn hash(&self, source: &SourceFile, bytes: u64, changed_ns: i128) -> Option<&'a str> {
        let file = self.0.get(source.path.as_str()).filter(|_| source.is_immutable)?;
        ((file.bytes, file.changed_ns) == (bytes, changed_ns)).then_some(file.hash.as_str())
    }
}

/// What a snapshot begun at this time is called.
fn name_at(now_ms: u64) -> String {
    let seconds = i64::try_from(now_ms / 1000).unwrap_or_default();
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

/// Copies bytes; their hash and how many there were.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<(String, u64)> {
    let mut piece = vec![0; PIECE];
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok((hasher.finalize().to_hex().to_string(), bytes)),
            Ok(read) => piece.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(read);
        to.write_all(read)?;
        bytes = bytes.saturating_add(u64::try_from(read.len()).unwrap_or_default());
    }
}

/// Writes a file that only its owner may read, durably.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
