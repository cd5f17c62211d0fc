//! Relations, aggregations and threads over a real room.

use std::{sync::atomic::AtomicU32, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::testing::{Answer, TestApp};

struct World {
    server: TestApp,
    alice: String,
    bob: String,
    room: String,
    sent: AtomicU32,
}

async fn world() -> World {
    let server = TestApp::new().await;
    let alice = server.sign_in("@alice:example.org", |_| {}).await;
    let bob = server.sign_in("@bob:example.org", |_| {}).await;
    let create = json!({ "preset": "public_chat" }).to_string();
    let created = server.call_as(&alice, Method::POST, "/_matrix/client/v3/createRoom", create).await;
    let room = created.json()["room_id"].as_str().unwrap().to_owned();
    let joined = server
        .call_as(&bob, Method::POST, &format!("/_matrix/client/v3/join/{}", path_of(&room)), "{}")
        .await;
    assert_eq!(joined.status, 200, "{}", joined.text);
    World { server, alice, bob, room, sent: AtomicU32::new(0) }
}

fn path_of(id: &str) -> String {
    id.replace('!', "%21").replace('$', "%24").replace(':', "%3A")
}

fn relates(rel_type: &str, to: &str) -> Value {
    json!({ "msgtype": "m.text", "body": rel_type, "m.relates_to": { "rel_type": rel_type, "event_id": to } })
}

fn reaction(to: &str, key: &str) -> Value {
    json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": to, "key": key } })
}

fn edit(of: &str, body: &str) -> Value {
    let mut content = relates("m.replace", of);
    content["m.new_content"] = json!({ "msgtype": "m.text", "body": body });
    content
}

fn ids(answer: &Value) -> Vec<String> {
    let chunk = answer["chunk"].as_array().unwrap();
    chunk.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

impl World {
    async fn try_send(&self, token: &str, kind: &str, content: &Value) -> Answer {
        // Edits are ordered by their time.
        self.server.clock.advance(Duration::from_millis(1));
        let number = self.sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/_matrix/client/v3/rooms/{}/send/{kind}/{number}", path_of(&self.room));
        self.server.call_as(token, Method::PUT, &path, content.to_string()).await
    }

    async fn send(&self, token: &str, kind: &str, content: &Value) -> String {
        let answer = self.try_send(token, kind, content).await;
        answer.json()["event_id"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
    }

    async fn message(&self, token: &str, content: &Value) -> String {
        self.send(token, "m.room.message", content).await
    }

    async fn text(&self, token: &str) -> String {
        self.message(token, &json!({ "msgtype": "m.text", "body": "root" })).await
    }

    async fn redact(&self, token: &str, event: &str) {
        let redacted = self.try_send(token, "m.room.redaction", &json!({ "redacts": event })).await;
        assert_eq!(redacted.status, 200, "{}", redacted.text);
    }

    async fn get(&self, token: &str, version: &str, path: &str) -> Value {
        let path = format!("/_matrix/client/{version}/rooms/{}/{path}", path_of(&self.room));
        let answer = self.server.call_as(token, Method::GET, &path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    }

    async fn relations(&self, to: &str, rest: &str) -> Value {
        self.get(&self.alice, "v1", &format!("relations/{}{rest}", path_of(to))).await
    }

    /// `m.relations` of an event.
    async fn bundle(&self, token: &str, event: &str) -> Value {
        let event = self.get(token, "v3", &format!("event/{}", path_of(event))).await;
        event["unsigned"]["m.relations"].clone()
    }

    async fn threads(&self, token: &str, query: &str) -> Value {
        self.get(token, "v1", &format!("threads{query}")).await
    }

    async fn bob_ignores_alice(&self) {
        let path = "/_matrix/client/v3/user/@bob:example.org/account_data/m.ignored_user_list";
        let content = json!({ "ignored_users": { "@alice:example.org": {} } }).to_string();
        assert_eq!(self.server.call_as(&self.bob, Method::PUT, path, content).await.status, 200);
        // The follower of the log hears of it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn relations_are_filtered_by_type() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let reply = world.message(&world.alice, &relates("m.thread", &root)).await;
    let dummy = world.send(&world.alice, "m.dummy", &relates("m.thread", &root)).await;
    let edit = world.message(&world.alice, &edit(&root, "edited")).await;
    let bad_edit = world.message(&world.bob, &self::edit(&root, "by another")).await;
    assert_eq!(ids(&world.relations(&root, "").await), [&*bad_edit, &edit, &dummy, &reply]);
    assert_eq!(ids(&world.relations(&root, "/m.thread").await), [&*dummy, &reply]);
    assert_eq!(ids(&world.relations(&root, "/m.replace?dir=f").await), [&*edit, &bad_edit]);
    assert_eq!(ids(&world.relations(&root, "/m.thread/m.room.message").await), [&*reply]);
    assert_eq!(ids(&world.relations(&root, "/org.example.none").await), [""; 0]);
    let path = format!("/_matrix/client/v1/rooms/{}/relations/{}", path_of(&world.room), path_of("$unknown"));
    let unknown = world.server.call_as(&world.alice, Method::GET, &path, "").await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn relations_come_in_pages() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let mut sent = Vec::new();
    for number in 0..7 {
        // Of different kinds, which stand in different ranges.
        let rel_type = if number % 2 == 0 { "m.thread" } else { "m.reference" };
        sent.push(world.message(&world.alice, &relates(rel_type, &root)).await);
    }
    for (direction, expected) in [("f", sent.clone()), ("b", sent.iter().rev().cloned().collect())] {
        let mut query = format!("?limit=3&dir={direction}");
        let mut found = Vec::new();
        for page in 0..3 {
            let answer = world.relations(&root, &query).await;
            found.extend(ids(&answer));
            assert_eq!(answer.get("prev_batch").is_some(), page > 0);
            assert_eq!(answer.get("next_batch").is_some(), page < 2);
            let next = answer["next_batch"].as_str().unwrap_or_default();
            query = format!("?limit=3&dir={direction}&from={next}");
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn relations_begin_at_a_sync_token() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    world.message(&world.alice, &relates("m.thread", &root)).await;
    let synced = world.server.call_as(&world.alice, Method::GET, "/_matrix/client/v3/sync", "").await.json();
    let token = synced["next_batch"].as_str().unwrap();
    let after = world.message(&world.alice, &relates("m.thread", &root)).await;
    assert_eq!(ids(&world.relations(&root, &format!("?dir=f&from={token}")).await), [&*after]);
}

#[tokio::test]
async fn relations_of_relations() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let one = world.message(&world.alice, &relates("m.thread", &root)).await;
    let two = world.message(&world.alice, &relates("m.reference", &one)).await;
    let three = world.send(&world.alice, "m.reaction", &reaction(&two, "x")).await;
    let four = world.message(&world.alice, &relates("m.reference", &three)).await;
    assert_eq!(ids(&world.relations(&root, "").await), [&*one]);
    let recursive = world.relations(&root, "?recurse=true&dir=f").await;
    assert_eq!(ids(&recursive), [&*one, &two, &three]);
    assert_eq!(recursive["recursion_depth"], 3);
    assert_eq!(ids(&world.relations(&one, "?recurse=true&dir=f").await), [&*two, &three, &four]);
    assert_eq!(ids(&world.relations(&root, "/m.annotation?recurse=true").await), [&*three]);
}

#[tokio::test]
async fn edits_and_references_are_bundled() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    assert_eq!(world.bundle(&world.alice, &root).await, Value::Null);
    let first = world.message(&world.alice, &edit(&root, "one")).await;
    let second = world.message(&world.alice, &edit(&root, "two")).await;
    world.message(&world.bob, &edit(&root, "not his")).await;
    world.message(&world.alice, &edit(&second, "of an edit")).await;
    let reference = world.message(&world.bob, &relates("m.reference", &root)).await;
    let bundle = world.bundle(&world.bob, &root).await;
    assert_eq!(bundle["m.replace"]["event_id"], *second);
    assert_eq!(bundle["m.replace"]["content"]["m.new_content"]["body"], "two");
    assert_eq!(bundle["m.reference"], json!({ "chunk": [{ "event_id": reference }] }));
    assert_eq!(world.bundle(&world.bob, &second).await, Value::Null);
    // A redacted child no longer counts.
    world.redact(&world.alice, &second).await;
    assert_eq!(world.bundle(&world.bob, &root).await["m.replace"]["event_id"], *first);
    // A redacted parent keeps its children, but shows no edit.
    world.redact(&world.alice, &root).await;
    let bundle = world.bundle(&world.bob, &root).await;
    assert_eq!(bundle, json!({ "m.reference": { "chunk": [{ "event_id": reference }] } }));
    world.redact(&world.bob, &reference).await;
    assert_eq!(world.bundle(&world.bob, &root).await, Value::Null);
}

#[tokio::test]
async fn threads_are_bundled() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let first = world.message(&world.bob, &relates("m.thread", &root)).await;
    let last = world.message(&world.bob, &relates("m.thread", &root)).await;
    let edited = world.message(&world.bob, &edit(&last, "edited")).await;
    let thread = world.bundle(&world.alice, &root).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(true)));
    assert_eq!(thread["latest_event"]["event_id"], *last);
    let inner = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"];
    assert_eq!(*inner, *edited);
    // In pages of history too.
    let messages = world.get(&world.alice, "v3", "messages?dir=b&limit=20").await;
    let event =
        messages["chunk"].as_array().unwrap().iter().find(|event| event["event_id"] == *root).unwrap();
    assert_eq!(event["unsigned"]["m.relations"]["m.thread"]["count"], 2);
    world.redact(&world.bob, &last).await;
    let thread = world.bundle(&world.alice, &root).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(first)));
    world.redact(&world.bob, &first).await;
    assert_eq!(world.bundle(&world.alice, &root).await, Value::Null);
    assert_eq!(ids(&world.threads(&world.alice, "").await), [""; 0]);
}

