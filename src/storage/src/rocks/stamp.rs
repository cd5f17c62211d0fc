//! Opening a database: whose it is, whether this program may, and what a copy of it is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, WriteBatch};

use super::options::{Config, META};
use super::read::{Database, Tier, failed};
use crate::{Error, Position};

/// Rows of the storage layer's own.
pub(super) const HEAD: &[u8] = b"head";
const STAMP: &[u8] = b"stamp";
const SPACE: &[u8] = b"space/";
/// A file in a copy made by a checkpoint, which tells whoever opens the copy that history may fork here.
const COPY_MARK: &str = "ALLOD-COPY";
/// The layout of what this module and the committer write, apart from the caller's format.
const LAYOUT: u32 = 1;

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) layout: u32,
    pub(super) format: u32,
    pub(super) creation_id: u128,
    pub(super) generation: u32,
    pub(super) server_name: String,
}

/// A database that was opened and found to be ours.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) stamp: Stamp,
    pub(super) head: Position,
    pub(super) log_start: Position,
}

/// Opens the database, making or stamping it as needed.
pub(super) fn open(config: &Config) -> Result<Opened, Error> {
    let path = &config.options.path;
    let exists = look(path)?;
    let present = if exists { families(config)? } else { Vec::new() };
    if exists && !present.iter().any(|name| name == META) {
        return Err(Error::Foreign(format!(
            "{} holds a database of another program: give allod a directory of its own",
            path.display()
        )));
    }
    if !exists {
        make_directory(path)?;
    }
    let database = open_families(config, &present)?;
    let stamp = check_stamp(config, &database)?;
    check_spaces(config, &database)?;
    let head = head(&database)?;
    let log_start = database.log_start(Tier::Disk).map_err(Error::from)?.unwrap_or(head.next());
    Ok(Opened { database, stamp, head, log_start })
}

/// Opens the database again, as it was opened before.
pub(super) fn reopen(config: &Config) -> Result<Database, Error> {
    open_families(config, &families(config)?)
}

/// Opens the database for reading only, which needs no room on the disk.
pub(super) fn reopen_read_only(config: &Config) -> Result<Database, Error> {
    let present = families(config)?;
    let mut options = config.database();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    let families = config.families(&present);
    let db = DB::open_cf_descriptors_read_only(&options, &config.options.path, families, false);
    Ok(Database::new(db.map_err(|error| failed(&error))?, config))
}

/// The position of the last commit.
pub(super) fn head(database: &Database) -> Result<Position, Error> {
    let Some(bytes) = database.meta(HEAD)? else { return Ok(Position::ZERO) };
    let number =
        bytes.as_slice().try_into().map_err(|_| Error::Corrupt("the head is malformed".to_owned()))?;
    Ok(Position::new(u64::from_be_bytes(number)))
}

/// Copies the database into a new directory, complete or not at all.
pub(super) fn checkpoint(database: &Database, to: &Path) -> Result<(), Error> {
    let exists = to.try_exists().map_err(|error| unreadable(to, &error))?;
    if exists {
        return Err(Error::Unavailable(format!("{} exists already", to.display())));
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.is_dir() {
        fs::remove_dir_all(&partial).map_err(|error| unreadable(&partial, &error))?;
    }
    let checkpoint = Checkpoint::new(database.db()).map_err(|error| failed(&error))?;
    checkpoint.create_checkpoint(&partial).map_err(|error| failed(&error))?;
    finish_copy(&partial, to).map_err(|error| unreadable(to, &error))
}

fn finish_copy(partial: &Path, to: &Path) -> io::Result<()> {
    let mut mark = File::create(partial.join(COPY_MARK))?;
    mark.write_all(b"A copy of an allod database. Opening it begins a new generation.\n")?;
    mark.sync_all()?;
    File::open(partial)?.sync_all()?;
    fs::rename(partial, to)?;
    match to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Whether there is a database; a directory with anything else in it is refused, whatever that is.
fn look(path: &Path) -> Result<bool, Error> {
    if path.join("CURRENT").try_exists().map_err(|error| unreadable(path, &error))? {
        return Ok(true);
    }
    match fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Error::Foreign(format!(
            "{} is not empty and holds no complete database: if it is a damaged one, restore a backup; \
             otherwise give allod a directory of its own",
            path.display()
        ))),
        Ok(false) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| unreadable(path, &error))
}

fn families(config: &Config) -> Result<Vec<String>, Error> {
    DB::list_cf(&config.database(), &config.options.path).map_err(|error| failed(&error))
}

