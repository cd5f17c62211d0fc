//! Two servers that talk to each other: the built program, over TLS, with certificates of an authority of their own.

use std::{fs, net::TcpListener, process::Stdio};

use allod_server::{identity::Identity, random::Random};
use axum::http::Method;
use ruma::{
    CanonicalJsonObject, OwnedServerName,
    serde::{Base64, base64::Standard},
    signatures::sign_json,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    authority::Authority,
    http::Http,
    running::{Running, allod},
    server::{Answer, Person},
};

mod faults;
mod person;
mod proxy;
mod room_deletion;
mod shared_rooms;
mod switched_off;

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
        let folder = tempfile::tempdir().unwrap();
        authority.certify(folder.path(), certified);
        let port = free_port();
        Self::named(folder, &format!("{host}:{port}"), port, federation)
    }

    /// A server of this name whose listener for others has another port: they reach it through something else.
    fn named(folder: TempDir, name: &str, port: u16, federation: &str) -> Self {
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
        Self { name: name.to_owned(), folder, running: None }
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
async fn files_are_fetched_from_the_server_that_has_them() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let rules = format!("mode = \"open\"\nrules = [{{ server = \"{}\", refuse = [\"media\"] }}]", one.name);
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let three = Server::new(&authority, "localhost", &["localhost"], &rules).started();
    let (mut at_one, mut at_two, mut at_three) = (one.client(), two.client(), three.client());
    let anna = at_one.register("anna").await;
    let (bea, cleo) = (at_two.register("bea").await, at_three.register("cleo").await);
    let content = json!({ "not": "a picture" });
    let uploaded = at_one.send(&anna, Method::POST, "/_matrix/media/v3/upload", content.clone()).await.ok();
    let path = |uri: &Value| uri.as_str().unwrap().replace("mxc://", "/_matrix/client/v1/media/download/");
    let path = path(&uploaded["content_uri"]);
    assert_eq!(at_two.get(&bea, &path).await.ok(), content);
    let (_, media_id) = path.rsplit_once('/').unwrap();
    let unknown = path.replace(media_id, "unknown");
    assert_eq!(at_two.get(&bea, &unknown).await.refusal(), (404, "M_NOT_FOUND"));
    assert_eq!(at_three.get(&cleo, &path).await.refusal(), (404, "M_NOT_FOUND"));
    let uploaded = at_three.send(&cleo, Method::POST, "/_matrix/media/v3/upload", content).await.ok();
    let path =
        uploaded["content_uri"].as_str().unwrap().replace("mxc://", "/_matrix/client/v1/media/download/");
    assert_eq!(at_one.get(&anna, &path).await.refusal(), (404, "M_NOT_FOUND"));
}

