//! Backups of folders that look like a server's, and what a restored database forgets.

use std::{fs, path::Path};

use allod_storage::{OpenOptions, Position, Store};
use tempfile::TempDir;

use super::*;
use crate::{
    database::{Database, Range, Write},
    numbers::{DeviceNumber, Hash128, UserNumber},
    random::Random,
    tables::{
        self, Stamped,
        keys::{KeyCounts, KeyCountsRow, OneTimeKey, OneTimeKeyRow},
    },
};

const BLOB: &str = "media/ab/cd/abcd0000000000000000000000000000";

/// A data folder, its copied database, and a place for backups.
struct Place {
    folder: TempDir,
    config: Config,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = Config::default();
        config.server.name = "example.org".try_into().unwrap();
        config.server.data_dir = folder.path().join("data");
        let place = Self { folder, config };
        place.write("data/signing.key", b"a key");
        place.write("data/database/CURRENT", b"in use");
        place.write("checkpoint/CURRENT", b"MANIFEST-000001");
        place.write("checkpoint/000007.sst", b"rows");
        place.write(&format!("data/{BLOB}"), b"a picture");
        place.write("data/media/incoming/half", b"a pict");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn sources(&self) -> Sources {
        Sources::with_identity(&self.config, (7, 1), self.path("checkpoint"), None)
    }

    fn repository(&self) -> Repository {
        Repository::create(&self.path("backups")).unwrap()
    }

    /// Takes a snapshot.
    fn add(&self, now_ms: u64) -> Added {
        self.repository().add(&self.sources(), now_ms, |_, _| {}).unwrap()
    }

