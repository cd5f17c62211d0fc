//! Each of these mistakes is found, and what is said of it says what to do.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use allod_server::{
    backups::{Repository, Sources},
    config::{ByteSize, FederationMode, ListenAddress, Registration},
};
use tempfile::TempDir;

use super::*;

/// A machine on which nothing is wrong but what a test makes so.
struct Machine {
    folder: TempDir,
    config: Config,
}

impl Machine {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut config = Config::default();
        config.server.name = "allod.example".try_into().unwrap();
        config.server.data_dir = folder.path().join("data");
        config.server.public_url = Some("https://allod.example".to_owned());
        config.listeners.client = vec![ListenAddress::Unix(folder.path().join("client.sock"))];
        config.listeners.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        let machine = Self { folder, config };
        fs::create_dir_all(machine.data().join("database")).unwrap();
        mode(&machine.data(), 0o700);
        fs::write(machine.data().join("signing.key"), "a key").unwrap();
        mode(&machine.data().join("signing.key"), 0o600);
        machine
    }

    fn data(&self) -> PathBuf {
        self.config.server.data_dir.clone()
    }

    /// What is said of a subject that is not good; there is something.
    fn finds(&self, level: Level, subject: &str, says: &str) {
        let mut findings = Findings::default();
        check_all(&self.config, true, &mut findings);
        let found = findings.0.iter().any(|finding| {
            (finding.level, finding.subject) == (level, subject)
                && finding.says.contains(says)
                && !finding.remedy.is_empty()
        });
        assert!(found, "{level:?} {subject}: {says} is not in {:#?}", findings.0);
    }

    fn certificate(&mut self, name: &str, years: (i32, i32)) {
        let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let file = self.folder.path().join("certificate.pem");
        fs::write(&file, parameters.self_signed(&key).unwrap().pem()).unwrap();
        self.config.listeners.certificate = Some(file);
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_machine_without_mistakes_has_none() {
    let mut machine = Machine::new();
    machine.certificate("allod.example", (2020, 2099));
    let mut findings = Findings::default();
    check_all(&machine.config, true, &mut findings);
    assert_eq!(findings.count(Level::Wrong), 0, "{:#?}", findings.0);
}

#[test]
fn the_data_folder_and_the_key_are_the_owners_alone() {
    let machine = Machine::new();
    mode(&machine.data(), 0o755);
    machine.finds(Level::Wrong, "data folder", "others can look into");
    let key = machine.data().join("signing.key");
    mode(&key, 0o644);
    machine.finds(Level::Wrong, "signing key", "others can read");
    fs::remove_file(key).unwrap();
    machine.finds(Level::Wrong, "signing key", "is missing");
}

#[test]
fn a_data_folder_that_cannot_be_written_to() {
    let machine = Machine::new();
    fs::create_dir(machine.data().join(".check")).unwrap();
    machine.finds(Level::Wrong, "disk writes", "nothing can be written");
}

#[test]
fn names_that_will_not_last() {
    let mut machine = Machine::new();
    machine.config.server.name = "192.0.2.7".try_into().unwrap();
    machine.finds(Level::Doubtful, "server.name", "is an address");
    machine.config.server.name = "localhost".try_into().unwrap();
    machine.finds(Level::Doubtful, "server.name", "nobody's domain");
}

#[test]
fn doors_that_stand_open() {
    let mut machine = Machine::new();
    machine.config.accounts.registration = Registration::Open;
    machine.finds(Level::Doubtful, "accounts.registration", "anyone");
    machine.config.listeners.client = vec![ListenAddress::Tcp(([0, 0, 0, 0], 8008).into())];
    machine.finds(Level::Doubtful, "listeners.client", "without TLS");
    machine.config.listeners.metrics = vec![ListenAddress::Tcp(([0, 0, 0, 0], 9187).into())];
    machine.finds(Level::Doubtful, "listeners.metrics", "how much goes on");
    machine.config.listeners.client = vec![ListenAddress::Tcp(([127, 0, 0, 1], 8008).into())];
    machine.config.listeners.trusted_proxies.clear();
    machine.finds(Level::Doubtful, "listeners.trusted_proxies", "count as one address");
}

#[test]
fn addresses_that_apps_are_not_told_or_refuse() {
    let mut machine = Machine::new();
    machine.config.server.public_url = None;
    machine.finds(Level::Doubtful, "server.public_url", "not told");
    machine.config.server.public_url = Some("http://allod.example".to_owned());
    machine.finds(Level::Doubtful, "server.public_url", "no TLS");
}

#[test]
fn federation_that_nobody_can_answer() {
    let mut machine = Machine::new();
    machine.config.federation.mode = FederationMode::Open;
    machine.finds(Level::Doubtful, "federation", "cannot tell where");
}

#[test]
fn certificates_that_other_servers_refuse() {
    let mut machine = Machine::new();
    machine.certificate("allod.example", (2020, 2021));
    machine.finds(Level::Wrong, "certificate", "it ended on");
    machine.certificate("allod.example", (2098, 2099));
    machine.finds(Level::Wrong, "certificate", "it begins on");
    machine.certificate("other.example", (2020, 2099));
    machine.finds(Level::Wrong, "certificate", "it is for other.example");
    machine.config.server.federation_address = Some("other.example:443".to_owned());
    let mut findings = Findings::default();
    certificate::check(&machine.config, &mut findings);
    assert_eq!(findings.count(Level::Wrong), 0, "{findings:#?}");
}

#[test]
fn backups_that_would_not_help() {
    let mut machine = Machine::new();
    machine.finds(Level::Doubtful, "backup", "makes no backups");
    let folder = machine.folder.path().join("backups");
    machine.config.backup.folder = Some(folder.clone());
    machine.finds(Level::Doubtful, "backup", "on the disk of the data");
    machine.finds(Level::Doubtful, "backup", "there is none");
    let checkpoint = machine.folder.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    let sources = Sources::with_identity(&machine.config, (1, 1), checkpoint, None);
    Repository::create(&folder).unwrap().add(&sources, 1_700_000_000_000, |_, _| {}).unwrap();
    machine.finds(Level::Wrong, "backup", "hours old");
}

#[test]
fn addresses_that_cannot_be_listened_on() {
    let mut machine = Machine::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let says = |machine: &Machine, says: &str| {
        let mut findings = Findings::default();
        network::check(&machine.config, false, &mut findings);
        let wrong =
            findings.0.iter().any(|finding| finding.level == Level::Wrong && finding.says.contains(says));
        assert!(wrong, "{findings:#?}");
    };
    machine.config.listeners.client = vec![ListenAddress::Tcp(taken.local_addr().unwrap())];
    says(&machine, "another program listens");
    machine.config.listeners.client = vec![ListenAddress::Tcp(([192, 0, 2, 7], 8008).into())];
    says(&machine, "cannot be listened on");
}

#[test]
fn memory_that_is_not_there() {
    let mut machine = Machine::new();
    machine.config.storage.memory = Some(ByteSize::mib(1 << 20));
    machine.finds(Level::Doubtful, "memory", "the server may take");
}
