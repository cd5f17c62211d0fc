//! That nothing leaves a server that talks to no other: every system call by which the process could reach another
//! machine is written down while a client does all that makes a server speak to others.

use std::{
    fs,
    io::Write,
    net::TcpListener as Listener,
    path::{Path, PathBuf},
};

use super::{
    person::{At, escaped},
    *,
};
use crate::running::{trace_ended, untraceable};

/// Another server, which must not be spoken to: it takes connections and answers none of them.
struct Unwanted {
    listener: Listener,
    name: String,
}

impl Unwanted {
    fn new() -> Self {
        let listener = Listener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let name = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        Self { listener, name }
    }

    fn was_spoken_to(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// What a server did while it was used.
struct Capture {
    /// Connections to others, and packets to them.
    outbound: Vec<String>,
    /// Sockets by which names are looked up or routes are asked for, and calls that would hide others.
    odd: Vec<String>,
    /// Whether there was anything to see.
    sockets: usize,
}

impl Capture {
    /// What a trace says; the server may look whether another one has its own sockets, which are in its folder.
    fn read(trace: &str, folder: &Path) -> Self {
        let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
            trace.lines().filter(|line| wanted(line)).map(str::to_owned).collect()
        };
        let own = format!("sun_path=\"{}/", folder.display());
        // A socket of a client that is answered has no address in its calls.
        let outbound = of(&|line| {
            let speaks =
                line.contains("connect(") || (line.contains("send") && line.contains("sa_family=AF_"));
            speaks && !line.contains(&own)
        });
        let odd = of(&|line| {
            let by_name =
                line.contains("socket(") && (line.contains("SOCK_DGRAM") || line.contains("SOCK_RAW"));
            by_name || line.contains("AF_NETLINK") || line.contains("io_uring_setup(")
        });
        Self { outbound, odd, sockets: of(&|line| line.contains("socket(AF_INET")).len() }
    }
}

/// Starts a server whose calls are captured, lets `work` use it, stops it, and returns what it did; none where
/// processes cannot be traced.
async fn captured(federation: &str, work: impl AsyncFnOnce(&Server)) -> Option<Capture> {
    if let Some(why) = untraceable() {
        let line =
            format!("capture of sockets: SKIPPED, no process can be traced here (needs strace): {why}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return None;
    }
    let authority = Authority::new();
    let mut server = Server::new(&authority, "localhost", &["localhost"], federation);
    let trace: PathBuf = server.folder.path().join("trace");
    let config = server.folder.path().join("allod.toml");
    server.running = Some(Running::traced(&config, &server.name, &trace));
    work(&server).await;
    server.running.take().unwrap().stop();
    assert!(trace_ended(&trace), "the tracer does not end");
    Some(Capture::read(&fs::read_to_string(trace).unwrap(), server.folder.path()))
}

/// What makes a server speak to another one, which has this name, or to a service of others there.
fn of_others(other: &str, here: &str) -> Vec<(Method, String, Value)> {
    let (carl, url) = (format!("@carl:{other}"), format!("http://{other}/"));
    let pusher = json!({
        "app_id": "test", "pushkey": "key", "kind": "http", "lang": "en", "app_display_name": "test",
        "device_display_name": "phone", "data": { "url": format!("https://{other}/_matrix/push/v1/notify") },
    });
    vec![
        (Method::POST, "v3/pushers/set".to_owned(), pusher),
        (Method::GET, format!("v3/profile/{carl}"), Value::Null),
        (Method::GET, format!("v3/profile/{carl}/displayname"), Value::Null),
        (Method::GET, format!("v3/directory/room/%23den:{other}"), Value::Null),
        (Method::GET, format!("v3/publicRooms?server={other}"), Value::Null),
        (Method::POST, format!("v3/publicRooms?server={other}"), json!({})),
        (Method::POST, format!("v3/join/%23den:{other}"), json!({})),
        (Method::POST, format!("v3/join/%21den:{other}?via={other}"), json!({})),
        (Method::POST, format!("v3/rooms/%21den:{other}/join"), json!({})),
        (Method::POST, format!("v3/knock/%23den:{other}"), json!({})),
        (Method::POST, format!("v3/knock/%21den:{other}?via={other}"), json!({})),
        (Method::POST, format!("v3/rooms/%21den:{other}/leave"), json!({})),
        (Method::GET, format!("v1/rooms/%21den:{other}/hierarchy"), Value::Null),
        (Method::GET, format!("v1/room_summary/%23den:{other}"), Value::Null),
        (Method::GET, format!("v1/room_summary/%21den:{other}?via={other}"), Value::Null),
        (Method::POST, "v3/keys/query".to_owned(), json!({ "device_keys": { carl.clone(): [] } })),
        (
            Method::POST,
            "v3/keys/claim".to_owned(),
            json!({ "one_time_keys": { carl.clone(): { "PHONE": "signed_curve25519" } } }),
        ),
        (
            Method::PUT,
            "v3/sendToDevice/m.test/1".to_owned(),
            json!({ "messages": { carl.clone(): { "*": { "n": 1 } } } }),
        ),
        (Method::GET, format!("v1/media/download/{other}/abc"), Value::Null),
        (Method::GET, format!("v1/media/thumbnail/{other}/abc?width=9&height=9"), Value::Null),
        (Method::GET, format!("v1/media/preview_url?url={url}"), Value::Null),
        (Method::POST, format!("v3/rooms/{here}/invite"), json!({ "user_id": carl })),
        (
            Method::POST,
            format!("v3/rooms/{here}/invite"),
            json!({ "id_server": other, "id_access_token": "x", "medium": "email", "address": "a@b.example" }),
        ),
        (Method::POST, "v3/createRoom".to_owned(), json!({ "invite": [carl] })),
        (
            Method::POST,
            "v3/account/3pid/email/requestToken".to_owned(),
            json!({ "client_secret": "s", "email": "a@b.example", "send_attempt": 1, "id_server": other }),
        ),
        (
            Method::POST,
            "v3/account/3pid/bind".to_owned(),
            json!({ "client_secret": "s", "id_server": other, "id_access_token": "x", "sid": "1" }),
        ),
        (Method::POST, "v3/user_directory/search".to_owned(), json!({ "search_term": carl })),
        (Method::GET, format!("v1/rooms/{here}/timestamp_to_event?ts=1"), Value::Null),
        (Method::GET, format!("v3/rooms/{here}/event/$missing"), Value::Null),
        (Method::GET, format!("v3/rooms/{here}/messages?dir=b"), Value::Null),
        (Method::GET, "v3/thirdparty/protocols".to_owned(), Value::Null),
    ]
}

/// Asks a server for all that would make it speak to these others, and uses it otherwise: what is its own must succeed,
/// and what is not must not be a failure of the server.
async fn ask_everything(server: &Server, others: &[&str]) {
    let mut anna = At::new(server, "anna").await;
    let mut bea = At::new(server, "bea").await;
    let room = anna.create(json!({ "preset": "public_chat", "room_alias_name": "here" })).await;
    for other in others {
        for (method, path, body) in of_others(other, &escaped(&room)) {
            anna.http.hang_up();
            let full = format!("/_matrix/client/{path}");
            let status = anna.http.send(&anna.person, method, &full, body).await.status;
            assert!(!status.is_server_error(), "{path}: {status}");
        }
        let space = anna.create(json!({ "creation_content": { "type": "m.space" } })).await;
        let child = format!("rooms/{}/state/m.space.child/%21den%3A{}", escaped(&space), escaped(other));
        anna.put(&child, json!({ "via": [other] })).await;
        anna.http.hang_up();
        let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", escaped(&space));
        anna.http.get(&anna.person, &path).await.ok();
    }
    use_it(&mut anna, &mut bea, &room).await;
}

/// What people do on their own server.
async fn use_it(anna: &mut At, bea: &mut At, room: &str) {
    let here = escaped(room);
    let via = escaped("#here:") + &escaped(anna.person.user_id.split_once(':').unwrap().1);
    bea.post(&format!("join/{via}"), json!({})).await;
    set_name(&mut anna.http, &anna.person.clone(), "Anna").await;
    let hello = bea.say(room, "hello, anna").await;
    anna.hears(room, "hello, anna").await;
    anna.post(&format!("rooms/{here}/receipt/m.read/{}", escaped(&hello)), json!({})).await;
    let typing = json!({ "typing": true, "timeout": 1000 });
    anna.put(&format!("rooms/{here}/typing/{}", anna.person.user_id), typing).await;
    anna.put(&format!("presence/{}/status", anna.person.user_id), json!({ "presence": "online" })).await;
    let path = "/_matrix/media/v3/upload";
    anna.http.hang_up();
    let sent = anna.http.send(&anna.person, Method::POST, path, json!({ "a": "file" })).await.ok();
    let path = sent["content_uri"].as_str().unwrap().replace("mxc://", "/_matrix/client/v1/media/download/");
    anna.http.hang_up();
    assert_eq!(anna.http.get(&anna.person, &path).await.ok(), json!({ "a": "file" }));
    anna.http.hang_up();
    anna.http.get(&anna.person, "/_matrix/client/v3/publicRooms").await.ok();
    anna.post("keys/query", json!({ "device_keys": { bea.person.user_id.clone(): [] } })).await;
    bea.post(&format!("rooms/{here}/leave"), json!({})).await;
    anna.sees_member(room, &bea.person.user_id.clone(), "leave").await;
}

const SILENT: &str = "[push]\nenabled = false";

/// The captures see what they are for: the same in a server that may speak to others.
#[tokio::test]
async fn a_capture_sees_a_server_that_speaks() {
    let other = Unwanted::new();
    let capture = captured("mode = \"open\"", async |server| {
        let mut anna = At::new(server, "anna").await;
        for name in [other.name.as_str(), "nowhere.invalid"] {
            let path = format!("/_matrix/client/v3/directory/room/%23den:{name}");
            // Whether it answers within the time of a request is not the question.
            let asked = anna.http.get(&anna.person, &path);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), asked).await;
            anna.http.hang_up();
        }
    });
    let Some(capture) = capture.await else { return };
    assert!(other.was_spoken_to());
    let port = other.name.split_once(':').unwrap().1;
    let connects = |line: &String| line.contains("connect(") && line.contains(&format!("htons({port})"));
    assert!(capture.outbound.iter().any(connects), "{:#?}", capture.outbound);
    assert!(capture.sockets > 0);
}

/// A whole session under this configuration, in which no request goes to another server and no name is looked up.
async fn nothing_leaves(federation: &str) {
    let other = Unwanted::new();
    let federation = format!("{federation}\n{SILENT}");
    let capture = captured(&federation, async |server| {
        ask_everything(server, &[&other.name, "other.example"]).await;
    });
    let Some(capture) = capture.await else { return };
    assert!(!other.was_spoken_to());
    assert_eq!(capture.outbound, Vec::<String>::new());
    assert_eq!(capture.odd, Vec::<String>::new());
    assert!(capture.sockets > 0, "the listeners are sockets too");
}

/// Mode `off`.
#[tokio::test]
async fn switched_off_nothing_leaves_the_process() {
    nothing_leaves("mode = \"off\"").await;
}

/// Mode `allow`, towards servers that are not listed.
#[tokio::test]
async fn servers_that_are_not_listed_are_not_spoken_to() {
    nothing_leaves("mode = \"allow\"\nallow = [\"partner.example\"]").await;
}
