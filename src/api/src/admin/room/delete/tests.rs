//! Deleting rooms: what goes, what stays, and what those who were away are told.

use std::collections::BTreeMap;

use allod_server::{
    database::{Database, Range},
    numbers::RoomNumber,
    tables::{
        self, Table, TableInfo,
        deleted::{DepartedRoom, RoomDeletion},
        media::{EventMedia, MediaFile, MediaReference},
        notices::NoticeRoom,
        rooms::{Alias, Report, ReportSubject, Room, RoomByName, UserMembershipChange},
        upkeep::{DelayedEvent, DelayedEventDue, DelayedEventOwner},
    },
};
use allod_storage::{SCAN_ROWS_MAX, Scan};
use http::Method;
use serde_json::{Value, json};

use crate::{
    router,
    testing::{Answer, TestApp},
};

/// A server with everything that clients and administrators are served.
async fn server() -> TestApp {
    let mut config = crate::testing::config();
    config.rooms.publish = allod_server::config::Who::Everyone;
    TestApp::with(config, |app| router::build(app.clone()).fallback_service(router::build_admin(app))).await
}

/// Calls, and asserts that it worked.
async fn ok(server: &TestApp, token: &str, method: Method, path: &str, body: Value) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = server.call_as(token, method, path, body).await;
    assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text);
    answer.json()
}

async fn get(server: &TestApp, token: &str, path: &str) -> Answer {
    server.call_as(token, Method::GET, path, "").await
}

/// How many bytes a part of a key takes.
fn width(part: &str) -> usize {
    match part {
        "RoomNumber" | "UserNumber" | "EventNumber" | "DeviceNumber" | "u32" => 4,
        "Position" | "u64" | "[u8; 8]" => 8,
        "u8" | "Relating" | "Awaiting" => 1,
        "u16" => 2,
        "Hash128" | "[u8; 16]" => 16,
        "[u8; 32]" => 32,
        other => panic!("how long is a {other} in a key? Say so here, and whether it names a room"),
    }
}

/// Where the number of a room stands in the keys of a table, if it does.
fn place_of_room(table: &TableInfo) -> Option<usize> {
    let parts = table.key.trim_start_matches('(').trim_end_matches(')').split(", ");
    let mut at = 1;
    for part in parts {
        if part == "RoomNumber" {
            return Some(at);
        }
        at += width(part);
    }
    None
}

/// How many rows each table has whose key names the room.
async fn rows_naming(database: &Database, room: RoomNumber) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for table in tables::all() {
        let Some(place) = place_of_room(&table) else { continue };
        let mut scan = Scan {
            space: table.space,
            low: vec![table.id],
            high: vec![table.id + 1],
            reverse: false,
            limit: SCAN_ROWS_MAX,
            keys_only: true,
        };
        loop {
            let page = database.store().scan(&scan).await.unwrap();
            for row in &page.rows {
                if row.key[place..place + 4] == room.0.to_be_bytes() {
                    *found.entry(table.name).or_default() += 1;
                }
            }
            let (true, Some(last)) = (page.more, page.rows.last()) else { break };
            scan.low = [&last.key[..], &[0]].concat();
        }
    }
    found
}

async fn all<T: Table>(database: &Database) -> Vec<(T::Key, T::Value)> {
    database.scan_all(Range::<T>::whole()).await.unwrap()
}

/// Asserts that no row says the number of the room but those that are meant to.
async fn assert_forgotten(database: &Database, room: RoomNumber) {
    let left = rows_naming(database, room).await;
    assert_eq!(left.keys().copied().collect::<Vec<_>>(), [RoomDeletion::INFO.name], "{left:?}");
    assert!(all::<RoomByName>(database).await.iter().all(|(_, number)| *number != room));
    assert!(all::<Alias>(database).await.iter().all(|(_, alias)| alias.room != room));
    assert!(all::<NoticeRoom>(database).await.iter().all(|(_, number)| *number != room));
    assert!(all::<DelayedEvent>(database).await.iter().all(|(_, event)| event.room != room));
    assert!(all::<UserMembershipChange>(database).await.iter().all(|(_, change)| change.room != room));
    for (_, report) in all::<Report>(database).await {
        let reported = match report.subject {
            ReportSubject::Event { room, .. } | ReportSubject::Room { room } => Some(room),
            ReportSubject::User { .. } => None,
        };
        assert_ne!(reported, Some(room));
    }
}

