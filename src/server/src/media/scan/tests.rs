//! A scanner that is a program, and one that speaks ICAP; both are made here.

use std::path::Path;

use bytes::BytesMut;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{self, Interval},
    egress::Purpose,
    media::{
        ContentError, Selection, Wanted,
        tests::{ALICE, BOB, Fixture, fixture, server, wanted},
    },
    tasks::Tasks,
};

/// What counts as infected here.
const BAD: &[u8] = b"something EICAR something";
const PATIENTLY: Duration = Duration::from_secs(60);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A program that reads its standard input.
fn reader() -> Vec<String> {
    words(&["/bin/sh", "-c", "if grep -q EICAR; then echo; echo ' Eicar FOUND '; echo more; exit 1; fi"])
}

/// One that is given a path.
fn opener() -> Vec<String> {
    words(&["/bin/sh", "-c", "if grep -q EICAR \"$1\"; then echo Eicar FOUND; exit 1; fi", "scan", "{file}"])
}

async fn scanned(change: impl FnOnce(&mut config::Media)) -> Fixture {
    fixture(|media| {
        media.scan_time = Interval(PATIENTLY);
        change(media);
    })
    .await
}

async fn fetch(fixture: &Fixture, media_id: &str, wait: Duration) -> Result<u64, ContentError> {
    let content = fixture.media.content(Wanted { wait, ..wanted(media_id) }).await?;
    Ok(content.bytes)
}

/// What becomes of a clean file and of an infected one.
async fn one_is_given_and_one_is_not(fixture: &Fixture, finding: &str) {
    let media = &fixture.media;
    let clean = fixture.put(ALICE, b"nothing bad").await;
    assert_eq!(fetch(fixture, &clean, PATIENTLY).await.unwrap(), 11, "who asks waits for the scanner");
    let bad = fixture.put(BOB, BAD).await;
    assert!(matches!(fetch(fixture, &bad, PATIENTLY).await, Err(ContentError::NotFound)));
    let in_quarantine = media.list(Selection { quarantined: true, ..Selection::default() }).await.unwrap();
    assert_eq!(in_quarantine.len(), 1);
    assert_eq!(in_quarantine[0].media_id, bad);
    assert_eq!(in_quarantine[0].finding.as_deref(), Some(finding));
    assert_eq!(in_quarantine[0].waiting_since_ms, None);
    assert!(media.list(Selection { waiting: true, ..Selection::default() }).await.unwrap().is_empty());

    // An administrator knows better.
    media.set_quarantined(server(), &bad, false).await.unwrap();
    assert!(fetch(fixture, &bad, Duration::ZERO).await.is_ok());
    media.delete(server(), &bad).await.unwrap();
    media.delete(server(), &clean).await.unwrap();
    fixture.nothing_is_left().await;
    let database = &media.0.database;
    assert!(database.scan_all(Range::<WaitingScan>::whole()).await.unwrap().is_empty());
    assert!(database.scan_all(Range::<MediaFinding>::whole()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_program_looks_at_each_file_before_anybody_can_fetch_it() {
    for program in [reader(), opener()] {
        let fixture = scanned(|media| media.scan = program.clone()).await;
        one_is_given_and_one_is_not(&fixture, "Eicar FOUND").await;
        // Where files are not files of a folder, it is given a copy.
        let fixture = scanned(|media| {
            media.scan = program;
            media.folder = None;
        })
        .await;
        one_is_given_and_one_is_not(&fixture, "Eicar FOUND").await;
    }
}

#[tokio::test]
async fn the_exit_code_says_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"bytes").unwrap();
    let judge = async |script: &str| {
        let said = Temporary::new(folder.path(), "said").unwrap();
        command::judge(("/bin/sh", &words(&["-c", script])), &file, &said).await
    };
    assert_eq!(judge("exit 0").await.unwrap(), Verdict::Clean);
    assert_eq!(judge("cat; exit 1").await.unwrap(), Verdict::Infected("bytes".to_owned()));
    assert_eq!(
        judge("printf 'a\\033[1m\\tb'; exit 1").await.unwrap(),
        Verdict::Infected("a [1m b".to_owned())
    );
    assert_eq!(judge("exit 1").await.unwrap(), Verdict::Infected(String::new()));
    for script in ["exit 2", "exit 127", "kill -9 $$"] {
        assert!(matches!(judge(script).await, Err(ScanError::Failed(_))), "{script}");
    }
    // Nothing of the server's surroundings is handed on.
    assert_eq!(judge("test -z \"$HOME$USER$CARGO\" || exit 1").await.unwrap(), Verdict::Clean);
    let said = Temporary::new(folder.path(), "said").unwrap();
    let none = command::judge(("/nowhere/scan", &[]), &file, &said).await;
    assert!(matches!(none, Err(ScanError::Io(_))), "{none:?}");
}

#[tokio::test]
async fn while_the_scanner_is_out_of_order_files_are_taken_and_wait() {
    let folder = tempfile::tempdir().unwrap();
    let works = folder.path().join("works");
    let script = format!("test -e {} || exit 2", works.display());
    let fixture = scanned(|media| media.scan = words(&["/bin/sh", "-c", &script])).await;
    let file = fixture.put(ALICE, b"hello").await;
    fixture.media.scan_due().await.unwrap();
    assert!(matches!(fetch(&fixture, &file, Duration::ZERO).await, Err(ContentError::NotYetUploaded)));
    let waiting = fixture.media.list(Selection { waiting: true, ..Selection::default() }).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].waiting_since_ms, Some(1_700_000_000_000));
    // Asked again too soon, nothing happens; later it is put off for longer.
    assert_eq!(fixture.media.scan_due().await.unwrap().judged, 0);
    let failures = async |fixture: &Fixture| {
        let rows = fixture.media.0.database.scan_all(Range::<WaitingScan>::whole()).await.unwrap();
        rows.iter().map(|(_, row)| row.failures).collect::<Vec<_>>()
    };
    assert_eq!(failures(&fixture).await, [1]);
    fixture.clock.advance(LONGEST_PAUSE);
    fixture.media.scan_due().await.unwrap();
    assert_eq!(failures(&fixture).await, [2]);

    let fixture = fixture.restart().await;
    assert!(matches!(fetch(&fixture, &file, Duration::ZERO).await, Err(ContentError::NotYetUploaded)));
    let let_in = fixture.put(BOB, b"an administrator lets this in").await;
    assert!(fetch(&fixture, &let_in, Duration::ZERO).await.is_err());
    fixture.media.set_quarantined(server(), &let_in, false).await.unwrap();
    assert!(fetch(&fixture, &let_in, Duration::ZERO).await.is_ok());
    std::fs::write(&works, b"").unwrap();
    fixture.clock.advance(LONGEST_PAUSE);
    fixture.media.scan_due().await.unwrap();
    assert_eq!(fetch(&fixture, &file, Duration::ZERO).await.unwrap(), 5);
    assert_eq!(failures(&fixture).await, [0_u32; 0]);
}

