//! Mail of the built program: over TLS, to a mail server that is there while the server is killed.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    authority::Authority,
    http::Http,
    push::acceptor,
    running::{Running, allod},
};

const ADDRESS: &str = "bob@mail.example";

/// What the mail server took: subjects, by Message-ID; and how often it was asked.
#[derive(Debug, Default)]
struct Post {
    asked: u32,
    taken: BTreeMap<String, Vec<String>>,
    texts: String,
}

type Mailbox = Arc<Mutex<Post>>;

/// A mail server; it ends when the set of its tasks is dropped.
async fn mail_server(folder: &Path, post: Mailbox) -> (u16, JoinSet<()>) {
    let acceptor = acceptor(folder);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(converse(acceptor.clone(), stream, Arc::clone(&post)));
        }
    });
    (port, tasks)
}

async fn converse(acceptor: TlsAcceptor, stream: TcpStream, post: Mailbox) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    // A server that is killed breaks off.
    let _ = speak(BufReader::new(stream), post).await;
}

async fn speak(mut stream: BufReader<TlsStream<TcpStream>>, post: Mailbox) -> std::io::Result<()> {
    let mut signed_in = false;
    stream.write_all(b"220 mail.example\r\n").await?;
    loop {
        stream.flush().await?;
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_owned();
        let answer = match command.split(' ').next().unwrap() {
            "EHLO" => "250-mail.example\r\n250 AUTH PLAIN",
            "AUTH" => {
                // "\0chat\0the password", in base64.
                signed_in = command == "AUTH PLAIN AGNoYXQAdGhlIHBhc3N3b3Jk";
                if signed_in { "235 welcome" } else { "535 no" }
            }
            "MAIL" if !signed_in => "530 who are you?",
            "MAIL" => {
                assert!(command.starts_with("MAIL FROM:<chat@localhost.example>"), "{command}");
                "250 ok"
            }
            "RCPT" => {
                assert_eq!(command, format!("RCPT TO:<{ADDRESS}>"));
                let mut post = post.lock().unwrap();
                post.asked += 1;
                // Not the first time, as mail servers have it that do not trust strangers.
                if post.asked == 1 { "451 later" } else { "250 ok" }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                stream.flush().await?;
                let text = data(&mut stream).await?;
                keep(&post, &text);
                "250 taken"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return stream.flush().await;
            }
            _ => "250 ok",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

async fn data(stream: &mut BufReader<TlsStream<TcpStream>>) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == ".\r\n" {
            return Ok(text);
        }
        text.push_str(&line);
    }
}

fn keep(post: &Mailbox, text: &str) {
    let header =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let (id, subject) = (header("Message-ID:"), header("Subject:"));
    let mut post = post.lock().unwrap();
    post.taken.entry(id).or_default().push(subject);
    post.texts.push_str(text);
}

/// How many messages mails told of, each mail once.
fn told(post: &Post) -> usize {
    post.taken.values().map(|subjects| subjects[0].split(' ').next().unwrap().parse::<usize>().unwrap()).sum()
}

fn configuration(folder: &Path, port: u16) -> String {
    let path = folder.display();
    format!(
        r#"
[server]
name = "localhost"
data_dir = "{path}/data"
[listeners]
client = ["127.0.0.1:0"]
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[limits]
rates = false
[federation]
certificate_authorities = ["{path}/authority.pem"]
[mail]
host = "localhost"
port = {port}
user = "chat"
password = "{path}/password"
from = "Chat <chat@localhost.example>"
delay = "1 s"
pause = "1 s"
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_tells_of_everything_once_over_sigkill() {
    const KILLS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    Authority::new().certify(folder.path(), &["localhost"]);
    let post = Mailbox::default();
    let (port, _mail_server) = mail_server(folder.path(), Arc::clone(&post)).await;
    let password = folder.path().join("password");
    fs::write(&password, "the password").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let file = folder.path().join("allod.toml");
    fs::write(&file, configuration(folder.path(), port)).unwrap();
    let mut server = Running::configured(&file, "localhost");
    let mut http = Http::new(&server.address);
    let (alice, bob) = (http.register("alice").await, http.register("bob").await);
    let room = json!({ "preset": "public_chat" });
    let room = http.send(&alice, Method::POST, "/_matrix/client/v3/createRoom", room).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    http.send(&bob, Method::POST, &format!("/_matrix/client/v3/join/{room}"), json!({})).await.ok();

    let pusher = json!({
        "pushkey": ADDRESS, "kind": "email", "app_id": "m.email", "app_display_name": "E-mail",
        "device_display_name": ADDRESS, "lang": "en", "data": {}, "append": true,
    });
    let set = "/_matrix/client/v3/pushers/set";
    let refused = http.send(&bob, Method::POST, set, pusher.clone()).await;
    assert_eq!(refused.refusal(), (400, "M_THREEPID_NOT_FOUND"));
    let socket = folder.path().join("data/admin.sock");
    let added =
        allod().args(["user", "add-address", "bob", ADDRESS, "--socket"]).arg(&socket).status().unwrap();
    assert!(added.success());
    let own = http.get(&bob, "/_matrix/client/v3/account/3pid").await.ok();
    assert_eq!(own["threepids"][0]["address"], ADDRESS);
    http.send(&bob, Method::POST, set, pusher).await.ok();
    let listed = http.get(&bob, "/_matrix/client/v3/pushers").await.ok();
    assert_eq!(listed["pushers"][0]["kind"], "email");

    let mut said = 0;
    for kill in 0..KILLS {
        for number in 0..5 {
            http.say(&alice, &room, &format!("{kill}.{number}"), "a secret").await.unwrap().ok();
            said += 1;
        }
        sleep(Duration::from_millis(900) * u32::try_from(kill).unwrap()).await;
        server.kill();
        server = Running::configured(&file, "localhost");
        http = Http::new(&server.address);
    }
    let arrive = async {
        while told(&post.lock().unwrap()) < said {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrive).await.is_ok();
    assert!(arrived, "{:?}", post.lock().unwrap());
    {
        let post = post.lock().unwrap();
        assert_eq!(told(&post), said, "{post:?}");
        // A mail that was taken at the moment of a kill is sent again with the same id, by which it is known.
        let doubled: usize = post.taken.values().map(|subjects| subjects.len() - 1).sum();
        assert!(doubled <= KILLS, "{post:?}");
        assert!(!post.texts.contains("secret"), "{post:?}");
    }
    server.stop();
}