/// Waits until a condition holds, which is looked at after each commit.
async fn until<F: Future<Output = bool>>(server: &TestApp, mut holds: impl FnMut() -> F) {
    let mut commits = server.database().store().subscribe();
    while !holds().await {
        commits.recv().await.expect("the store is open");
    }
}

async fn done(server: &TestApp, delete_id: &str) {
    until(server, || async {
        let row = server.app.room_deletions.get(delete_id).await.unwrap();
        row.unwrap().finished_ms.is_some()
    })
    .await;
}

struct Story {
    server: TestApp,
    admin: String,
    anna: String,
    ben: String,
    room: String,
    number: RoomNumber,
    /// A sync token of Ben's from before.
    since: String,
    /// A message in the room.
    message: String,
}

const BEN: &str = "@ben:example.org";

/// A room in which everything happens that leaves a row.
async fn story() -> Story {
    let server = server().await;
    let admin = server.sign_in("@root:example.org", |account| account.admin = true).await;
    let anna = server.sign_in("@anna:example.org", |_| ()).await;
    let ben = server.sign_in(BEN, |_| ()).await;
    let body = json!({
        "name": "Den", "room_alias_name": "den", "visibility": "public", "preset": "public_chat",
        "invite": ["@cleo:example.org"],
    });
    server.sign_in("@cleo:example.org", |_| ()).await;
    let made = ok(&server, &anna, Method::POST, "/_matrix/client/v3/createRoom", body).await;
    let room = made["room_id"].as_str().unwrap().to_owned();
    let base = format!("/_matrix/client/v3/rooms/{room}");
    ok(&server, &ben, Method::POST, &format!("{base}/join"), json!({})).await;
    let upload = server
        .call_as(&anna, Method::POST, "/_matrix/media/v3/upload?filename=a.txt", "a file of its own")
        .await
        .json();
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let path = |id: &str| format!("{base}/send/m.room.message/{id}");
    let first = ok(&server, &anna, Method::PUT, &path("1"), text("the badger digs")).await;
    let message = first["event_id"].as_str().unwrap().to_owned();
    let image = json!({ "msgtype": "m.file", "body": "a.txt", "url": upload["content_uri"] });
    ok(&server, &anna, Method::PUT, &path("2"), image).await;
    let mut reply = text("in a thread");
    reply["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": message });
    ok(&server, &ben, Method::PUT, &path("3"), reply).await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": message, "key": "x" } });
    ok(&server, &ben, Method::PUT, &format!("{base}/send/m.reaction/4"), reaction).await;
    let gone = ok(&server, &ben, Method::PUT, &path("5"), text("never mind")).await;
    let gone = gone["event_id"].as_str().unwrap();
    ok(&server, &ben, Method::PUT, &format!("{base}/redact/{gone}/6"), json!({})).await;
    ok(&server, &ben, Method::POST, &format!("{base}/receipt/m.read/{message}"), json!({})).await;
    ok(&server, &ben, Method::POST, &format!("{base}/report/{message}"), json!({ "reason": "mud" })).await;
    let user = format!("/_matrix/client/v3/user/{BEN}/rooms/{room}");
    ok(&server, &ben, Method::PUT, &format!("{user}/tags/m.favourite"), json!({ "order": 0.5 })).await;
    ok(&server, &ben, Method::PUT, &format!("{user}/account_data/x.y"), json!({ "a": 1 })).await;
    let unstable = "/_matrix/client/unstable/io.element.msc4306/rooms";
    let path = format!("{unstable}/{room}/thread/{message}/subscription");
    ok(&server, &ben, Method::PUT, &path, json!({})).await;
    let path = format!("{base}/send/m.room.message/7?org.matrix.msc4140.delay=86400000");
    ok(&server, &ben, Method::PUT, &path, text("much later")).await;
    let id = ruma::RoomId::parse(&room).unwrap();
    let number = server.app.rooms.find(&id).await.unwrap().unwrap().number;
    let synced = get(&server, &ben, "/_matrix/client/v3/sync").await.json();
    let since = synced["next_batch"].as_str().unwrap().to_owned();
    Story { server, admin, anna, ben, room, number, since, message }
}

