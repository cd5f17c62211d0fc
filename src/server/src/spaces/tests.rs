//! A space of this server with rooms of another below it.

use std::time::Duration;

use ruma::{api::client::room::create_room::v3::Request, serde::Raw};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::Live,
    egress::Names,
    federation::testing::{self, Peer},
    rooms::testing::Server,
};

struct World {
    server: Server,
    spaces: Spaces,
    peer: Peer,
    space: OwnedRoomId,
}

/// Alice's space with these rooms below it, at a peer that answers so.
async fn world(children: &[&str], answers: &[(&str, &str)]) -> World {
    let server = Server::new().await;
    let peer = Peer::start(&server.tasks, answers).await;
    let (config, clock) = (Live::new(testing::config()), server.fixture.clock.clone());
    let own_name = server.fixture.users.server_name().to_owned();
    let (_, client) = testing::client(&config, &clock, own_name, Names::table(&[], &[]));
    let spaces = Spaces::new(server.rooms.clone(), clock, Some(client));
    let alice = server.caller("alice").await;
    let mut request = Request::new();
    let content = json!({ "type": "m.space" }).to_string();
    request.creation_content = Raw::from_json_string(content).ok();
    let space = server.rooms.create(&alice, &request, true).await.unwrap();
    for child in children {
        let content = json!({ "via": [peer.name] });
        let content = serde_json::value::to_raw_value(&content).unwrap();
        server.rooms.set_state(&space, &alice, "m.space.child", child, &content).await.unwrap();
    }
    World { server, spaces, peer, space }
}

impl World {
    /// The rooms that somebody is shown.
    async fn shown(&self, name: &str) -> Vec<String> {
        let caller = self.server.caller(name).await;
        let query = HierarchyQuery { from: None, limit: 50, max_depth: None, suggested_only: false };
        let page = self.spaces.hierarchy(&caller, &self.space, &query).await;
        page.map(|page| page.rooms.iter().map(|room| room.summary.room_id.to_string()).collect())
            .unwrap_or_default()
    }
}

fn room(room_id: &str, more: &Value) -> Value {
    let mut room = json!({
        "room_id": room_id, "num_joined_members": 1, "guest_can_join": false, "world_readable": true,
        "join_rule": "public",
    });
    room.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    room
}

fn answer(room: &Value, below: &[&str], children: &[Value], inaccessible: &[&str]) -> String {
    let mut room = room.clone();
    let state = below.iter().map(|child| {
        json!({
            "type": "m.space.child", "state_key": child, "sender": "@bob:a.example", "origin_server_ts": 1,
            "content": { "via": ["127.0.0.1:PORT"] },
        })
    });
    room["children_state"] = state.collect();
    let body = json!({ "room": room, "children": children, "inaccessible_children": inaccessible });
    format!("200 OK\r\nConnection: close\r\n\r\n{body}")
}

const PATH: &str = "/_matrix/federation/v1/hierarchy/";

#[tokio::test]
async fn rooms_of_other_servers_are_asked_for_and_kept_for_a_while() {
    let (below, plain) =
        (room("!below:a.example", &json!({ "room_type": "m.space" })), room("!plain:a.example", &json!({})));
    let world = world(
        &["!below:a.example", "!gone:a.example", "!lies:a.example"],
        &[
            (
                &format!("{PATH}!below"),
                &answer(&below, &["!plain:a.example", "!hidden:a.example"], &[plain], &["!hidden:a.example"]),
            ),
            (&format!("{PATH}!hidden"), &answer(&room("!hidden:a.example", &json!({})), &[], &[], &[])),
            (&format!("{PATH}!lies"), &answer(&room("!other:a.example", &json!({})), &[], &[], &[])),
        ],
    )
    .await;
    let space = world.space.to_string();
    let expected = [space.as_str(), "!below:a.example", "!plain:a.example"];
    assert_eq!(world.shown("alice").await, expected);
    // The plain room was told of with the space above it, and the hidden one was not asked for.
    assert_eq!(world.peer.asked(), 3);
    assert_eq!(world.shown("alice").await, expected);
    assert_eq!(world.peer.asked(), 5, "what is not shown may be shown any time");
    world.server.fixture.clock.advance(Duration::from_secs(301));
    assert_eq!(world.shown("alice").await, expected);
    assert_eq!(world.peer.asked(), 8);
}

#[tokio::test]
async fn who_sees_a_room_of_another_server_is_decided_here() {
    let allowed = "!nowhere:a.example";
    let restricted = json!({
        "join_rule": "restricted", "world_readable": false, "allowed_room_ids": [allowed],
    });
    let private = json!({ "join_rule": "invite", "world_readable": false });
    let world = world(
        &["!restricted:a.example", "!private:a.example"],
        &[
            (
                &format!("{PATH}!restricted"),
                &answer(&room("!restricted:a.example", &restricted), &[], &[], &[]),
            ),
            (&format!("{PATH}!private"), &answer(&room("!private:a.example", &private), &[], &[], &[])),
        ],
    )
    .await;
    assert_eq!(world.shown("alice").await, [world.space.as_str()]);
    assert!(world.shown("mallory").await.is_empty());
}
