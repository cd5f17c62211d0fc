//! What was redacted leaves the disk within the time that is configured.

use allod_server::tables;
use serde_json::json;

use crate::server::{TestServer, config};

const SECRET: &str = "Rumpelstiltskin";
const KEY: &str = "a reaction that was regretted";

#[tokio::test]
async fn redacted_bytes_leave_the_disk() {
    let server = TestServer::on_disk(config()).await;
    let alice = server.register("alice").await;
    let room = server.post(&alice, "/_matrix/client/v3/createRoom", json!({})).await.body["room_id"].clone();
    let room = format!("/_matrix/client/v3/rooms/{}", room.as_str().unwrap());
    let send = async |kind: &str, id: &str, content| {
        let answer = server.put(&alice, &format!("{room}/send/{kind}/{id}"), content).await;
        answer.body["event_id"].as_str().unwrap().to_owned()
    };
    let secret = send("m.room.message", "1", json!({ "msgtype": "m.text", "body": SECRET })).await;
    let relation = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": secret, "key": KEY } });
    let reaction = send("m.reaction", "2", relation).await;
    // Deep in the tables, as after some days.
    for space in [tables::EVENT_JSON, tables::TIMELINES] {
        server.store().compact(space).await.unwrap();
    }
    let on_disk = || [SECRET, KEY].map(|text| server.has_on_disk(text.as_bytes()));
    assert_eq!(on_disk(), [true, true]);
    for event in [secret, reaction] {
        let answer = server.put(&alice, &format!("{room}/redact/{event}/r{event}"), json!({})).await;
        assert_eq!(answer.status, 200);
        let event = server.get(&alice, &format!("{room}/event/{event}")).await.body;
        assert_eq!(event["content"], json!({}), "nobody can read it from now on");
    }
    assert_eq!(on_disk(), [true, true]);

    let server = server.restart().await;
    let erasure = server.erasure().await;
    server.clock.advance(erasure.within() / 2);
    assert!(erasure.run_if_due().await.unwrap().unwrap().ranges >= 2);
    // The engine removes files that it has replaced in the background.
    while server.has_on_disk(SECRET.as_bytes()) || server.has_on_disk(KEY.as_bytes()) {
        tokio::task::yield_now().await;
    }
}
