//! How much is unread: as the specification counts it, and against a count that looks at everything anew.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{
    EventId, OwnedEventId, RoomId, events::receipt::ReceiptThread, push::NewPushRule, push::NewSimplePushRule,
};
use serde_json::{Value, json, value::to_raw_value};

use super::world::{World, section, token};
use crate::{receipts::Marks, rooms::send::TransactionName};

/// Notifications and highlights of a room in an answer, and those of a thread.
fn counts(answer: &Value, room: &RoomId) -> (i64, i64) {
    of(&section(answer, "join", room)["unread_notifications"])
}

fn of(counts: &Value) -> (i64, i64) {
    (counts["notification_count"].as_i64().unwrap_or(-1), counts["highlight_count"].as_i64().unwrap_or(-1))
}

fn by_thread() -> Value {
    json!({ "room": { "timeline": { "unread_thread_notifications": true } } })
}

impl World {
    async fn send(&self, name: &str, room: &RoomId, kind: &str, content: &Value) -> OwnedEventId {
        let number = self.sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let transaction = TransactionName { path: "/send", id: &format!("unread{number}") };
        let content = to_raw_value(content).unwrap();
        self.rooms.send(room, self.caller(name), kind, &content, transaction).await.unwrap()
    }

    async fn relate(
        &self,
        name: &str,
        room: &RoomId,
        rel_type: &str,
        to: &EventId,
        body: &str,
    ) -> OwnedEventId {
        let content = json!({
            "msgtype": "m.text", "body": body, "m.relates_to": { "rel_type": rel_type, "event_id": to },
        });
        self.send(name, room, "m.room.message", &content).await
    }

    async fn mark(&self, name: &str, room: &RoomId, event: &EventId, thread: ReceiptThread, private: bool) {
        let caller = self.caller(name);
        let number = self.rooms.find(room).await.unwrap().unwrap().number;
        let event = Some(event.to_owned());
        let marks = if private {
            Marks { read_private: event, thread, ..Marks::default() }
        } else {
            Marks { read: event, thread, ..Marks::default() }
        };
        self.sources.receipts.mark(number, caller.user, &caller.user_id, &marks).await.unwrap();
    }

    /// What a client that comes anew, and one that follows, are told.
    async fn unread(&self, name: &str, room: &RoomId) -> (i64, i64) {
        counts(&self.sync(name, None).await, room)
    }
}

#[tokio::test]
async fn messages_count_until_they_are_read() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let room = world.room_with("alice", &["bob", "carol"]).await;
    assert_eq!(world.unread("bob", &room).await, (0, 0));
    let since = token(&world.sync("bob", None).await).to_owned();
    let first = world.say("alice", &room, "one").await;
    world.say("alice", &room, "two, for BOB").await;
    let answer = world.sync("bob", Some(&since)).await;
    assert_eq!(counts(&answer, &room), (2, 1));
    assert_eq!(world.unread("alice", &room).await, (0, 0));
    assert_eq!(world.unread("carol", &room).await, (2, 0));
    // A receipt from another device is told at once, with the new counts.
    let since = token(&answer).to_owned();
    world.mark("bob", &room, &first, ReceiptThread::Unthreaded, true).await;
    let answer = world.sync("bob", Some(&since)).await;
    assert_eq!(counts(&answer, &room), (1, 1));
    // Who writes has read.
    world.say("bob", &room, "three").await;
    assert_eq!(counts(&world.sync("bob", Some(token(&answer))).await, &room), (0, 0));
    assert_eq!(world.unread("bob", &room).await, (0, 0));
    assert_eq!(world.unread("carol", &room).await, (3, 0));
}

