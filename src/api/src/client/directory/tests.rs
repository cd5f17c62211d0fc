//! The room directory with many rooms, and as rooms change.

use std::collections::BTreeSet;

use allod_server::{
    database::Write,
    numbers::{RoomNumber, UserNumber},
    tables::{
        Stamped,
        rooms::{HeadRecord, Published, Room, RoomHead, RoomRecord},
    },
};
use http::Method;
use serde_json::{Value, json};

use crate::testing::TestApp;

const SEARCH: &str = "/_matrix/client/v3/publicRooms";

struct World {
    server: TestApp,
    token: String,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let token = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    World { server, token }
}

impl World {
    async fn room(&self, body: Value) -> String {
        let path = "/_matrix/client/v3/createRoom";
        let answer = self.server.call_as(&self.token, Method::POST, path, body.to_string()).await;
        answer.json()["room_id"].as_str().unwrap().to_owned()
    }

    async fn search(&self, body: Value) -> Value {
        self.server.call_as(&self.token, Method::POST, SEARCH, body.to_string()).await.json()
    }

    /// Published rooms that show nothing, with this many members each.
    async fn bare_rooms(&self, count: u32, joined: impl Fn(u32) -> u32) {
        for chunk in (0..count).collect::<Vec<_>>().chunks(500) {
            let mut write = Write::new();
            for number in chunk {
                let room = RoomNumber(1_000_000 + number);
                let record = RoomRecord {
                    room_id: format!("!bare{number}:example.org"),
                    version: "11".to_owned(),
                    creator: UserNumber(1),
                    created_ms: 0,
                };
                let head = HeadRecord { joined: joined(*number), ..HeadRecord::default() };
                write.put::<Room>(&room, &record);
                write.put::<RoomHead>(&room, &Stamped::pending(head));
                write.put::<Published>(&room, &());
            }
            self.server.database().commit(write).await.unwrap();
        }
    }
}

#[tokio::test]
async fn ten_thousand_rooms_are_paged_through_and_searched() {
    let world = world().await;
    for name in ["Gardening", "Garden Gnomes", "Chess"] {
        let topic = "about it";
        world.room(json!({ "name": name, "topic": topic, "visibility": "public", "room_alias_name": name.replace(' ', "") })).await;
    }
    world.bare_rooms(10_000, |number| number % 100).await;
    let (mut seen, mut since, mut last) = (BTreeSet::new(), Value::Null, u64::MAX);
    loop {
        let mut body = json!({ "limit": 2500 });
        if !since.is_null() {
            body["since"] = since;
        }
        let page = world.search(body).await;
        assert_eq!(page["total_room_count_estimate"], 10_003);
        for room in page["chunk"].as_array().unwrap() {
            let joined = room["num_joined_members"].as_u64().unwrap();
            assert!(joined <= last, "the largest come first");
            last = joined;
            assert!(seen.insert(room["room_id"].as_str().unwrap().to_owned()), "shown twice");
        }
        since = page["next_batch"].clone();
        if since.is_null() {
            break;
        }
    }
    assert_eq!(seen.len(), 10_003);
    for (term, count) in [("garden", 2), ("#chess", 1), ("ABOUT", 3), ("nowhere", 0)] {
        let page = world.search(json!({ "filter": { "generic_search_term": term } })).await;
        assert_eq!(page["chunk"].as_array().unwrap().len(), count, "{term}");
        assert_eq!(page["total_room_count_estimate"], count, "{term}");
    }
    let first = world.search(json!({ "limit": 1, "filter": { "generic_search_term": "garden" } })).await;
    assert_eq!(first["total_room_count_estimate"], 2);
    let rest =
        json!({ "limit": 1, "since": first["next_batch"], "filter": { "generic_search_term": "garden" } });
    let rest = world.search(rest).await;
    assert_ne!(rest["chunk"][0]["room_id"], first["chunk"][0]["room_id"]);
    assert!(rest["next_batch"].is_null());
}

#[tokio::test]
async fn the_directory_follows_what_rooms_show() {
    let world = world().await;
    let room = world.room(json!({ "name": "before", "visibility": "public" })).await;
    let shown = async || world.search(json!({})).await["chunk"][0]["name"].clone();
    assert_eq!(shown().await, "before");
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name");
    let body = json!({ "name": "after" }).to_string();
    let event = world.server.call_as(&world.token, Method::PUT, &path, body).await.json()["event_id"].clone();
    assert_eq!(shown().await, "after");
    let path = format!("/_matrix/client/v3/rooms/{room}/redact/{}/1", event.as_str().unwrap());
    assert_eq!(world.server.call_as(&world.token, Method::PUT, &path, "{}").await.status, 200);
    assert_eq!(shown().await, Value::Null);
}
