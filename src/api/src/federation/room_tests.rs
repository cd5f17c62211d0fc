//! A user of a partner server in a room of this one, over HTTP.

use allod_server::config::FederationMode;
use http::{Method, StatusCode};
use ruma::{CanonicalJsonObject, RoomVersionId, signatures};
use serde_json::{Value, json};

use super::testing::Peer;
use crate::{
    router,
    testing::{TestApp, config},
};

async fn app() -> TestApp {
    let mut config = config();
    config.federation.mode = FederationMode::Open;
    TestApp::with(config, router::build).await
}

const DAN: &str = "@dan:partner.test";

impl Peer {
    /// Hashes and signs an event; it and its id.
    fn finish(&self, event: &Value, version: &RoomVersionId) -> (String, String) {
        let rules = version.rules().unwrap();
        let mut object: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
        let (name, key) = (self.identity.server_name().as_str(), self.identity.key());
        signatures::hash_and_sign_event(name, key, &mut object, &rules.redaction).unwrap();
        let event_id = format!("${}", signatures::reference_hash(&object, &rules).unwrap());
        (serde_json::to_string(&object).unwrap(), event_id)
    }
}

/// A room of `@alice:example.org`, by its id, and her token.
async fn room(server: &TestApp, body: &Value) -> (String, String) {
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let made = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", body.to_string()).await;
    (made.json()["room_id"].as_str().unwrap().to_owned(), alice)
}

async fn join(server: &TestApp, peer: &Peer, room_id: &str, version: &RoomVersionId) -> Value {
    let path = format!("/_matrix/federation/v1/make_join/{room_id}/{DAN}?ver={version}");
    let template = peer.call(server, Method::GET, &path, "").await;
    assert_eq!(template.status, StatusCode::OK, "{}", template.text);
    let template = template.json();
    assert_eq!(template["room_version"], json!(version));
    let (event, event_id) = peer.finish(&template["event"], version);
    let path = format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}");
    let joined = peer.call(server, Method::PUT, &path, &event).await;
    assert_eq!(joined.status, StatusCode::OK, "{}", joined.text);
    joined.json()
}

/// What a member's server may read, and a stranger's may not.
async fn they_read_and_strangers_do_not(server: &TestApp, peer: &Peer, room_id: &str, hello_id: &str) {
    let stranger = Peer::of(server, "stranger.test").await;
    for (path, key) in [
        (format!("event/{hello_id}"), "pdus"),
        (format!("state/{room_id}?event_id={hello_id}"), "pdus"),
        (format!("state_ids/{room_id}?event_id={hello_id}"), "pdu_ids"),
        (format!("event_auth/{room_id}/{hello_id}"), "auth_chain"),
        (format!("backfill/{room_id}?v={hello_id}&limit=10"), "pdus"),
        (format!("timestamp_to_event/{room_id}?ts=0&dir=f"), "event_id"),
        (format!("make_leave/{room_id}/{DAN}"), "event"),
    ] {
        let path = format!("/_matrix/federation/v1/{path}");
        let read = peer.call(server, Method::GET, &path, "").await;
        assert_eq!(read.status, StatusCode::OK, "{path}: {}", read.text);
        assert!(!read.json()[key].is_null(), "{path}: {}", read.text);
        let refused = stranger.call(server, Method::GET, &path, "").await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path}: {}", refused.text);
    }
    let missing = json!({ "earliest_events": [], "latest_events": [hello_id], "limit": 3, "min_depth": 0 });
    let path = format!("/_matrix/federation/v1/get_missing_events/{room_id}");
    let read = peer.call(server, Method::POST, &path, &missing.to_string()).await;
    assert_eq!(read.json()["events"].as_array().unwrap().len(), 3, "{}", read.text);
}

