//! Invitations and who does not want them, by address too; guests; versions of rooms.

use allod_server::{config::Accounts, tables::accounts::AccountKind};
use http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::Base64,
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp, config};

struct World {
    server: TestApp,
    alice: String,
    bob: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    World { server, alice, bob }
}

impl World {
    async fn set(&self, kind: &str, content: &Value) {
        let path = format!("/_matrix/client/v3/user/@alice:example.org/account_data/{kind}");
        let answer = self.server.call_as(&self.alice, Method::PUT, &path, content.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    async fn create(&self, body: Value) -> Answer {
        let path = "/_matrix/client/v3/createRoom";
        self.server.call_as(&self.bob, Method::POST, path, body.to_string()).await
    }

    async fn room(&self) -> String {
        self.create(json!({})).await.json()["room_id"].as_str().unwrap().to_owned()
    }

    async fn invite(&self, room: &str) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{room}/invite");
        let body = json!({ "user_id": "@alice:example.org" }).to_string();
        self.server.call_as(&self.bob, Method::POST, &path, body).await
    }

    async fn shown_invites(&self) -> Vec<String> {
        let sync = self.server.call_as(&self.alice, Method::GET, "/_matrix/client/v3/sync", "").await.json();
        let invites = sync["rooms"]["invite"].as_object().cloned().unwrap_or_default();
        invites.into_iter().map(|(room, _)| room).collect()
    }
}

#[tokio::test]
async fn invitations_are_blocked_as_the_invited_user_wishes() {
    let world = world().await;
    let (first, second) = (world.room().await, world.room().await);
    assert_eq!(world.invite(&first).await.status, 200);
    assert_eq!(world.shown_invites().await, std::slice::from_ref(&first));
    let blocked = (403, "M_INVITE_BLOCKED".to_owned());
    for (kind, content) in [
        ("m.invite_permission_config", json!({ "default_action": "block" })),
        ("org.matrix.msc4155.invite_permission_config", json!({ "blocked_users": ["@b?b:*"] })),
        ("org.matrix.msc4155.invite_permission_config", json!({ "blocked_servers": ["*.org"] })),
    ] {
        world.set(kind, &content).await;
        assert_eq!(world.invite(&second).await.error(), blocked, "{content}");
        let invite = json!({ "invite": ["@alice:example.org"] });
        assert_eq!(world.create(invite).await.error(), blocked, "{content}");
        assert!(world.shown_invites().await.is_empty(), "also not those of before");
        world.set(kind, &json!({})).await;
    }
    assert_eq!(world.invite(&second).await.status, 200);
    assert_eq!(world.shown_invites().await.len(), 2);
}

#[tokio::test]
async fn invitations_that_are_ignored_are_made_and_not_shown() {
    let world = world().await;
    let room = world.room().await;
    let content = json!({ "ignored_users": ["@bob:example.org"], "blocked_servers": ["example.org"] });
    world.set("org.matrix.msc4155.invite_permission_config", &content).await;
    assert_eq!(world.invite(&room).await.status, 200);
    assert!(world.shown_invites().await.is_empty());
}

#[tokio::test]
async fn rooms_of_versions_that_are_not_served_are_not_created() {
    let world = world().await;
    for version in ["1", "2", "3", "5", "13", "org.example.test"] {
        let answer = world.create(json!({ "room_version": version })).await;
        assert_eq!(answer.error(), (400, "M_UNSUPPORTED_ROOM_VERSION".to_owned()), "{version}");
    }
    for version in ["6", "9", "12"] {
        assert_eq!(world.create(json!({ "room_version": version })).await.status, 200);
    }
}

impl World {
    async fn act(&self, token: &str, room: &str, action: &str, body: &Value) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{room}/{action}");
        self.server.call_as(token, Method::POST, &path, body.to_string()).await
    }

    async fn set_state(&self, room: &str, kind: &str, key: &str, content: &Value) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{room}/state/{kind}/{key}");
        self.server.call_as(&self.bob, Method::PUT, &path, content.to_string()).await
    }
}