#[tokio::test]
async fn no_row_of_a_deleted_room_is_left_and_those_of_others_stay() {
    let Story { server, admin, anna, ben, room, number, since, message } = story().await;
    let other = ok(&server, &anna, Method::POST, "/_matrix/client/v3/createRoom", json!({})).await;
    let other_id = ruma::RoomId::parse(other["room_id"].as_str().unwrap()).unwrap();
    let other = server.app.rooms.find(&other_id).await.unwrap().unwrap();
    let database = server.database();
    let before = rows_naming(database, number).await;
    for expected in ["EventJson", "UserRoom", "AccountData", "ThreadSubscription", "Receipt", "SearchPosting"]
    {
        assert!(before.contains_key(expected), "the story leaves no {expected}: {before:?}");
    }
    assert!(!database.scan_all(Range::<MediaFile>::whole()).await.unwrap().is_empty());
    let of_other = rows_naming(database, other.number).await;

    let path = format!("/_synapse/admin/v2/rooms/{room}");
    let refused = server.call_as(&anna, Method::DELETE, &path, "{}").await;
    assert_eq!(refused.status.as_u16(), 403);
    let begun = ok(&server, &admin, Method::DELETE, &path, json!({ "purge": true })).await;
    let delete_id = begun["delete_id"].as_str().unwrap();
    done(&server, delete_id).await;

    assert_forgotten(database, number).await;
    assert_eq!(rows_naming(database, other.number).await, of_other);
    assert!(database.scan_all(Range::<DelayedEventDue>::whole()).await.unwrap().is_empty());
    assert!(database.scan_all(Range::<DelayedEventOwner>::whole()).await.unwrap().is_empty());
    until(&server, || async { database.scan_all(Range::<MediaFile>::whole()).await.unwrap().is_empty() })
        .await;
    assert!(database.scan_all(Range::<EventMedia>::whole()).await.unwrap().is_empty());
    assert!(database.scan_all(Range::<MediaReference>::whole()).await.unwrap().is_empty());
    assert_eq!(database.scan_all(Range::<DepartedRoom>::whole()).await.unwrap().len(), 3);

    assert_nothing_breaks(&server, &ben, &room, (&message, &since)).await;
    let listed = get(&server, &admin, "/_allod/admin/v1/room_overviews").await.json();
    assert_eq!(listed["rooms"].as_array().unwrap().len(), 1, "{listed}");
    let status =
        get(&server, &admin, &format!("/_synapse/admin/v2/rooms/delete_status/{delete_id}")).await.json();
    assert_eq!((&status["status"], &status["kicked_users_count"]), (&json!("complete"), &json!(3)));
    let of_room =
        get(&server, &admin, &format!("/_synapse/admin/v2/rooms/{room}/delete_status")).await.json();
    assert_eq!(of_room["results"].as_array().unwrap().len(), 1);
    let report = server.app.rooms.check(&other, false).await.unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(database.get::<Room>(&number).await.unwrap().is_none());
}

