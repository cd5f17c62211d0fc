//! Invitations by a partner server.

use allod_server::config::FederationMode;
use http::{Method, StatusCode};
use ruma::{CanonicalJsonObject, RoomVersionId, signatures};
use serde_json::{Value, json};

use super::testing::Peer;
use crate::{
    router,
    testing::{Answer, TestApp, config},
};

const DAN: &str = "@dan:partner.test";
const ALICE: &str = "@alice:example.org";
const ROOM: &str = "!far:partner.test";

async fn app() -> (TestApp, Peer, String) {
    let mut config = config();
    config.federation.mode = FederationMode::Open;
    let server = TestApp::with(config, router::build).await;
    let peer = Peer::of(&server, "partner.test").await;
    let alice = server.sign_in(ALICE, |_| {}).await;
    (server, peer, alice)
}

fn event() -> Value {
    json!({
        "type": "m.room.member", "room_id": ROOM, "sender": DAN, "state_key": ALICE, "depth": 5,
        "content": { "membership": "invite" }, "origin_server_ts": 1_700_000_000_000_u64,
        "prev_events": ["$prev"], "auth_events": ["$create", "$member"],
    })
}

fn sign(peer: &Peer, event: Value) -> (Value, String) {
    let rules = RoomVersionId::V11.rules().unwrap();
    let mut object: CanonicalJsonObject = serde_json::from_value(event).unwrap();
    let (name, key) = (peer.identity.server_name().as_str(), peer.identity.key());
    signatures::hash_and_sign_event(name, key, &mut object, &rules.redaction).unwrap();
    let event_id = format!("${}", signatures::reference_hash(&object, &rules).unwrap());
    (serde_json::to_value(&object).unwrap(), event_id)
}

async fn invite(server: &TestApp, peer: &Peer, event: &Value, event_id: &str, state: &Value) -> Answer {
    let body = json!({ "event": event, "room_version": "11", "invite_room_state": state });
    let path = format!("/_matrix/federation/v2/invite/{ROOM}/{event_id}");
    peer.call(server, Method::PUT, &path, &body.to_string()).await
}

async fn invites(server: &TestApp, token: &str) -> Value {
    let sync = server.call_as(token, Method::GET, "/_matrix/client/v3/sync", "").await;
    assert_eq!(sync.status, StatusCode::OK, "{}", sync.text);
    sync.json()["rooms"]["invite"].clone()
}

#[tokio::test]
async fn an_invitation_is_signed_and_shown_and_taken_back() {
    let (server, peer, alice) = app().await;
    let (event, event_id) = sign(&peer, event());
    let name = json!({ "type": "m.room.name", "state_key": "", "sender": DAN, "content": { "name": "Far" } });
    let answer = invite(&server, &peer, &event, &event_id, &json!([name])).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let signed = answer.json()["event"].clone();
    assert!(
        signed["signatures"]["example.org"].is_object() && signed["signatures"]["partner.test"].is_object()
    );
    let shown = invites(&server, &alice).await;
    assert!(shown[ROOM]["invite_state"]["events"].as_array().unwrap().contains(&name), "{shown}");

    // Another server has no say in it; the one that invited takes it back.
    let mut leave = event.clone();
    leave["content"] = json!({ "membership": "leave" });
    for key in ["signatures", "hashes"] {
        leave.as_object_mut().unwrap().remove(key);
    }
    let (leave, _) = sign(&peer, leave);
    let transaction =
        json!({ "origin": "x", "origin_server_ts": 5, "pdus": [leave], "edus": [] }).to_string();
    let other = Peer::of(&server, "other.test").await;
    for (who, remains) in [(&other, true), (&peer, false)] {
        let path = "/_matrix/federation/v1/send/1";
        assert_eq!(who.call(&server, Method::PUT, path, &transaction).await.status, StatusCode::OK);
        assert_eq!(!invites(&server, &alice).await[ROOM].is_null(), remains);
    }
}

/// CVE-2025-68667: the invite endpoint signed whatever it was given.
#[tokio::test]
async fn cve_2025_68667_only_invitations_of_own_users_are_signed() {
    let (server, peer, alice) = app().await;
    for (field, value) in [
        ("type", json!("m.room.power_levels")),
        ("content", json!({ "membership": "join" })),
        ("content", json!({})),
        ("state_key", json!("@alice:elsewhere.test")),
        ("state_key", json!("")),
        ("sender", json!("@dan:elsewhere.test")),
        ("sender", json!(ALICE)),
        ("room_id", json!("!another:partner.test")),
    ] {
        let mut bad = event();
        bad[field] = value;
        let (bad, event_id) = sign(&peer, bad);
        let answer = invite(&server, &peer, &bad, &event_id, &json!([])).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}: {}", answer.text);
        assert!(!answer.text.contains("signatures"));
    }
    let (good, event_id) = sign(&peer, event());
    let answer = invite(&server, &peer, &good, "$another", &json!([])).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!({});
    let answer = invite(&server, &peer, &unsigned, &event_id, &json!([])).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let mut nobody = event();
    nobody["state_key"] = json!("@nobody:example.org");
    let (nobody, event_id) = sign(&peer, nobody);
    let answer = invite(&server, &peer, &nobody, &event_id, &json!([])).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(invites(&server, &alice).await.is_null());
}

/// CVE-2024-52815, CVE-2023-32323: invitations with broken or huge state stopped sync.
#[tokio::test]
async fn cve_2024_52815_broken_invite_state_leaves_sync_whole() {
    let (server, peer, alice) = app().await;
    let mut state = vec![json!({}), json!({ "type": 7 }), json!({ "type": "m.room.name", "content": [] })];
    for number in 0..500 {
        state.push(json!({
            "type": "t", "state_key": number.to_string(), "sender": DAN, "content": { "x": "y".repeat(10_000) },
        }));
    }
    let (event, event_id) = sign(&peer, event());
    let answer = invite(&server, &peer, &event, &event_id, &json!(state)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let shown = invites(&server, &alice).await;
    assert!(!shown[ROOM].is_null());
    assert!(shown.to_string().len() < 1 << 20);
}