#[tokio::test]
async fn who_proves_their_address_joins_by_its_invitation() {
    let world = world().await;
    let room = world.room().await;
    let key = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "0".to_owned()).unwrap();
    let public_key = Base64::<ruma::serde::base64::Standard, _>::new(key.public_key().to_vec()).encode();
    let pending = json!({
        "display_name": "a...@example.org",
        "key_validity_url": "https://id.example/valid",
        "public_key": public_key,
        "public_keys": [{ "public_key": public_key }],
    });
    let answer = world.set_state(&room, "m.room.third_party_invite", "secret", &pending).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let signed = |mxid: &str, token: &str| {
        let signed = json!({ "mxid": mxid, "sender": "@bob:example.org", "token": token });
        let mut signed: CanonicalJsonObject = serde_json::from_value(signed).unwrap();
        sign_json("id.example", &key, &mut signed).unwrap();
        serde_json::to_value(signed).unwrap()
    };
    let join = async |signed: &Value| {
        world.act(&world.alice, &room, "join", &json!({ "third_party_signed": signed })).await
    };
    let forbidden = (403, "M_FORBIDDEN".to_owned());
    assert_eq!(join(&signed("@eve:example.org", "secret")).await.error(), forbidden);
    assert_eq!(join(&signed("@alice:example.org", "other")).await.error(), forbidden);
    let mut forged = signed("@eve:example.org", "secret");
    forged["mxid"] = "@alice:example.org".into();
    assert_eq!(join(&forged).await.error(), forbidden);
    assert_eq!(world.act(&world.alice, &room, "join", &json!({})).await.error(), forbidden);
    let answer = join(&signed("@alice:example.org", "secret")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=20");
    let page = world.server.call_as(&world.bob, Method::GET, &path, "").await.json();
    let invite = page["chunk"].as_array().unwrap().iter();
    let invite = invite.filter(|event| event["content"]["membership"] == "invite").collect::<Vec<_>>();
    assert_eq!(invite.len(), 1);
    assert_eq!(invite[0]["sender"], "@bob:example.org");
    let proof = &invite[0]["content"]["third_party_invite"];
    assert_eq!(
        (&proof["display_name"], &proof["signed"]["token"]),
        (&json!("a...@example.org"), &json!("secret"))
    );
}

#[tokio::test]
async fn addresses_are_not_invited_without_an_identity_server() {
    let world = world().await;
    let room = world.room().await;
    let address = json!({
        "id_server": "id.example", "id_access_token": "x", "medium": "email", "address": "a@example.org",
    });
    let denied = (400, "M_THREEPID_DENIED".to_owned());
    assert_eq!(world.act(&world.bob, &room, "invite", &address).await.error(), denied);
    assert_eq!(world.create(json!({ "invite_3pid": [address] })).await.error(), denied);
}

#[tokio::test]
async fn guests_leave_when_a_room_no_longer_lets_them_in() {
    let mut config = config();
    config.accounts = Accounts { guests: true, ..config.accounts };
    let server = TestApp::with(config, crate::router::build).await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let guest = server.sign_in("@1:example.org", |account| account.kind = AccountKind::Guest).await;
    let world = World { server, alice, bob };
    let room = world.create(json!({ "preset": "public_chat" })).await.json();
    let room = room["room_id"].as_str().unwrap().to_owned();
    let open = json!({ "guest_access": "can_join" });
    assert_eq!(world.set_state(&room, "m.room.guest_access", "", &open).await.status, 200);
    for token in [&world.alice, &guest] {
        assert_eq!(world.act(token, &room, "join", &json!({})).await.status, 200);
    }
    let closed = json!({ "guest_access": "forbidden" });
    assert_eq!(world.set_state(&room, "m.room.guest_access", "", &closed).await.status, 200);
    let members = async || {
        let path = format!("/_matrix/client/v3/rooms/{room}/joined_members");
        let members = world.server.call_as(&world.bob, Method::GET, &path, "").await.json();
        members["joined"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    while members().await.len() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(members().await, ["@alice:example.org", "@bob:example.org"]);
    let again = world.act(&guest, &room, "join", &json!({})).await;
    assert_eq!(again.error(), (403, "M_GUEST_ACCESS_FORBIDDEN".to_owned()));
}