/// What clients may still ask of a deleted room is refused, and nothing breaks.
async fn assert_nothing_breaks(server: &TestApp, ben: &str, room: &str, (message, since): (&str, &str)) {
    let base = format!("/_matrix/client/v3/rooms/{room}");
    for path in [
        format!("{base}/messages?dir=b"),
        format!("{base}/state"),
        format!("{base}/members"),
        format!("{base}/event/{message}"),
        format!("{base}/context/{message}"),
        format!("{base}/aliases"),
        format!("/_matrix/client/v1/rooms/{room}/hierarchy"),
        format!("/_matrix/client/v1/rooms/{room}/relations/{message}"),
        "/_matrix/client/v3/directory/room/%23den:example.org".to_owned(),
    ] {
        let answer = get(server, ben, &path).await;
        assert!(answer.status.is_client_error(), "{path}: {} {}", answer.status, answer.text);
    }
    for path in [
        "/_matrix/client/v3/sync".to_owned(),
        format!("/_matrix/client/v3/sync?since={since}"),
        "/_matrix/client/v3/sync?filter=%7B%22room%22%3A%7B%22include_leave%22%3Atrue%7D%7D".to_owned(),
        "/_matrix/client/v3/joined_rooms".to_owned(),
        "/_matrix/client/v3/publicRooms".to_owned(),
        "/_matrix/client/v3/notifications".to_owned(),
    ] {
        let answer = get(server, ben, &path).await;
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text);
        assert!(!answer.text.contains("badger"), "{path}: {}", answer.text);
    }
    let wanted = json!({ "search_categories": { "room_events": { "search_term": "badger" } } });
    let found = ok(server, ben, Method::POST, "/_matrix/client/v3/search", wanted).await;
    assert_eq!(found["search_categories"]["room_events"]["count"], 0);
}

#[tokio::test]
async fn who_was_away_learns_that_the_room_is_left() {
    let Story { server, admin, anna, ben, room, since, .. } = story().await;
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let list = json!({
        "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.member", "$ME"]] } },
    });
    let first = ok(&server, &ben, Method::POST, sliding, list.clone()).await;
    assert!(first["rooms"][&room].is_object(), "{first}");
    let pos = first["pos"].as_str().unwrap();

    let path = format!("/_synapse/admin/v2/rooms/{room}");
    let begun = ok(&server, &admin, Method::DELETE, &path, json!({})).await;
    done(&server, begun["delete_id"].as_str().unwrap()).await;

    let synced = get(&server, &ben, &format!("/_matrix/client/v3/sync?since={since}")).await.json();
    assert_eq!(synced["rooms"]["leave"][&room]["timeline"]["events"], json!([]), "{synced}");
    assert!(synced["rooms"]["join"].is_null(), "{synced}");
    let next = synced["next_batch"].as_str().unwrap();
    let again = get(&server, &ben, &format!("/_matrix/client/v3/sync?since={next}")).await.json();
    assert!(again["rooms"].is_null(), "told twice: {again}");

    let path = format!("{sliding}?pos={pos}");
    let second = ok(&server, &ben, Method::POST, &path, list.clone()).await;
    let told = &second["rooms"][&room];
    assert_eq!(told["membership"], "leave", "{second}");
    assert_eq!(told["required_state"][0]["content"]["membership"], "leave", "{second}");
    let path = format!("{sliding}?pos={}", second["pos"].as_str().unwrap());
    let third = ok(&server, &ben, Method::POST, &path, list).await;
    assert!(third["rooms"][&room].is_null(), "told twice: {third}");
    let joined = get(&server, &anna, "/_matrix/client/v3/joined_rooms").await.json();
    assert_eq!(joined["joined_rooms"], json!([]));
}

