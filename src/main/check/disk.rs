//! The data folder and the disk below it, and the backups.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use allod_server::{
    backups::{BackupError, Repository},
    clock::Clock,
    config::Config,
};

use super::Findings;

/// Free space below which the server may stop writing any day.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// How often a small write is made durable to see how long that takes.
const SYNCS: usize = 16;
/// A median that users feel.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Magic numbers of file systems, from statfs(2).
const TMPFS: i64 = 0x0102_1994;
const NFS: i64 = 0x6969;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let data_dir = &config.server.data_dir;
    let Some(standing) = nearest(data_dir) else { return };
    folder(data_dir, findings);
    space(&standing, findings);
    file_system(&standing, findings);
    if standing == *data_dir {
        sync_speed(data_dir, findings);
    }
    signing_key(data_dir, findings);
    if let Some(folder) = &config.backup.folder {
        backups(folder, config, findings);
    }
}

/// The folder itself, or the nearest above it that exists.
fn nearest(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned)
}

fn folder(data_dir: &Path, findings: &mut Findings) {
    let name = data_dir.display();
    match fs::metadata(data_dir) {
        Err(_) => findings.good("data folder", format!("{name} is made at the first start")),
        Ok(facts) if facts.permissions().mode() & 0o077 != 0 => findings.wrong(
            "data folder",
            format!("others can look into {name} (mode {:o})", facts.permissions().mode() & 0o777),
            format!("chmod 700 {name}"),
        ),
        Ok(_) => findings.good("data folder", format!("{name} is there, for its owner only")),
    }
}

fn space(folder: &Path, findings: &mut Findings) {
    let Ok(space) = rustix::fs::statvfs(folder) else { return };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let all = space.f_blocks.saturating_mul(space.f_frsize).max(1);
    let says = format!("{} free of {}", crate::backup::size(free), crate::backup::size(all));
    let remedy = "Make room or give the server a larger disk: without room it reads only.";
    if free < FREE_BYTES_MIN {
        findings.wrong("disk space", says, remedy);
    } else if free < all / 20 {
        findings.doubtful("disk space", says, remedy);
    } else {
        findings.good("disk space", says);
    }
}

fn file_system(folder: &Path, findings: &mut Findings) {
    let Ok(facts) = rustix::fs::statfs(folder) else { return };
    let name = folder.display();
    if facts.f_type == TMPFS {
        findings.wrong(
            "file system",
            format!("{name} is in memory, and gone after a restart of the machine"),
            "Set server.data_dir to a folder on a disk.",
        );
    } else if facts.f_type == NFS {
        findings.doubtful(
            "file system",
            format!("{name} is on the network: slow, and locks may not hold"),
            "Set server.data_dir to a folder on a local disk.",
        );
    }
}

fn sync_speed(data_dir: &Path, findings: &mut Findings) {
    let path = data_dir.join(".check");
    let timed = time_syncs(&path);
    // Not there if it could not be made.
    let _ = fs::remove_file(&path);
    match timed {
        Err(error) => findings.wrong(
            "disk writes",
            format!("nothing can be written to {}: {error}", data_dir.display()),
            "Run this as the server's user or as root; if it is, give the folder to that user with chown.",
        ),
        Ok(median) if median > SYNC_SLOW => findings.doubtful(
            "disk writes",
            format!("a small durable write takes {} ms", median.as_millis()),
            "Messages wait for that. Move server.data_dir to an SSD, or to a disk that nothing else keeps busy.",
        ),
        Ok(median) => {
            findings.good("disk writes", format!("a small durable write takes {} µs", median.as_micros()));
        }
    }
}

/// The median time of a durable write of 4 KiB.
#[expect(clippy::disallowed_methods, reason = "a stopwatch, and the machine's own time is what is measured")]
fn time_syncs(path: &Path) -> std::io::Result<Duration> {
    let mut file = File::create(path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

fn signing_key(data_dir: &Path, findings: &mut Findings) {
    let key = data_dir.join("signing.key");
    let has_database = data_dir.join("database").exists();
    match fs::metadata(&key) {
        Err(_) if has_database => findings.wrong(
            "signing key",
            format!(
                "{} is missing, and the server would make another, which other servers do not trust",
                key.display()
            ),
            "Put the file back from a backup before the server starts.",
        ),
        Err(_) => {}
        Ok(facts) if facts.permissions().mode() & 0o077 != 0 => findings.wrong(
            "signing key",
            format!("others can read {}, and speak in the server's name", key.display()),
            format!("chmod 600 {}", key.display()),
        ),
        Ok(_) => findings.good("signing key", "there, for its owner only"),
    }
}

fn backups(folder: &Path, config: &Config, findings: &mut Findings) {
    let device = |path: &Path| nearest(path).and_then(|path| Some(fs::metadata(path).ok()?.dev()));
    if device(folder) == device(&config.server.data_dir) {
        findings.doubtful(
            "backup",
            format!("{} is on the disk of the data that it is to save", folder.display()),
            "Set backup.folder to a folder on another disk, best on another machine's.",
        );
    }
    let age = Repository::open(folder).and_then(|repository| repository.newest());
    match age {
        Ok(Some(newest)) => {
            let age_ms = Clock::system().now_ms().saturating_sub(newest.made_at_ms);
            let hours = age_ms / 3_600_000;
            if u128::from(age_ms) > config.backup.every.0.as_millis().saturating_mul(2) {
                findings.wrong(
                    "backup",
                    format!("the newest is {hours} hours old"),
                    "Look into the server's log for why none was made since: `journalctl -u allod | grep backup`.",
                );
            } else {
                findings.good("backup", format!("the newest is {hours} hours old"));
            }
        }
        // The server is making one.
        Err(BackupError::Busy(_)) => {}
        Ok(None) | Err(BackupError::NoBackups(_)) => findings.doubtful(
            "backup",
            format!("there is none in {} yet", folder.display()),
            "The server makes one soon after its start; check again then.",
        ),
        Err(error) => {
            findings.wrong("backup", error.to_string(), "Let the server's user read and write the folder.");
        }
    }
}