#[tokio::test]
async fn threads_are_ordered_by_their_latest_event() {
    let world = world().await;
    let one = world.text(&world.alice).await;
    let two = world.text(&world.bob).await;
    world.message(&world.alice, &relates("m.thread", &one)).await;
    world.message(&world.bob, &relates("m.thread", &two)).await;
    assert_eq!(ids(&world.threads(&world.alice, "").await), [&*two, &one]);
    let latest = world.message(&world.alice, &relates("m.thread", &one)).await;
    let threads = world.threads(&world.alice, "").await;
    assert_eq!(ids(&threads), [&*one, &two]);
    let shown = &threads["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"];
    assert_eq!(*shown, *latest);
    let page = world.threads(&world.alice, "?limit=1").await;
    assert_eq!(ids(&page), [&*one]);
    let next = page["next_batch"].as_str().unwrap();
    let page = world.threads(&world.alice, &format!("?limit=1&from={next}")).await;
    assert_eq!((ids(&page), page.get("next_batch")), (vec![two.clone()], None));
    assert_eq!(ids(&world.threads(&world.alice, "?include=participated").await), [&*one]);
    world.message(&world.alice, &relates("m.thread", &two)).await;
    assert_eq!(ids(&world.threads(&world.alice, "?include=participated").await), [&*two, &one]);
}

