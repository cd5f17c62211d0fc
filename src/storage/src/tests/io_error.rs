//! A failing fsync, injected by strace: read-only, then reopened in process, and nothing acknowledged lost.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::open;
use crate::conformance::POINT;
use crate::{Batch, CommitError, Key, Mode, Op, Position};

const DIRECTORY: &str = "ALLOD_STORAGE_IO_ERROR_DIRECTORY";

/// The process whose fsync fails: not a test of its own.
#[tokio::test]
#[ignore = "started by the I/O error test"]
async fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let store = open(Path::new(&directory));
    let put = |number: u64| {
        let key = Key::new(POINT, number.to_be_bytes());
        Batch { ops: vec![Op::Put(key, number.to_be_bytes().to_vec().into())], ..Batch::default() }
    };
    let mut positions = Vec::new();
    let mut failures = 0;
    for number in 0..300 {
        match store.commit(put(number)).await {
            Ok(position) => {
                let last = positions.last().map_or(Position::ZERO, |(_, position)| *position);
                assert!(position > last);
                positions.push((number, position));
            }
            Err(CommitError::Unknown) => {
                failures += 1;
                assert!(matches!(store.mode(), Mode::ReadOnly { .. }));
                assert!(matches!(store.commit(put(number)).await, Err(CommitError::ReadOnly(_))));
                store.try_recover().await.unwrap();
                assert_eq!(store.mode(), Mode::ReadWrite);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(failures, 1);
    for (number, _) in &positions {
        assert!(store.get(&Key::new(POINT, number.to_be_bytes())).await.unwrap().is_some());
    }
    let records = store.read_log(Position::ZERO, 1000).await.unwrap();
    assert_eq!(records.last().unwrap().position, store.head());
    assert!(records.windows(2).all(|pair| pair[1].position == pair[0].position.next()));
    std::io::stdout().write_all(b"the child has seen it all\n").unwrap();
}

#[test]
fn a_failed_fsync_is_survived() {
    let directory = tempfile::tempdir().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"]);
    // The committer thread's hundredth; strace counts for each thread.
    strace.args(["-e", "inject=fdatasync:error=EIO:when=100"]);
    strace.arg(std::env::current_exe().unwrap());
    strace.args(["tests::io_error::child", "--exact", "--ignored", "--nocapture"]);
    match strace.env(DIRECTORY, directory.path()).output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("the child has seen it all"), "{said}");
        }
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("ptrace") => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        other => {
            let reason = format!("SKIPPED: strace cannot inject errors here: {other:?}\n");
            std::io::stderr().write_all(reason.as_bytes()).unwrap();
        }
    }
}