#[tokio::test]
async fn a_scanner_that_does_not_end_is_ended_and_holds_up_no_other_file() {
    let fixture = scanned(|media| {
        media.scan = words(&["/bin/sh", "-c", "if grep -q slow; then exec sleep 1000; fi"]);
        media.scan_time = Interval(Duration::from_secs(1));
    })
    .await;
    let slow = fixture.put(ALICE, b"slow").await;
    let quick = fixture.put(ALICE, b"quick").await;
    assert!(fetch(&fixture, &quick, PATIENTLY).await.is_ok());
    fixture.media.scan_due().await.unwrap();
    assert!(matches!(fetch(&fixture, &slow, Duration::ZERO).await, Err(ContentError::NotYetUploaded)));
}

/// A server that speaks ICAP.
#[derive(Clone, Debug)]
struct Icap {
    method: &'static str,
    /// What it answers to a file that is infected, but for the heads, and to one that is not.
    answers: [String; 2],
    /// Whether it answers before it has read the file.
    early: bool,
}

impl Icap {
    async fn start(self, tasks: &Tasks) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let spawning = tasks.clone();
        tasks.spawn("icap", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = self.clone();
                spawning.spawn("icap", async move { server.serve(stream).await });
            }
        });
        port
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut read = BytesMut::new();
        let options = until(&mut stream, &mut read, b"\r\n\r\n").await;
        assert!(options.starts_with(b"OPTIONS icap://127.0.0.1:"), "{}", String::from_utf8_lossy(&options));
        let said = format!(
            "ICAP/1.0 200 OK\r\nMethods: {}\r\nISTag: \"1\"\r\nEncapsulated: opt-body=0\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            self.method
        );
        stream.write_all(said.as_bytes()).await.unwrap();
        let head = until(&mut stream, &mut read, b"\r\n\r\n").await;
        assert!(head.starts_with(self.method.as_bytes()), "{}", String::from_utf8_lossy(&head));
        if self.early {
            stream.write_all(self.answers[0].as_bytes()).await.unwrap();
        }
        let inner = until(&mut stream, &mut read, b"\r\n\r\n").await;
        assert!(inner.starts_with(if self.method == "RESPMOD" { b"GET http" } else { b"PUT http" }));
        if self.method == "RESPMOD" {
            let inner = until(&mut stream, &mut read, b"\r\n\r\n").await;
            assert!(inner.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        let body = until(&mut stream, &mut read, b"0\r\n\r\n").await;
        if !self.early {
            let is_bad = body.windows(5).any(|bytes| bytes == b"EICAR");
            stream.write_all(self.answers[usize::from(!is_bad)].as_bytes()).await.unwrap();
        }
    }
}

async fn until(stream: &mut TcpStream, read: &mut BytesMut, end: &[u8]) -> BytesMut {
    loop {
        if let Some(at) = read.windows(end.len()).position(|bytes| bytes == end) {
            return read.split_to(at + end.len());
        }
        if stream.read_buf(read).await.unwrap_or_default() == 0 {
            return std::mem::take(read);
        }
    }
}