#[tokio::test]
async fn the_ignored_count_for_nothing() {
    let world = world().await;
    let own = world.text(&world.bob).await;
    let hers = world.text(&world.alice).await;
    let mine = world.message(&world.bob, &relates("m.thread", &own)).await;
    world.message(&world.alice, &relates("m.thread", &own)).await;
    world.message(&world.alice, &relates("m.reference", &own)).await;
    world.message(&world.bob, &relates("m.thread", &hers)).await;
    world.bob_ignores_alice().await;
    let bundle = world.bundle(&world.bob, &own).await;
    assert_eq!(bundle.get("m.reference"), None);
    let thread = &bundle["m.thread"];
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(mine)));
    let related = world.get(&world.bob, "v1", &format!("relations/{}", path_of(&own))).await;
    assert_eq!(ids(&related), [&*mine]);
    let threads = world.threads(&world.bob, "").await;
    assert_eq!(ids(&threads), [&*hers, &own]);
    assert_eq!(threads["chunk"][0]["content"], json!({}));
    assert_eq!(threads["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"], 1);
}

#[tokio::test]
async fn nobody_reacts_twice_alike() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let like = reaction(&root, "👍");
    let first = world.send(&world.alice, "m.reaction", &like).await;
    let again = world.try_send(&world.alice, "m.reaction", &like).await;
    assert_eq!(again.error(), (400, "M_DUPLICATE_ANNOTATION".to_owned()));
    world.send(&world.bob, "m.reaction", &like).await;
    world.send(&world.alice, "m.reaction", &reaction(&root, "👎")).await;
    world.redact(&world.alice, &first).await;
    world.send(&world.alice, "m.reaction", &like).await;
    // Reactions are not bundled.
    assert_eq!(world.bundle(&world.alice, &root).await, Value::Null);
}