fn open_families(config: &Config, present: &[String]) -> Result<Database, Error> {
    let families = config.families(present);
    let db = DB::open_cf_descriptors(&config.database(), &config.options.path, families);
    Ok(Database::new(db.map_err(|error| failed(&error))?, config))
}

/// Checks the stamp against the options; stamps a new database, and one that is a copy anew.
fn check_stamp(config: &Config, database: &Database) -> Result<Stamp, Error> {
    let options = &config.options;
    let path = options.path.display();
    let mark = options.path.join(COPY_MARK);
    let Some(bytes) = database.meta(STAMP)? else {
        let stamp = Stamp {
            layout: LAYOUT,
            format: options.format,
            creation_id: rand::random(),
            generation: 1,
            server_name: options.server_name.clone(),
        };
        write_stamp(database, &stamp)?;
        return Ok(stamp);
    };
    let mut stamp =
        decode(&bytes).ok_or_else(|| Error::Corrupt("the database's stamp is malformed".to_owned()))?;
    if stamp.layout > LAYOUT || stamp.format > options.format {
        return Err(Error::Foreign(format!(
            "{path} was written by a newer allod (format {}.{}, this one knows {LAYOUT}.{}): install that version \
             again, or restore the backup made before the upgrade",
            stamp.layout, stamp.format, options.format
        )));
    }
    if stamp.server_name != options.server_name {
        return Err(Error::Foreign(format!(
            "{path} belongs to the server {}, not to {}: a server's name cannot be changed; correct the name in the \
             configuration, or give this server a directory of its own",
            stamp.server_name, options.server_name
        )));
    }
    let is_copy = mark.try_exists().map_err(|error| unreadable(&mark, &error))?;
    if is_copy {
        // Random, so that two servers restored from one copy do not share the new generation.
        let drawn = rand::random::<u32>();
        stamp.generation = if drawn == stamp.generation { drawn ^ 1 } else { drawn };
    }
    if is_copy || stamp.format < options.format {
        stamp.format = options.format;
        write_stamp(database, &stamp)?;
    }
    if is_copy {
        fs::remove_file(&mark).map_err(|error| unreadable(&mark, &error))?;
        tracing::warn!(
            generation = stamp.generation,
            "the database is a restored copy: a new generation begins"
        );
    }
    Ok(stamp)
}

/// Records the names of the spaces, and refuses a number that had another name.
fn check_spaces(config: &Config, database: &Database) -> Result<(), Error> {
    let family = database.family(META)?;
    let mut batch = WriteBatch::default();
    for (space, _) in config.declared.all() {
        let key = [SPACE, &[space.id]].concat();
        match database.meta(&key)? {
            Some(name) if name == space.name.as_bytes() => {}
            Some(name) => {
                return Err(Error::Foreign(format!(
                    "space {} of {} is named {}, and this program calls it {}: it was not made by this program",
                    space.id,
                    config.options.path.display(),
                    String::from_utf8_lossy(&name),
                    space.name
                )));
            }
            None => batch.put_cf(family, key, space.name),
        }
    }
    if batch.is_empty() { Ok(()) } else { database.write(batch) }
}

fn write_stamp(database: &Database, stamp: &Stamp) -> Result<(), Error> {
    let mut batch = WriteBatch::default();
    batch.put_cf(database.family(META)?, STAMP, encode(stamp));
    database.write(batch)
}

fn encode(stamp: &Stamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(stamp.layout.to_be_bytes());
    bytes.extend(stamp.format.to_be_bytes());
    bytes.extend(stamp.creation_id.to_be_bytes());
    bytes.extend(stamp.generation.to_be_bytes());
    bytes.extend(stamp.server_name.as_bytes());
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Stamp> {
    let (layout, format, creation_id, generation) = crate::codec::KeyCodec::decode(&mut bytes)?;
    let server_name = String::from_utf8(bytes.to_vec()).ok()?;
    Some(Stamp { layout, format, creation_id, generation, server_name })
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a stamp are read by every later version.
    #[test]
    fn stamp_bytes() {
        let stamp = Stamp {
            layout: 1,
            format: 2,
            creation_id: 3,
            generation: 4,
            server_name: "example.org".to_owned(),
        };
        let mut golden = vec![0, 0, 0, 1, 0, 0, 0, 2];
        golden.extend([0; 15]);
        golden.extend([3, 0, 0, 0, 4]);
        golden.extend(b"example.org");
        assert_eq!(encode(&stamp), golden);
        assert_eq!(decode(&golden), Some(stamp));
        assert_eq!(decode(&golden[..20]), None);
    }
}