#[tokio::test]
async fn threads_are_counted_beside_the_main_timeline() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    let root = world.say("alice", &room, "root").await;
    let reply = world.relate("alice", &room, "m.thread", &root, "reply").await;
    world.relate("alice", &room, "m.thread", &root, "for @bob").await;
    let main = world.say("alice", &room, "main, for bob").await;
    let about = world.relate("alice", &room, "m.reference", &reply, "about a reply").await;
    let check = async |all, main, thread| {
        assert_eq!(world.unread("bob", &room).await, all);
        let answer = world.sync_with("bob", None, by_thread()).await;
        assert_eq!(counts(&answer, &room), main);
        let threads = &section(&answer, "join", &room)["unread_thread_notifications"];
        match thread {
            Some(thread) => assert_eq!(of(&threads[root.as_str()]), thread),
            None => assert!(threads.is_null()),
        }
    };
    check((5, 2), (2, 1), Some((3, 1))).await;
    world.mark("bob", &room, &root, ReceiptThread::Main, false).await;
    check((4, 2), (1, 1), Some((3, 1))).await;
    world.mark("bob", &room, &reply, ReceiptThread::Thread(root.clone()), false).await;
    check((3, 2), (1, 1), Some((2, 1))).await;
    world.mark("bob", &room, &main, ReceiptThread::Unthreaded, false).await;
    check((1, 0), (0, 0), Some((1, 0))).await;
    world.mark("bob", &room, &about, ReceiptThread::Thread(root.clone()), true).await;
    check((0, 0), (0, 0), None).await;
}

#[tokio::test]
async fn rules_ignores_edits_and_redactions_count() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let room = world.room_with("alice", &["bob", "carol"]).await;
    let said = world.say("alice", &room, "hello").await;
    world.relate("alice", &room, "m.replace", &said, "an edit").await;
    world.send("alice", &room, "m.room.message", &json!({ "msgtype": "m.notice", "body": "bob" })).await;
    assert_eq!(world.unread("bob", &room).await, (1, 0));
    // Whom a client says it mentions counts, and no text does.
    let mention =
        json!({ "msgtype": "m.text", "body": "carol", "m.mentions": { "user_ids": ["@bob:example.org"] } });
    let mention = world.send("alice", &room, "m.room.message", &mention).await;
    assert_eq!(world.unread("bob", &room).await, (2, 1));
    assert_eq!(world.unread("carol", &room).await, (2, 0));
    // Only who may calls all.
    let all = json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } });
    world.send("carol", &room, "m.room.message", &all).await;
    assert_eq!(world.unread("bob", &room).await, (3, 1));
    world.send("alice", &room, "m.room.message", &all).await;
    assert_eq!(world.unread("bob", &room).await, (4, 2));
    let options = crate::rooms::send::TransactionName { path: "/redact", id: "r" };
    world.rooms.redact(&room, world.caller("alice"), &mention, None, options).await.unwrap();
    assert_eq!(world.unread("bob", &room).await, (3, 1));
    world
        .set_account_data(
            "bob",
            "m.ignored_user_list",
            &json!({ "ignored_users": { "@carol:example.org": {} } }),
        )
        .await;
    world.say("carol", &room, "bob!").await;
    assert_eq!(world.unread("bob", &room).await, (3, 1));
    // A room that bob muted.
    let bob = world.caller("bob").clone();
    let mute = NewPushRule::Room(NewSimplePushRule::new(room.clone(), vec![]));
    world.sources.push_rules.insert(bob.user, &bob.user_id, mute, None, None).await.unwrap();
    world.say("alice", &room, "nobody hears").await;
    assert_eq!(world.unread("bob", &room).await, (3, 1));
}

#[tokio::test]
async fn who_comes_back_begins_anew() {
    let world = World::new(&["alice", "bob"]).await;
    let room = world.room_with("alice", &["bob"]).await;
    world.say("alice", &room, "one").await;
    assert_eq!(world.unread("bob", &room).await, (1, 0));
    // A new name is no arrival.
    world
        .set(
            "bob",
            &room,
            "m.room.member",
            "@bob:example.org",
            &json!({ "membership": "join", "displayname": "Bob B" }),
        )
        .await;
    assert_eq!(world.unread("bob", &room).await, (1, 0));
    world.say("alice", &room, "for Bob B").await;
    assert_eq!(world.unread("bob", &room).await, (2, 1));
    world.leave("bob", &room).await;
    world.say("alice", &room, "two").await;
    world.join("bob", &room).await;
    assert_eq!(world.unread("bob", &room).await, (0, 0));
    world.say("alice", &room, "three").await;
    assert_eq!(world.unread("bob", &room).await, (1, 0));
}