    /// The configuration of another machine.
    fn elsewhere(&self) -> Config {
        let mut config = self.config.clone();
        config.server.data_dir = self.path("elsewhere/data");
        config
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_backed_up_comes_back() {
    let place = Place::new();
    let added = place.add(1_795_525_501_000);
    assert_eq!(added.snapshot.name, "20261124T130501Z");
    let paths: Vec<&str> = added.snapshot.files.iter().map(|file| file.path.as_str()).collect();
    assert!(
        paths.contains(&BLOB) && paths.contains(&"signing.key") && paths.contains(&"database/000007.sst")
    );
    assert!(!paths.iter().any(|path| path.contains("incoming") || path.contains("lock")), "{paths:?}");

    let elsewhere = place.elsewhere();
    let repository = place.repository();
    let snapshot = repository.newest().unwrap().unwrap();
    assert_eq!(snapshot, added.snapshot);
    let restored = restore(&repository, &snapshot, &elsewhere, |_, _| {}).unwrap();
    assert_eq!(restored.files, paths.len());
    let data = &elsewhere.server.data_dir;
    assert_eq!(read(&data.join("signing.key")), "a key");
    assert_eq!(read(&data.join("database/CURRENT")), "MANIFEST-000001");
    assert_eq!(read(&data.join(BLOB)), "a picture");
    assert!(!data.join("restore.partial").exists());

    let again = restore(&repository, &snapshot, &elsewhere, |_, _| {});
    assert!(matches!(again, Err(BackupError::Occupied(_))), "{again:?}");
}

#[test]
fn the_next_snapshot_costs_what_changed() {
    let place = Place::new();
    let first = place.add(1000);
    assert_eq!(first.new_bytes, first.snapshot.bytes());
    assert_eq!(place.add(1000).new_bytes, 0);
    place.write("checkpoint/000009.sst", b"more rows");
    let third = place.add(2000);
    assert_eq!(third.new_bytes, 9);
    assert_eq!(third.snapshot.files.len(), first.snapshot.files.len() + 1);
    let names = place.repository().snapshots().unwrap();
    let names: Vec<String> = names.into_iter().map(|snapshot| snapshot.unwrap().name).collect();
    assert_eq!(names, ["19700101T000001Z", "19700101T000001Z-2", "19700101T000002Z"]);
}

#[test]
fn a_table_of_another_generation_is_read_anew() {
    let place = Place::new();
    place.add(1000);
    let before = fs::metadata(place.path("checkpoint/000007.sst")).unwrap().modified().unwrap();
    place.write("checkpoint/000007.sst", b"ROWS");
    fs::File::options()
        .write(true)
        .open(place.path("checkpoint/000007.sst"))
        .and_then(|file| file.set_modified(before))
        .unwrap();
    let mut sources = place.sources();
    sources.generation = 2;
    assert_eq!(place.repository().add(&sources, 2000, |_, _| {}).unwrap().new_bytes, 4);
}

#[test]
fn old_snapshots_go_with_what_only_they_needed() {
    let place = Place::new();
    place.add(1000);
    fs::remove_file(place.path("checkpoint/000007.sst")).unwrap();
    place.write("checkpoint/000008.sst", b"compacted rows");
    place.add(2000);
    let repository = place.repository();
    let [first, second] = &*repository.snapshots().unwrap() else { panic!("two snapshots") };
    let (first, second) = (first.as_ref().unwrap(), second.as_ref().unwrap());
    assert_eq!(repository.prune(1).unwrap(), 1);
    repository.verify(second, |_, _| {}).unwrap();
    let gone = repository.verify(first, |_, _| {}).unwrap_err().to_string();
    assert_eq!(gone, "database/000007.sst of snapshot 19700101T000001Z is missing; take another snapshot");
    assert_eq!(repository.prune(1).unwrap(), 0);
}

#[test]
fn damage_is_found_and_named_and_nothing_is_restored() {
    let place = Place::new();
    let added = place.add(1000);
    let repository = place.repository();
    let blob = added.snapshot.files.iter().find(|file| file.path == BLOB).unwrap();
    let object = place.path("backups/objects").join(&blob.hash[..2]).join(&blob.hash);
    fs::write(object, b"a pigture").unwrap();
    let expected =
        format!("{BLOB} of snapshot 19700101T000001Z is not what was written; take another snapshot");
    assert_eq!(repository.verify(&added.snapshot, |_, _| {}).unwrap_err().to_string(), expected);
    let elsewhere = place.elsewhere();
    assert!(restore(&repository, &added.snapshot, &elsewhere, |_, _| {}).is_err());
    assert!(!elsewhere.server.data_dir.join("database").exists());

    let list = place.path("backups/snapshots/19700101T000001Z.json");
    fs::write(&list, read(&list).replace("signing.key", "../../signing.key")).unwrap();
    let damaged = repository.snapshot("19700101T000001Z");
    assert!(matches!(damaged, Err(BackupError::DamagedList(_))), "{damaged:?}");
    let prune = repository.prune(1);
    assert!(matches!(prune, Err(BackupError::DamagedList(_))), "{prune:?}");
}

#[test]
fn a_backup_that_was_cut_short_leaves_the_earlier_ones() {
    let place = Place::new();
    place.add(1000);
    place.write("backups/incoming/file", b"half a table");
    place.write("backups/incoming/list", b"{\"layout\":");
    place.add(2000);
    let repository = place.repository();
    for snapshot in repository.snapshots().unwrap() {
        repository.verify(&snapshot.unwrap(), |_, _| {}).unwrap();
    }
}

#[test]
fn foreign_folders_and_servers_are_refused() {
    let place = Place::new();
    let foreign = Repository::create(&place.path("data"));
    assert!(matches!(foreign, Err(BackupError::Foreign(_))), "{foreign:?}");
    let none = Repository::open(&place.path("checkpoint"));
    assert!(matches!(none, Err(BackupError::NoBackups(_))), "{none:?}");
    let added = place.add(1000);
    let mut sources = place.sources();
    sources.server_name = "other.example".to_owned();
    let other = place.repository().add(&sources, 2000, |_, _| {});
    assert!(matches!(other, Err(BackupError::OtherServer { .. })), "{other:?}");
    let mut elsewhere = place.elsewhere();
    elsewhere.server.name = "other.example".try_into().unwrap();
    let other = restore(&place.repository(), &added.snapshot, &elsewhere, |_, _| {});
    assert!(matches!(other, Err(BackupError::OtherServer { .. })), "{other:?}");
    let unknown = place.repository().snapshot("../lock");
    assert!(matches!(unknown, Err(BackupError::NoSnapshot(_))), "{unknown:?}");
}

#[test]
fn one_backup_at_a_time() {
    let place = Place::new();
    let staging = Staging::enter(&place.config).unwrap();
    fs::create_dir(staging.checkpoint()).unwrap();
    let second = Staging::enter(&place.config);
    assert!(matches!(second, Err(BackupError::Busy(_))), "{second:?}");
    let left = staging.checkpoint();
    drop(staging);
    assert!(!left.exists());
    let repository = place.repository();
    assert!(matches!(Repository::open(&place.path("backups")), Err(BackupError::Busy(_))));
    drop(repository);
    Repository::open(&place.path("backups")).unwrap();
}

#[tokio::test]
async fn a_restored_database_forgets_one_time_keys_and_unknown_media() {
    let place = Place::new();
    let open = |name: &str| {
        Store::open(OpenOptions::new(place.path(name), tables::SPACES, tables::FORMAT, "example.org"))
            .unwrap()
    };
    let original = open("original");
    let database = Database::open(original.clone(), &Random::seeded(1)).await.unwrap();
    settle(&database, &place.config).await.unwrap();
    let (user, device) = (UserNumber(1), DeviceNumber(1));
    let mut write = Write::new();
    let row = OneTimeKeyRow { key_id: "signed_curve25519:A".to_owned(), json: "{}".to_owned() };
    write.put::<OneTimeKey>(&(user, device, Hash128([1; 16]), Position::PENDING, 0), &row);
    let counts = KeyCountsRow {
        one_time: vec![("signed_curve25519".to_owned(), 1)],
        unused_fallback: vec!["signed_curve25519".to_owned()],
    };
    write.put::<KeyCounts>(&(user, device), &Stamped::pending(counts));
    database.commit(write).await.unwrap();
    original.checkpoint(&place.path("copy")).await.unwrap();

    let keys = async |database: &Database| {
        let keys = database.scan(&Range::<OneTimeKey>::whole()).await.unwrap().rows.len();
        (keys, database.get::<KeyCounts>(&(user, device)).await.unwrap().unwrap().value)
    };
    settle(&database, &place.config).await.unwrap();
    assert_eq!(keys(&database).await.0, 1, "the original keeps its keys");

    let copy = Database::open(open("copy"), &Random::seeded(2)).await.unwrap();
    settle(&copy, &place.config).await.unwrap();
    let (left, counts) = keys(&copy).await;
    assert_eq!((left, counts.one_time.len(), counts.unused_fallback.len()), (0, 0, 1));
    assert!(!place.path("data").join(BLOB).exists(), "no row names it");
}