const UNCHANGED: &str = "ICAP/1.0 204 No Content\r\nISTag: \"1\"\r\n\r\n";
const NAMED: &str = "ICAP/1.0 200 OK\r\nX-Infection-Found: Type=0; Resolution=2; Threat=Eicar-Test;\r\n\
                     Encapsulated: res-hdr=0, null-body=26\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n";

#[tokio::test]
async fn an_icap_server_looks_at_each_file() {
    let tasks = Tasks::new();
    for method in ["RESPMOD", "REQMOD"] {
        let answers = [NAMED.to_owned(), UNCHANGED.to_owned()];
        let port = Icap { method, answers, early: false }.start(&tasks).await;
        let address = format!("icap://127.0.0.1:{port}/av");
        let fixture = scanned(|media| media.scan = vec![address]).await;
        one_is_given_and_one_is_not(&fixture, "Eicar-Test").await;
        let contacts = fixture.media.0.egress.register().list();
        let (purpose, host, contact) = &contacts[0];
        assert_eq!((*purpose, host.as_str(), contact.requests), (Purpose::Scanner, "127.0.0.1", 2));
        assert!(contact.bytes_sent > 500 && contact.bytes_received > 200, "{contact:?}");
    }
}

/// What is made of an answer to a file of several pieces.
async fn verdict(tasks: &Tasks, answer: &str, early: bool) -> Result<Verdict, ScanError> {
    let bytes = vec![7; 3 << 20];
    let answers = [answer.to_owned(), answer.to_owned()];
    let port = Icap { method: "RESPMOD", answers, early }.start(tasks).await;
    let fixture = scanned(|_| {}).await;
    let file = fixture.put(ALICE, &bytes).await;
    let content =
        fixture.media.row(fixture.media.key(server(), &file)).await.unwrap().unwrap().content.unwrap();
    let scanner = Scanner::of(&[format!("icap://127.0.0.1:{port}/av")]).unwrap().unwrap();
    fixture.media.ask(&scanner, &content).await.map(Option::unwrap)
}

#[tokio::test]
async fn what_an_icap_server_answers_is_understood() {
    let tasks = Tasks::new();
    let infected = |finding: &str| Verdict::Infected(finding.to_owned());
    let given = "HTTP/1.1 200 OK\r\n\r\n";
    let body = |content: &str| {
        let length = given.len();
        format!(
            "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body={length}\r\n\r\n{given}{content}0\r\n\r\n"
        )
    };
    let same = String::from_utf8(vec![7; 1 << 20]).unwrap();
    let same = [1, 2, 3].map(|_| format!("{:x};a=b\r\n{same}\r\n", 1 << 20)).concat();
    for (answer, expected) in [
        (UNCHANGED.to_owned(), Verdict::Clean),
        (NAMED.to_owned(), infected("Eicar-Test")),
        (UNCHANGED.replace("ISTag: \"1\"", "X-Virus-ID: Bad\u{7}"), infected("Bad")),
        (UNCHANGED.replace("ISTag: \"1\"", "x-violations-found: 0"), Verdict::Clean),
        (body(&same), Verdict::Clean),
        (body("3\r\nabc\r\n"), infected("replaced by the scanner")),
        (
            "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, null-body=4\r\n\r\n".to_owned(),
            infected("refused by the scanner"),
        ),
    ] {
        let shown: String = answer.chars().take(100).collect();
        assert_eq!(verdict(&tasks, &answer, false).await.unwrap(), expected, "{shown}");
    }
    assert_eq!(verdict(&tasks, NAMED, true).await.unwrap(), infected("Eicar-Test"));
    for answer in [
        "ICAP/1.0 500 Server error\r\n\r\n",
        "ICAP/1.0 404 No service\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "ICAP/1.0 \r\n\r\n",
        "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=5\r\n\r\nabcdezz\r\n",
        "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=5\r\n\r\nabcde3\r\nab",
        "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=99999999\r\n\r\n",
        "",
    ] {
        let outcome = verdict(&tasks, answer, false).await;
        assert!(outcome.is_err(), "{answer:?}: {outcome:?}");
    }
    let endless = "a".repeat(100_000);
    assert!(verdict(&tasks, &endless, false).await.is_err());
}

#[tokio::test]
async fn nothing_is_scanned_where_nothing_is_configured() {
    let fixture = scanned(|_| {}).await;
    let file = fixture.put(ALICE, BAD).await;
    assert!(fetch(&fixture, &file, Duration::ZERO).await.is_ok());
    assert_eq!(fixture.media.scan_due().await.unwrap(), Round::default());
    let hash: [u8; 32] = Sha256::digest(BAD).into();
    let row = fixture.media.row(fixture.media.key(server(), &file)).await.unwrap().unwrap();
    assert_eq!(row.content.unwrap().sha256, hash);
    assert!(!Path::new(&fixture.media.0.scan_folder).exists());
}
