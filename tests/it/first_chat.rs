//! The first chat of the README, step by step.

use serde_json::{Value, json};

use crate::server::TestServer;

#[tokio::test]
async fn two_people_meet_in_a_room_and_talk() {
    let server = TestServer::new().await;
    let (anna, bea) = (server.register("anna").await, server.register("bea").await);

    let room = json!({ "name": "First room", "preset": "private_chat", "invite": [bea.user_id] });
    let room = server.post(&anna, "/_matrix/client/v3/createRoom", room).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    // Clients leave this body out (matrix-nio).
    server.post(&bea, &format!("/_matrix/client/v3/join/{room}"), Value::Null).await.ok();

    let message = json!({ "msgtype": "m.text", "body": "Hello Bea" });
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let sent = server.put(&anna, &path, message.clone()).await.ok();
    assert_eq!(
        server.put(&anna, &path, message.clone()).await.ok(),
        sent,
        "the same transaction, the same event"
    );

    let server = server.restart().await;
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
    let page = server.get(&bea, &path).await.ok();
    assert_eq!(page["chunk"][0]["event_id"], sent["event_id"]);
    assert_eq!(page["chunk"][0]["content"], message);

    let sync = server.get(&bea, "/_matrix/client/v3/sync").await.ok();
    let timeline = &sync["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(timeline.as_array().and_then(|events| events.last()).unwrap()["event_id"], sent["event_id"]);
}