/// An event as the count by hand sees it.
struct Said {
    id: OwnedEventId,
    sender: &'static str,
    /// The root of its thread.
    thread: Option<usize>,
    names: Option<&'static str>,
    redacted: bool,
}

/// Receipts by thread; the outer `None` is an unthreaded one.
type Marked = Vec<(Option<Option<usize>>, usize)>;

fn expected(said: &[Said], marked: &Marked, name: &str) -> (i64, i64) {
    let read = |thread: Option<usize>| {
        let receipts =
            marked.iter().filter(|(of, _)| of.is_none_or(|of| of == thread)).map(|(_, upto)| upto + 1);
        let own = said.iter().enumerate().filter(|(_, said)| said.sender == name && said.thread == thread);
        receipts.chain(own.map(|(index, _)| index + 1)).max().unwrap_or(0)
    };
    let unread = said
        .iter()
        .enumerate()
        .filter(|(index, said)| said.sender != name && !said.redacted && *index >= read(said.thread));
    unread.fold((0, 0), |(all, named), (_, said)| (all + 1, named + i64::from(said.names == Some(name))))
}

const NAMES: [&str; 3] = ["alice", "bob", "carol"];

async fn run(seed: u64) {
    let world = World::new(&NAMES).await;
    let room = world.room_with("alice", &["bob", "carol"]).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut said: Vec<Said> = Vec::new();
    let mut marked: [Marked; 3] = Default::default();
    let mut tokens: [Option<String>; 3] = Default::default();
    for step in 0..80 {
        let who = random.random_range(0..NAMES.len());
        let name = NAMES[who];
        match random.random_range(0..8) {
            0 | 1 if !said.is_empty() => {
                let upto = random.random_range(0..said.len());
                let roots: Vec<_> = said.iter().filter_map(|said| said.thread).collect();
                let thread = match random.random_range(0..3) {
                    0 => None,
                    1 => Some(None),
                    _ => Some(roots.choose(&mut random).copied()),
                };
                let of = match thread {
                    None => ReceiptThread::Unthreaded,
                    Some(None) => ReceiptThread::Main,
                    Some(Some(root)) => ReceiptThread::Thread(said[root].id.clone()),
                };
                world.mark(name, &room, &said[upto].id, of, random.random()).await;
                marked[who].push((thread, upto));
            }
            2 if !said.is_empty() => {
                let target = random.random_range(0..said.len());
                let id = format!("redact{step}");
                let transaction = TransactionName { path: "/redact", id: &id };
                let by = said[target].sender;
                world
                    .rooms
                    .redact(&room, world.caller(by), &said[target].id, None, transaction)
                    .await
                    .unwrap();
                said[target].redacted = true;
                // It is no message, and counts for none; who redacts has not read.
            }
            number => {
                let names = (number == 3).then(|| *NAMES.choose(&mut random).unwrap());
                let body = names.map_or("hello".to_owned(), |name| format!("hello {name}"));
                let main: Vec<_> = (0..said.len()).filter(|index| said[*index].thread.is_none()).collect();
                let thread = if number > 5 { main.choose(&mut random).copied() } else { None };
                let id = match thread {
                    Some(root) => world.relate(name, &room, "m.thread", &said[root].id.clone(), &body).await,
                    None => world.say(name, &room, &body).await,
                };
                said.push(Said { id, sender: name, thread, names, redacted: false });
            }
        }
        let reader = random.random_range(0..NAMES.len());
        let since = tokens[reader].clone();
        let answer = world.sync(NAMES[reader], since.as_deref()).await;
        let shown = section(&answer, "join", &room);
        if !shown.is_null() {
            let wanted = expected(&said, &marked[reader], NAMES[reader]);
            assert_eq!(
                of(&shown["unread_notifications"]),
                wanted,
                "seed {seed}, step {step}, {}",
                NAMES[reader]
            );
        }
        tokens[reader] = Some(token(&answer).to_owned());
    }
}

#[tokio::test]
async fn counts_are_those_of_a_count_by_hand() {
    for seed in 0..15 {
        run(seed).await;
    }
}
