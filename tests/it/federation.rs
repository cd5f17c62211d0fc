//! Two servers that talk to each other: the built program, over TLS, with certificates of an authority of their own.

use std::{fs, net::TcpListener};

use axum::http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    http::Http,
    running::Running,
    server::{Answer, Person},
};

/// A server and its client.
struct Server {
    name: String,
    folder: TempDir,
    running: Option<Running>,
}

/// A port that nothing listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// A server of this host, not started; `federation` is that section of its configuration.
    fn new(authority: &Authority, host: &str, certified: &[&str], federation: &str) -> Self {
        let port = free_port();
        let name = format!("{host}:{port}");
        let folder = tempfile::tempdir().unwrap();
        authority.certify(folder.path(), certified);
        let path = folder.path().display();
        let config = format!(
            r#"
[server]
name = "{name}"
data_dir = "{path}/data"
[listeners]
client = ["127.0.0.1:0"]
federation = ["127.0.0.1:{port}"]
certificate = "{path}/certificate.pem"
certificate_key = "{path}/certificate.key"
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[limits]
rates = false
[rooms]
publish = "everyone"
[egress]
allowed_networks = ["127.0.0.0/8", "::1"]
[federation]
certificate_authorities = ["{path}/authority.pem"]
{federation}
"#
        );
        fs::write(folder.path().join("allod.toml"), config).unwrap();
        Self { name, folder, running: None }
    }

    fn started(mut self) -> Self {
        self.start();
        self
    }

    fn start(&mut self) {
        self.running = Some(Running::configured(&self.folder.path().join("allod.toml"), &self.name));
    }

    fn client(&self) -> Http {
        Http::new(&self.running.as_ref().unwrap().address)
    }
}

async fn anonymous(http: &mut Http, path: &str) -> Answer {
    http.try_send(None, Method::GET, path, &Value::Null).await.unwrap()
}

async fn set_name(http: &mut Http, person: &Person, name: &str) {
    let path = format!("/_matrix/client/v3/profile/{}/displayname", person.user_id);
    http.send(person, Method::PUT, &path, json!({ "displayname": name })).await.ok();
}

#[tokio::test]
async fn servers_read_keys_and_ask_signed_questions() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (mut at_one, mut at_two) = (one.client(), two.client());
    let (anna, bea) = (at_one.register("anna").await, at_two.register("bea").await);
    set_name(&mut at_one, &anna, "Anna").await;

    let keys = anonymous(&mut at_one, &format!("/_matrix/key/v2/query/{}", two.name)).await.ok();
    assert_eq!(keys["server_keys"][0]["server_name"], two.name.as_str());

    let profile = at_two.get(&bea, &format!("/_matrix/client/v3/profile/{}", anna.user_id)).await.ok();
    assert_eq!(profile, json!({ "displayname": "Anna" }));
    let path = format!("/_matrix/client/v3/profile/@nobody:{}", one.name);
    assert_eq!(at_two.get(&bea, &path).await.refusal(), (404, "M_NOT_FOUND"));

    let room = json!({ "room_alias_name": "den", "visibility": "public", "name": "The den" });
    let room = at_one.send(&anna, Method::POST, "/_matrix/client/v3/createRoom", room).await.ok();
    let path = format!("/_matrix/client/v3/directory/room/%23den:{}", one.name);
    let found = at_two.get(&bea, &path).await.ok();
    assert_eq!((&found["room_id"], &found["servers"]), (&room["room_id"], &json!([one.name])));
    let rooms = at_two.get(&bea, &format!("/_matrix/client/v3/publicRooms?server={}", one.name)).await.ok();
    assert!(rooms["chunk"].is_array(), "{rooms}");

    let gone = format!("@gone:127.0.0.1:{}", free_port());
    let wanted = json!({ "device_keys": { anna.user_id.clone(): [], gone.clone(): [] } });
    let found = at_two.send(&bea, Method::POST, "/_matrix/client/v3/keys/query", wanted).await.ok();
    assert_eq!(found["device_keys"], json!({ anna.user_id: {} }));
    assert!(found["failures"].get(gone.split_once(':').unwrap().1).is_some(), "{found}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["else.example"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let mut at_two = two.client();
    let path = format!("/_matrix/client/v3/profile/@anna:{}", one.name);
    assert_eq!(anonymous(&mut at_two, &path).await.status, 502);
    let keys = anonymous(&mut at_two, &format!("/_matrix/key/v2/query/{}", one.name)).await.ok();
    assert_eq!(keys["server_keys"], json!([]));
}

#[tokio::test]
async fn servers_that_are_not_listed_stay_outside() {
    let authority = Authority::new();
    let closed = "mode = \"allow\"\nallow = [\"partner.example\"]";
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], closed).started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (mut at_one, mut at_two) = (one.client(), two.client());
    let path = |server: &Server| format!("/_matrix/client/v3/profile/@anna:{}", server.name);
    assert_eq!(anonymous(&mut at_one, &path(&two)).await.refusal(), (403, "M_FORBIDDEN"));
    assert_eq!(anonymous(&mut at_two, &path(&one)).await.refusal(), (403, "M_FORBIDDEN"));

    let three = Server::new(&authority, "localhost", &["localhost"], "mode = \"off\"").started();
    let mut at_three = three.client();
    let keys = anonymous(&mut at_three, "/_matrix/key/v2/server").await;
    assert_eq!(keys.refusal(), (404, "M_UNRECOGNIZED"));
    assert_eq!(anonymous(&mut at_three, &path(&two)).await.refusal(), (404, "M_NOT_FOUND"));
    assert_eq!(anonymous(&mut at_two, &path(&three)).await.status, 502);
}
