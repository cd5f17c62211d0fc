//! Notices through the router.

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp, config};

const PATH: &str = "/_synapse/admin/v1/send_server_notice";

struct World {
    server: TestApp,
    admin: String,
    alice: String,
}

async fn world(user: Option<&str>) -> World {
    let mut config = config();
    config.notices.user = user.map(str::to_owned);
    let server = TestApp::with(config, crate::router::build).await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    World { server, admin, alice }
}

impl World {
    async fn send(&self, token: &str, method: Method, path: &str) -> Answer {
        let body = json!({
            "user_id": "@alice:example.org", "content": { "msgtype": "m.text", "body": "tonight, at eight" },
        });
        self.server.call_as(token, method, path, body.to_string()).await
    }

    async fn sync(&self) -> Value {
        self.server.call_as(&self.alice, Method::GET, "/_matrix/client/v3/sync", "").await.json()
    }

    async fn invitation(&self) -> String {
        let synced = self.sync().await;
        let invited = synced["rooms"]["invite"].as_object().unwrap();
        assert_eq!(invited.len(), 1);
        let (room_id, room) = invited.iter().next().unwrap();
        assert_eq!(room["invite_state"]["events"][0]["sender"], "@notices:example.org");
        room_id.clone()
    }

    async fn act(&self, room_id: &str, action: &str) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/{action}");
        self.server.call_as(&self.alice, Method::POST, &path, "{}").await
    }
}

#[tokio::test]
async fn a_notice_arrives_in_a_room_that_is_used_again() {
    let world = world(Some("notices")).await;
    assert_eq!(world.send(&world.alice, Method::POST, PATH).await.error(), (403, "M_FORBIDDEN".into()));
    let sent = world.send(&world.admin, Method::POST, PATH).await;
    assert_eq!(sent.status, 200, "{}", sent.text);
    let room_id = world.invitation().await;
    let refused = world.act(&room_id, "leave").await;
    assert_eq!(refused.error(), (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM".into()));
    assert_eq!(world.act(&room_id, "join").await.status, 200);
    let synced = world.sync().await;
    let room = &synced["rooms"]["join"][&room_id];
    let events = room["timeline"]["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event_id"] == sent.json()["event_id"]), "{events:?}");
    assert_eq!(room["account_data"]["events"][0]["content"], json!({ "tags": { "m.server_notice": {} } }));
    // Nobody answers there.
    let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
    let body = json!({ "msgtype": "m.text", "body": "why?" }).to_string();
    let answer = world.server.call_as(&world.alice, Method::PUT, &path, body).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN".into()));

    assert_eq!(world.act(&room_id, "leave").await.status, 200);
    let path = format!("{PATH}/1");
    let first = world.send(&world.admin, Method::PUT, &path).await.json();
    assert_eq!(world.invitation().await, room_id);
    assert_eq!(world.send(&world.admin, Method::PUT, &path).await.json(), first);
}

#[tokio::test]
async fn nobody_is_sent_notices_where_they_are_off_or_who_is_not_here() {
    let world = world(None).await;
    assert_eq!(world.send(&world.admin, Method::POST, PATH).await.error(), (400, "M_UNKNOWN".into()));
    let world = self::world(Some("notices")).await;
    let body = json!({ "user_id": "@nobody:example.org", "content": {} }).to_string();
    let answer = world.server.call_as(&world.admin, Method::POST, PATH, body).await;
    assert_eq!(answer.error(), (404, "M_NOT_FOUND".into()));
}