#[tokio::test]
async fn a_user_of_a_partner_joins_and_takes_part() {
    for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let server = app().await;
        let peer = Peer::of(&server, "partner.test").await;
        let body = json!({ "preset": "public_chat", "room_version": version, "name": "Open" });
        let (room_id, alice) = room(&server, &body).await;
        let joined = join(&server, &peer, &room_id, &version).await;
        let kinds: Vec<&str> =
            joined["state"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert!(kinds.contains(&"m.room.create") && kinds.contains(&"m.room.name"), "{kinds:?}");
        assert!(!joined["members_omitted"].as_bool().unwrap_or_default());

        // Their next event follows the join.
        let (member, member_id) = (joined["event"].clone(), {
            let rules = version.rules().unwrap();
            let object: CanonicalJsonObject = serde_json::from_value(joined["event"].clone()).unwrap();
            format!("${}", signatures::reference_hash(&object, &rules).unwrap())
        });
        let mut cited = member["auth_events"].as_array().unwrap().clone();
        cited.retain(|id| {
            let of_join_rules = joined["state"].as_array().unwrap().iter().find(|event| {
                let object: CanonicalJsonObject = serde_json::from_value((*event).clone()).unwrap();
                let hash = signatures::reference_hash(&object, &version.rules().unwrap()).unwrap();
                event["type"] == "m.room.join_rules" && json!(format!("${hash}")) == *id
            });
            of_join_rules.is_none()
        });
        cited.push(json!(member_id));
        let hello = json!({
            "type": "m.room.message", "room_id": room_id, "sender": DAN,
            "content": { "msgtype": "m.text", "body": "hello" }, "origin_server_ts": 1_700_000_000_500_u64,
            "depth": member["depth"].as_u64().unwrap() + 1, "prev_events": [member_id], "auth_events": cited,
        });
        let (hello, hello_id) = peer.finish(&hello, &version);
        let transaction = format!(
            r#"{{"origin":"partner.test","origin_server_ts":5,"pdus":[{hello}],"edus":[{}]}}"#,
            json!({ "edu_type": "m.typing", "content": { "room_id": room_id, "user_id": DAN, "typing": true } })
        );
        let sent = peer.call(&server, Method::PUT, "/_matrix/federation/v1/send/1", &transaction).await;
        assert_eq!(sent.json()["pdus"], json!({ &hello_id: {} }), "{version}: {}", sent.text);
        server.app.inbound.as_ref().unwrap().idle().await;
        let path = format!("/_matrix/client/v3/rooms/{room_id}/messages?dir=b&limit=2");
        let seen = server.call_as(&alice, Method::GET, &path, "").await.json();
        assert_eq!(seen["chunk"][0]["event_id"], json!(hello_id), "{version}");
        assert_eq!(seen["chunk"][1]["state_key"], json!(DAN));
        let sync = server.call_as(&alice, Method::GET, "/_matrix/client/v3/sync", "").await.json();
        let typing = &sync["rooms"]["join"][&room_id]["ephemeral"]["events"][0]["content"]["user_ids"];
        assert_eq!(*typing, json!([DAN]));

        they_read_and_strangers_do_not(&server, &peer, &room_id, &hello_id).await;

        // They leave, and read no more.
        let path = format!("/_matrix/federation/v1/make_leave/{room_id}/{DAN}");
        let template = peer.call(&server, Method::GET, &path, "").await.json();
        let (event, event_id) = peer.finish(&template["event"], &version);
        let path = format!("/_matrix/federation/v2/send_leave/{room_id}/{event_id}");
        let left = peer.call(&server, Method::PUT, &path, &event).await;
        assert_eq!((left.status, left.json()), (StatusCode::OK, json!({})));
        let path = format!("/_matrix/federation/v1/event/{hello_id}");
        assert_eq!(peer.call(&server, Method::GET, &path, "").await.status, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn joins_are_refused_with_the_errcodes_of_the_specification() {
    let server = app().await;
    let peer = Peer::of(&server, "partner.test").await;
    let (closed, alice) = room(&server, &json!({ "preset": "private_chat" })).await;
    let make = async |room_id: &str, user: &str, versions: &str| {
        let path = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?{versions}");
        let answer = peer.call(&server, Method::GET, &path, "").await;
        (answer.status.as_u16(), answer.json())
    };
    let versions = "ver=10&ver=11&ver=12";
    let (status, error) = make(&closed, DAN, versions).await;
    assert_eq!((status, &error["errcode"]), (403, &json!("M_FORBIDDEN")));
    let (status, error) = make(&closed, "@dan:other.test", versions).await;
    assert_eq!((status, &error["errcode"]), (403, &json!("M_FORBIDDEN")));
    let (status, error) = make(&closed, DAN, "ver=6").await;
    assert_eq!((status, &error["errcode"]), (400, &json!("M_INCOMPATIBLE_ROOM_VERSION")));
    assert_eq!(error["room_version"], json!("12"));
    let (status, error) = make("!nowhere:example.org", DAN, versions).await;
    assert_eq!((status, &error["errcode"]), (404, &json!("M_NOT_FOUND")));

    // A room for the members of another one.
    let (club, _) = room(&server, &json!({ "preset": "public_chat", "room_version": "12" })).await;
    let restricted = async |allow: &str| {
        let rules = json!({
            "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": allow }],
        });
        let body = json!({
            "room_version": "12",
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rules }],
        });
        let path = "/_matrix/client/v3/createRoom";
        let made = server.call_as(&alice, Method::POST, path, body.to_string()).await.json();
        made["room_id"].as_str().unwrap().to_owned()
    };
    let unknown = restricted("!unknown:elsewhere.test").await;
    let (status, error) = make(&unknown, DAN, versions).await;
    assert_eq!((status, &error["errcode"]), (400, &json!("M_UNABLE_TO_AUTHORISE_JOIN")));
    let for_club = restricted(&club).await;
    let (status, error) = make(&for_club, DAN, versions).await;
    assert_eq!((status, &error["errcode"]), (403, &json!("M_FORBIDDEN")));
    let version = RoomVersionId::V12;
    join(&server, &peer, &club, &version).await;
    let joined = join(&server, &peer, &for_club, &version).await;
    let event = &joined["event"];
    assert_eq!(event["content"]["join_authorised_via_users_server"], json!("@alice:example.org"));
    assert!(
        event["signatures"]["example.org"].is_object() && event["signatures"]["partner.test"].is_object()
    );
}