/// What `allod federation check` prints, and whether all was well.
fn check(of: &Server, server: &str) -> (bool, String) {
    let output = allod()
        .args(["federation", "check", server, "--config"])
        .arg(of.folder.path().join("allod.toml"))
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn the_way_to_a_server_is_checked_step_by_step() {
    let authority = Authority::new();
    let closed = "mode = \"allow\"\nallow = [\"partner.example\"]";
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let badly_certified =
        Server::new(&authority, "127.0.0.1", &["else.example"], "mode = \"open\"").started();
    let closed = Server::new(&authority, "localhost", &["localhost"], closed).started();
    let (well, said) = check(&two, &one.name);
    assert!(well, "{said}");
    let steps: Vec<&str> = said.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(
        steps[..5],
        ["ok    policy", "ok    discovery", "ok    connection", "ok    keys", "ok    signed request"]
    );
    for (from, to, step, advice) in [
        (&two, badly_certified.name.as_str(), "WRONG connection", "certificate"),
        (&two, "127.0.0.1:1", "WRONG connection", "firewalls"),
        (&two, "10.0.0.1:1", "WRONG discovery", "egress.allowed_networks"),
        (&two, closed.name.as_str(), "WRONG signed request", "its administrator"),
        (&closed, two.name.as_str(), "WRONG policy", "federation.allow"),
    ] {
        let (well, said) = check(from, to);
        assert!(!well && said.contains(step) && said.contains(advice), "{to}: {said}");
    }
}

#[tokio::test]
async fn a_new_signing_key_takes_the_place_of_the_one_before() {
    let authority = Authority::new();
    let mut one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let before = anonymous(&mut one.client(), "/_matrix/key/v2/server").await.ok();
    let mut rotate = allod();
    rotate.args(["federation", "rotate-key", "--config"]).arg(one.folder.path().join("allod.toml"));
    assert!(rotate.stdout(Stdio::null()).status().unwrap().success());
    one.running.take().unwrap().stop();
    one.start();
    let after = anonymous(&mut one.client(), "/_matrix/key/v2/server").await.ok();
    let names = |keys: &Value| keys.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_ne!(names(&before["verify_keys"]), names(&after["verify_keys"]));
    assert_eq!(names(&before["verify_keys"]), names(&after["old_verify_keys"]));
}

#[tokio::test]
async fn an_invitation_by_address_reaches_who_has_the_address() {
    let authority = Authority::new();
    let one = Server::new(&authority, "127.0.0.1", &["127.0.0.1"], "mode = \"open\"").started();
    let two = Server::new(&authority, "localhost", &["localhost"], "mode = \"open\"").started();
    let (mut at_one, mut at_two) = (one.client(), two.client());
    let (anna, bea) = (at_one.register("anna").await, at_two.register("bea").await);
    let room = at_one.send(&anna, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await.ok();
    let room_id = room["room_id"].as_str().unwrap();
    // What an identity server would do, and the inviter's client.
    let name: OwnedServerName = "identity.example".try_into().unwrap();
    let vouching = Identity::ephemeral(name, &Random::seeded(9)).unwrap();
    let key = Base64::<Standard, _>::new(vouching.key().public_key().to_vec()).encode();
    let url = "https://identity.example/isvalid";
    let pending = json!({
        "display_name": "b...@c...", "public_key": key, "key_validity_url": url,
        "public_keys": [{ "public_key": key, "key_validity_url": url }],
    });
    let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.third_party_invite/abc");
    at_one.send(&anna, Method::PUT, &path, pending).await.ok();
    let bound = |mxid: &str, token: &str| {
        let mut signed: CanonicalJsonObject =
            serde_json::from_value(json!({ "mxid": mxid, "token": token })).unwrap();
        sign_json("identity.example", vouching.key(), &mut signed).unwrap();
        let invite = json!({
            "medium": "email", "address": "bea@c.example", "mxid": bea.user_id, "room_id": room_id,
            "sender": anna.user_id, "signed": signed,
        });
        json!({ "medium": "email", "address": "bea@c.example", "mxid": bea.user_id, "invites": [invite] })
    };
    let onbind = "/_matrix/federation/v1/3pid/onbind";
    for (mxid, token) in [(anna.user_id.as_str(), "abc"), (bea.user_id.as_str(), "unknown")] {
        at_two.try_send(None, Method::PUT, onbind, &bound(mxid, token)).await.unwrap().ok();
        let synced = at_two.get(&bea, "/_matrix/client/v3/sync").await.ok();
        assert!(synced["rooms"]["invite"].get(room_id).is_none(), "{mxid} {token}");
    }
    at_two.try_send(None, Method::PUT, onbind, &bound(&bea.user_id, "abc")).await.unwrap().ok();
    let synced = at_two.get(&bea, "/_matrix/client/v3/sync").await.ok();
    assert!(synced["rooms"]["invite"].get(room_id).is_some(), "{synced}");
    at_two.send(&bea, Method::POST, &format!("/_matrix/client/v3/join/{room_id}"), json!({})).await.ok();
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
