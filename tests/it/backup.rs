//! A backup under load, the loss of everything, and what is there after the restoration.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
};

use axum::http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use crate::{
    http::Http,
    running::{Running, allod},
    server::Person,
};

/// Messages that are acknowledged before the backup begins.
const MESSAGES: usize = 60;
const PICTURE: &str = "GIF89a, says the picture";

/// A server with a configuration file, and a place for its backups.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: TempDir::new().unwrap() };
        let text = format!(
            "[server]\nname = \"a.example\"\ndata_dir = \"{}\"\n[listeners]\nclient = [\"127.0.0.1:0\"]\n\
             [accounts]\nregistration = \"open\"\n[limits]\nrates = false\n",
            place.data().display()
        );
        fs::write(place.configuration(), text).unwrap();
        place
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    fn configuration(&self) -> PathBuf {
        self.folder.path().join("allod.toml")
    }

    fn start(&self) -> Running {
        Running::configured(&self.configuration(), "a.example")
    }

    /// Runs a command with the backups and the configuration behind it: its exit code, and what it said.
    fn run(&self, command: &[&str], more: &[&str]) -> (Option<i32>, String) {
        let mut allod = allod();
        allod.args(command).arg(self.backups()).arg("--config").arg(self.configuration()).args(more);
        let Output { status, stdout, stderr } = allod.output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// The same for one that succeeds.
    fn run_well(&self, command: &[&str]) -> String {
        let (code, said) = self.run(command, &[]);
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

/// Sends one request with a body that is no JSON, and returns the whole answer.
async fn exchange(address: &str, person: &Person, request: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: image/gif\r\nContent-Length: {}\r\n\r\n{body}",
        person.token,
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn texts(history: &[Value]) -> Vec<&str> {
    history.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

/// Sends messages until it is told to stop.
async fn chatter(address: String, person: Person, room: String, mut stop: oneshot::Receiver<()>) {
    let mut http = Http::new(&address);
    let mut number = 0;
    while stop.try_recv().is_err() {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/during{number}");
        let body = json!({ "msgtype": "m.text", "body": format!("during {number}") });
        http.send(&person, Method::PUT, &path, body).await.ok();
        number += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_backup_is_there_after_the_disaster() {
    let place = Place::new();
    let server = place.start();
    let mut http = Http::new(&server.address);
    let anna = http.register("anna").await;
    let room = http.send(&anna, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    let mut expected = Vec::new();
    for number in 0..MESSAGES {
        let text = format!("before {number}");
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
        http.send(&anna, Method::PUT, &path, json!({ "msgtype": "m.text", "body": text })).await.ok();
        expected.push(text);
    }
    let uploaded =
        exchange(&server.address, &anna, "POST /_matrix/media/v3/upload?filename=p.gif", PICTURE).await;
    let (_, uri) = uploaded.split_once("mxc://").unwrap_or_else(|| panic!("{uploaded}"));
    let picture = uri.split('"').next().unwrap().to_owned();
    let since = http.get(&anna, "/_matrix/client/v3/sync").await.ok()["next_batch"].clone();
    let key = fs::read(place.data().join("signing.key")).unwrap();

    let (stop, stopped) = oneshot::channel();
    let talk = chatter(server.address.clone(), anna.clone(), room.clone(), stopped);
    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    let talk = tokio::spawn(talk);
    assert!(place.run_well(&["backup", "create"]).starts_with("Made "));
    let second = place.run_well(&["backup", "create"]);
    assert!(second.contains(", of them new "), "{second}");
    stop.send(()).unwrap();
    talk.await.unwrap();
    server.kill();

    let verified = place.run_well(&["backup", "verify"]);
    assert!(verified.contains("are what was written, and 1 rooms are as they should be"), "{verified}");
    let (code, said) = place.run(&["restore"], &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("exists; move it away first"), "{said}");
    fs::remove_dir_all(place.data()).unwrap();
    assert!(place.run_well(&["restore"]).contains("Start the server now."));

    let server = place.start();
    let mut http = Http::new(&server.address);
    let history = http.history(&anna, &room).await;
    let texts = texts(&history);
    assert_eq!(texts[..MESSAGES], expected, "in their order, each once");
    let during = texts[MESSAGES..].iter().enumerate();
    assert!(during.clone().all(|(number, text)| *text == format!("during {number}")), "{texts:?}");
    let path = format!("GET /_matrix/client/v1/media/download/{picture}");
    assert!(exchange(&server.address, &anna, &path, "").await.ends_with(PICTURE));
    assert_eq!(fs::read(place.data().join("signing.key")).unwrap(), key);
    let path = format!("/_matrix/client/v3/sync?since={}", since.as_str().unwrap());
    let synced = http.get(&anna, &path).await.ok();
    assert!(synced["rooms"]["join"][&room].is_object(), "an old token gets everything anew: {synced}");
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/after");
    http.send(&anna, Method::PUT, &path, json!({ "msgtype": "m.text", "body": "after" })).await.ok();
    assert!(place.run(&["restore"], &[]).1.contains("stop it first"));
    server.stop();
    place.run_checked(&["fsck"]);
}

/// A bridge that is down has something waiting for it; opening a copy to verify it does not send it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verifying_a_backup_sends_nothing() {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registration = place.folder.path().join("bridge.yaml");
    let text = format!(
        "id: bridge\nurl: http://{port}\nas_token: a\nhs_token: h\nsender_localpart: bridge\n\
         namespaces: {{ users: [{{ exclusive: false, regex: '@anna:.*' }}] }}\n"
    );
    fs::write(&registration, text).unwrap();
    fs::set_permissions(&registration, fs::Permissions::from_mode(0o600)).unwrap();
    let configuration = fs::read_to_string(place.configuration()).unwrap();
    let section = format!("[appservices]\nregistrations = [\"{}\"]\n", registration.display());
    fs::write(place.configuration(), configuration + &section).unwrap();
    let server = place.start();
    let mut http = Http::new(&server.address);
    let anna = http.register("anna").await;
    http.send(&anna, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    place.run_well(&["backup", "create"]);
    server.kill();

    let bridge = TcpListener::bind(port).unwrap();
    bridge.set_nonblocking(true).unwrap();
    place.run_well(&["backup", "verify"]);
    assert!(bridge.accept().is_err(), "the copy spoke to the bridge");
    // There was something to send: the server itself does so when it comes back.
    let server = place.start();
    bridge.set_nonblocking(false).unwrap();
    bridge.accept().unwrap();
    server.kill();
}

#[test]
fn a_damaged_backup_is_refused_and_says_which_part() {
    let place = Place::new();
    place.start().stop();
    place.run_well(&["backup", "create"]);
    fs::remove_dir_all(place.data()).unwrap();
    let object = largest(&place.backups().join("objects"));
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    for command in [&["backup", "verify"][..], &["restore"]] {
        let (code, said) = place.run(command, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is not what was written"), "{said}");
        assert!(said.contains("database/") || said.contains("allod.toml"), "{said}");
    }
    assert!(!place.data().join("database").exists());
    let (code, said) = place.run(&["backup", "verify"], &["--snapshot", "20000101T000000Z"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("allod backup list"), "{said}");
}

impl Place {
    /// Runs a command that wants no folder of backups.
    fn run_checked(&self, command: &[&str]) {
        let output = allod().args(command).arg("--config").arg(self.configuration()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn largest(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.map(|path| if path.is_dir() { largest(&path) } else { path });
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}