/// Members are left out of a joining server's state if it asks for that.
#[tokio::test]
async fn members_are_omitted_on_request() {
    let server = app().await;
    let peer = Peer::of(&server, "partner.test").await;
    let version = RoomVersionId::V11;
    let body = json!({ "preset": "public_chat", "room_version": version, "name": "Named" });
    let (room_id, _) = room(&server, &body).await;
    let path = format!("/_matrix/federation/v1/make_join/{room_id}/{DAN}?ver=11");
    let template = peer.call(&server, Method::GET, &path, "").await.json();
    let (event, event_id) = peer.finish(&template["event"], &version);
    let path = format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}?omit_members=true");
    let joined = peer.call(&server, Method::PUT, &path, &event).await.json();
    assert_eq!(joined["members_omitted"], json!(true));
    assert_eq!(joined["servers_in_room"], json!(["example.org"]));
    let kinds = |key: &str| {
        let events = joined[key].as_array().unwrap().iter();
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(!kinds("state").contains(&"m.room.member".to_owned()));
    assert!(kinds("auth_chain").contains(&"m.room.member".to_owned()), "the creator's join allows the rest");
}

#[tokio::test]
async fn files_attached_to_an_event_are_for_servers_in_its_room() {
    let server = app().await;
    let (peer, stranger) =
        (Peer::of(&server, "partner.test").await, Peer::of(&server, "stranger.test").await);
    let version = RoomVersionId::V12;
    let (room_id, alice) = room(&server, &json!({ "preset": "public_chat", "room_version": version })).await;
    join(&server, &peer, &room_id, &version).await;
    let upload = "/_matrix/client/unstable/org.matrix.msc3911/media/upload";
    let uploaded = server.call_as(&alice, Method::POST, upload, "for the room").await.json();
    let uri = uploaded["content_uri"].as_str().unwrap();
    let file = uri.rsplit('/').next().unwrap();
    let path = format!("/_matrix/federation/v1/media/download/{file}");
    assert_eq!(peer.call(&server, Method::GET, &path, "").await.error(), (403, "M_UNAUTHORIZED".into()));

    let send = format!(
        "/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1?org.matrix.msc3911.attach_media={uri}"
    );
    let content = json!({ "msgtype": "m.file", "body": "a file", "url": uri });
    let sent = server.call_as(&alice, Method::PUT, &send, content.to_string()).await.json();
    let event_id = sent["event_id"].as_str().unwrap();
    let answer = peer.call(&server, Method::GET, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let restrictions = json!({ "org.matrix.msc3911.restrictions": { "event_id": event_id } });
    let expected = format!("Content-Type: application/json\r\n\r\n{restrictions}\r\n--");
    assert!(answer.text.contains(&expected) && answer.text.contains("for the room"), "{}", answer.text);
    assert_eq!(stranger.call(&server, Method::GET, &path, "").await.error(), (403, "M_UNAUTHORIZED".into()));
}