#[tokio::test]
async fn threads_begin_at_events_without_relations() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let reply = world.message(&world.alice, &relates("m.thread", &root)).await;
    let nested = world.try_send(&world.alice, "m.room.message", &relates("m.thread", &reply)).await;
    assert_eq!(nested.error(), (400, "M_UNKNOWN".to_owned()));
    // What is not here is no relation; it is sent all the same.
    world.message(&world.alice, &relates("m.thread", "$elsewhere")).await;
}

#[tokio::test]
async fn what_is_out_of_sight_is_not_told() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    let seen = world.message(&world.alice, &relates("m.thread", &root)).await;
    let seen_edit = world.message(&world.alice, &edit(&root, "seen")).await;
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", path_of(&world.room));
    assert_eq!(world.server.call_as(&world.bob, Method::POST, &leave, "{}").await.status, 200);
    world.message(&world.alice, &relates("m.thread", &root)).await;
    world.message(&world.alice, &edit(&root, "unseen")).await;
    let bundle = world.bundle(&world.bob, &root).await;
    assert_eq!(bundle["m.replace"]["event_id"], *seen_edit);
    let thread = &bundle["m.thread"];
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(1), &json!(seen)));
    let related = world.get(&world.bob, "v1", &format!("relations/{}", path_of(&root))).await;
    assert_eq!(ids(&related), [&*seen_edit, &seen]);
}

#[tokio::test]
async fn sync_bundles_where_it_leaves_something_out() {
    let world = world().await;
    let root = world.text(&world.alice).await;
    world.message(&world.bob, &relates("m.thread", &root)).await;
    let count = |synced: &Value| {
        let timeline = &synced["rooms"]["join"][&world.room]["timeline"];
        let events = timeline["events"].as_array().unwrap();
        let event = events.iter().find(|event| event["event_id"] == *root).unwrap();
        (timeline["limited"].clone(), event["unsigned"]["m.relations"]["m.thread"]["count"].clone())
    };
    let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3ALIMIT%7D%7D%7D";
    for (limit, expected) in [("2", (json!(true), json!(1))), ("50", (json!(false), Value::Null))] {
        let path = format!("/_matrix/client/v3/sync?filter={}", filter.replace("LIMIT", limit));
        let synced = world.server.call_as(&world.alice, Method::GET, &path, "").await.json();
        assert_eq!(count(&synced), expected);
    }
}