#[tokio::test]
async fn a_blocked_room_is_entered_by_nobody_until_it_is_unblocked() {
    let Story { server, admin, ben, room, .. } = story().await;
    let path = format!("/_synapse/admin/v2/rooms/{room}");
    let begun = ok(&server, &admin, Method::DELETE, &path, json!({ "block": true })).await;
    let join = format!("/_matrix/client/v3/join/{room}");
    let refused = server.call_as(&ben, Method::POST, &join, "{}").await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()), "{}", refused.text);
    done(&server, begun["delete_id"].as_str().unwrap()).await;
    let refused = server.call_as(&ben, Method::POST, &join, "{}").await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN".to_owned()), "{}", refused.text);
    assert!(refused.text.contains("administrators"), "{}", refused.text);
    let knock = server.call_as(&ben, Method::POST, &format!("/_matrix/client/v3/knock/{room}"), "{}").await;
    assert_eq!(knock.status.as_u16(), 403, "{}", knock.text);

    let block = format!("/_synapse/admin/v1/rooms/{room}/block");
    assert_eq!(get(&server, &admin, &block).await.json()["block"], true);
    assert_eq!(get(&server, &admin, &block).await.json()["user_id"], "@root:example.org");
    ok(&server, &admin, Method::PUT, &block, json!({ "block": false })).await;
    assert_eq!(get(&server, &admin, &block).await.json()["block"], false);
    let unknown = server.call_as(&ben, Method::POST, &join, "{}").await;
    assert_eq!(unknown.status.as_u16(), 404, "{}", unknown.text);

    // A room that is not known here can be blocked as well, and not be deleted otherwise.
    let elsewhere = "/_synapse/admin/v2/rooms/!elsewhere:example.net";
    let missing = server.call_as(&admin, Method::DELETE, elsewhere, "{}").await;
    assert_eq!(missing.status.as_u16(), 404);
    ok(&server, &admin, Method::DELETE, elsewhere, json!({ "block": true })).await;
    let refused =
        server.call_as(&ben, Method::POST, "/_matrix/client/v3/join/!elsewhere:example.net", "{}").await;
    assert_eq!(refused.status.as_u16(), 403, "{}", refused.text);
}

#[tokio::test]
async fn members_can_be_made_to_leave_without_a_purge() {
    let Story { server, admin, anna, room, number, .. } = story().await;
    let path = format!("/_synapse/admin/v2/rooms/{room}");
    let begun = ok(&server, &admin, Method::DELETE, &path, json!({ "purge": false })).await;
    done(&server, begun["delete_id"].as_str().unwrap()).await;
    let rows = rows_naming(server.database(), number).await;
    assert!(rows.contains_key("EventJson") && !rows.contains_key("RoomAlias"), "{rows:?}");
    let joined = get(&server, &anna, "/_matrix/client/v3/joined_rooms").await.json();
    assert_eq!(joined["joined_rooms"], json!([]));
    let messages = get(&server, &anna, &format!("/_matrix/client/v3/rooms/{room}/messages?dir=b")).await;
    assert!(messages.text.contains("badger"), "{}", messages.text);
}

#[tokio::test]
async fn tasks_and_the_admin_socket_tell_how_far_it_is() {
    let Story { server, room, .. } = story().await;
    let path = format!("/_allod/admin/v1/rooms/{room}/delete");
    let begun = server.call(Method::POST, &path, "{}").await.json();
    assert_eq!(begun["room_id"], room);
    let again = server.call(Method::POST, &path, "{}").await.json();
    assert_eq!(again["delete_id"], begun["delete_id"], "one deletion at a time");
    let tasks = server.call(Method::GET, "/_allod/admin/v1/tasks", "").await.json();
    let listed = tasks["tasks"].as_array().unwrap().iter().find(|task| task["task"] == "deletion of a room");
    assert_eq!(listed.unwrap()["room_deletion"]["delete_id"], begun["delete_id"]);
    let delete_id = begun["delete_id"].as_str().unwrap();
    done(&server, delete_id).await;
    let path = format!("/_allod/admin/v1/room_deletions/{delete_id}");
    let shown = server.call(Method::GET, &path, "").await.json();
    assert_eq!((&shown["step"], &shown["members_left"]), (&json!("done"), &json!(3)));
    let all = server.call(Method::GET, "/_allod/admin/v1/room_deletions", "").await.json();
    assert_eq!(all["deletions"].as_array().unwrap().len(), 1);
    let unknown = server.call(Method::GET, "/_allod/admin/v1/room_deletions/none", "").await;
    assert_eq!(unknown.status.as_u16(), 404);
}
