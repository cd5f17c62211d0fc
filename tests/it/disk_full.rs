//! A full disk: refusals that say so, reading as before, and writing again once there is room, all in one process.

use std::{fs, io::Write, path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    http::Http,
    load::{Ledger, Plan},
    running::Running,
    server::Answer,
};

/// Longer than the server's pauses between attempts to write again.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(60);

/// A small file system in memory, unmounted at the end.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(folder.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                say(&format!(
                    "disk full: SKIPPED, no small disk can be mounted here (needs root): {other:?}\n"
                ));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn say(line: &str) {
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Writes a file until nothing more fits.
fn fill(path: &Path) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    while file.write_all(&[0x5a; 4096]).is_ok() {}
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!(answer.refusal(), (503, "M_UNKNOWN"), "{}", answer.body);
    let message = answer.body["error"].as_str().unwrap();
    assert!(message.starts_with("The server cannot store anything at present"), "{message}");
}

/// Every sender sends one message; returns the refusals.
async fn send_one_each(ledger: &mut Ledger, server: &Running, name: &str) -> Vec<Answer> {
    let load = ledger.load(&server.address, Plan { name, bytes: 100, messages: 1 });
    ledger.collect(load).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_writing_and_nothing_else() {
    let Some(disk) = SmallDisk::mount() else { return };
    let (filler, more, data) =
        (disk.path().join("filler"), disk.path().join("more"), disk.path().join("data"));
    fs::write(&filler, vec![0x5a; 24 << 20]).unwrap();
    let server = Running::start(&data);
    let mut ledger = Ledger::new(&server.address, 4, 2).await;
    let mut http = Http::new(&server.address);

    let load = ledger.load(&server.address, Plan { name: "fill", bytes: 30_000, messages: 5000 });
    let refusals = timeout(Duration::from_secs(300), ledger.collect(load)).await.unwrap();
    assert_eq!(refusals.len(), 8, "every sender is refused in the end");
    refusals.iter().for_each(assert_refused);
    // Files that were being written anew when there was no more room may give some back.
    let began = Instant::now();
    for attempt in 0.. {
        fill(&more);
        if send_one_each(&mut ledger, &server, &format!("filling{attempt}")).await.len() == 8 {
            break;
        }
        assert!(began.elapsed() < RECOVERY_TIME_MAX, "there is always room");
    }
    let acknowledged = ledger.acknowledged();

    // For longer than it takes to try again, in vain.
    let person = ledger.person().clone();
    for attempt in 0..3 {
        let refusals = send_one_each(&mut ledger, &server, &format!("full{attempt}")).await;
        assert_eq!(refusals.len(), 8);
        refusals.iter().for_each(assert_refused);
        ledger.check(&server.address).await;
        let sync = http.get(&person, "/_matrix/client/v3/sync").await.ok();
        assert_eq!(sync["rooms"]["join"].as_object().unwrap().len(), 2);
        http.get(&person, "/_matrix/client/v3/account/whoami").await.ok();
        sleep(Duration::from_secs(1)).await;
    }

    fs::remove_file(filler).unwrap();
    let began = Instant::now();
    let mut attempt = 0;
    while !send_one_each(&mut ledger, &server, &format!("room{attempt}")).await.is_empty() {
        assert!(began.elapsed() < RECOVERY_TIME_MAX, "it does not write again");
        attempt += 1;
        sleep(Duration::from_millis(250)).await;
    }
    let recovered = began.elapsed();
    ledger.check(&server.address).await;
    let (unanswered, stored) = ledger.settle(&server.address, 10).await;
    let load = ledger.load(&server.address, Plan { name: "after", bytes: 100, messages: 20 });
    assert!(ledger.collect(load).await.is_empty());
    ledger.check(&server.address).await;
    // The first load that went through, and the last.
    assert!(ledger.acknowledged() >= acknowledged + unanswered + 8 * 20);

    server.stop();
    let server = Running::start(&data);
    ledger.check(&server.address).await;
    server.stop();
    say(&format!(
        "disk full: {acknowledged} messages acknowledged before, {unanswered} refused while it was, of which {stored} \
         were stored; writes again {} ms after there was room\n",
        recovered.as_millis()
    ));
}
