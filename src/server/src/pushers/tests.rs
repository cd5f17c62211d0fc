//! What gateways are told, in which order, and what a gateway that fails makes of it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use allod_storage::Store;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use ruma::{OwnedEventId, OwnedRoomId, events::receipt::ReceiptThread};
use serde_json::{Value, json, value::to_raw_value};
use tokio::sync::Notify;

use super::*;
use crate::{
    accounts::testing::id,
    audit::Actor,
    config::{Config, Live},
    mail::Mail,
    notifications::Notifications,
    receipts::{Marks, Receipts},
    rooms::{
        membership::MembershipOptions,
        send::{Caller, TransactionName},
        testing::Server,
    },
    sync::testing,
    tables::SPACES,
};

mod mail;

const URL: &str = "https://push.example/_matrix/push/v1/notify";

/// A gateway that does as it is told, and takes everything otherwise.
#[derive(Default)]
struct Wire {
    outcomes: Mutex<VecDeque<Outcome>>,
    asked: Mutex<Vec<Value>>,
    mails: Mutex<Vec<Mail>>,
    changed: Notify,
}

#[derive(Clone)]
enum Outcome {
    Fails,
    Refuses,
    Rejects(&'static str),
    Hangs,
}

impl Gateway for Wire {
    fn notify<'a>(&'a self, url: &'a str, body: Bytes) -> BoxFuture<'a, Result<Vec<String>, PushFailure>> {
        assert_eq!(url, URL);
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.asked.lock().unwrap().push(body["notification"].clone());
        self.changed.notify_waiters();
        let outcome = self.outcomes.lock().unwrap().pop_front();
        match outcome {
            None => std::future::ready(Ok(Vec::new())).boxed(),
            Some(Outcome::Fails) => {
                std::future::ready(Err(PushFailure::Unreachable("away".to_owned()))).boxed()
            }
            Some(Outcome::Refuses) => std::future::ready(Err(PushFailure::Refused("400".to_owned()))).boxed(),
            Some(Outcome::Rejects(key)) => std::future::ready(Ok(vec![key.to_owned()])).boxed(),
            Some(Outcome::Hangs) => std::future::pending().boxed(),
        }
    }
}

impl Wire {
    fn will(&self, outcomes: &[Outcome]) {
        self.outcomes.lock().unwrap().extend(outcomes.iter().cloned());
    }

    /// The push keys and texts that were asked for, in order; numbers alone as the number.
    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let name = |notification: &Value| {
            let key = notification["devices"][0]["pushkey"].as_str().unwrap();
            let what = notification["content"]["body"].as_str().map(str::to_owned);
            let what = what.or_else(|| notification["content"]["membership"].as_str().map(str::to_owned));
            let what = what.or_else(|| notification["event_id"].as_str().map(|_| "id".to_owned()));
            format!("{key} {}", what.unwrap_or_else(|| notification["counts"]["unread"].to_string()))
        };
        asked.iter().map(name).collect()
    }

    fn last(&self) -> Value {
        self.asked.lock().unwrap().last().cloned().unwrap()
    }
}

struct World {
    server: Server,
    sync: Sync,
    receipts: Receipts,
    wire: Arc<Wire>,
    config: Live,
    addresses: Addresses,
    pushers: Pushers,
}

impl World {
    async fn new() -> Self {
        Self::over(Store::memory(SPACES), Arc::default()).await
    }

    async fn over(store: Store, wire: Arc<Wire>) -> Self {
        let server = Server::over(store).await;
        let (random, tasks) = (Random::seeded(9), server.tasks.clone());
        let (database, users, clock) =
            (server.fixture.database.clone(), server.fixture.users.clone(), server.fixture.clock.clone());
        let (around, sync) = testing::start(&server);
        let receipts = around.receipts;
        let config = Live::new(Config::default());
        let addresses = Addresses::new(database.clone(), clock.clone());
        let sources = PusherSources {
            database,
            config: config.clone(),
            users,
            rooms: server.rooms.clone(),
            sync: sync.clone(),
            gateway: wire.clone(),
            addresses: addresses.clone(),
            mailer: wire.clone(),
            clock,
            random,
            tasks,
        };
        let pushers = Pushers::start(sources).await.unwrap();
        Self { server, sync, receipts, wire, config, addresses, pushers }
    }

    /// Ends it as SIGKILL would: nothing more is written.
    async fn killed(self) -> Self {
        let (store, wire) = (self.server.fixture.store.clone(), Arc::clone(&self.wire));
        self.server.tasks.stopping().cancel();
        assert!(self.server.tasks.shut_down(Duration::from_secs(10)).await);
        drop(self);
        wire.outcomes.lock().unwrap().clear();
        Self::over(store, wire).await
    }

    /// Somebody with a device, signed in.
    async fn person(&self, name: &str) -> Caller {
        let user = match self.server.fixture.users.number(&id(name)).await.unwrap() {
            Some(user) => user,
            None => self.server.fixture.account(name).await,
        };
        let device = self.server.fixture.sign_in(user, Some("PHONE"), false).await.device;
        Caller { user_id: id(name), user, device: Some(device) }
    }

    async fn set(&self, of: &Caller, pushkey: &str, append: bool) {
        self.pushers.set(of.user, of.device.unwrap(), row(pushkey), append).await.unwrap();
    }

    async fn room(&self, creator: &Caller, others: &[&Caller]) -> OwnedRoomId {
        self.server.fixture.clock.advance(Duration::from_millis(1));
        let mut request = ruma::api::client::room::create_room::v3::Request::new();
        request.preset = Some(ruma::api::client::room::create_room::v3::RoomPreset::PublicChat);
        let room = self.server.rooms.create(creator, &request, false).await.unwrap();
        for other in others {
            self.server.rooms.join(&room, other, serde_json::Map::new()).await.unwrap();
        }
        room
    }

    async fn say(&self, by: &Caller, room: &OwnedRoomId, text: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let transaction = TransactionName { path: "/send", id: text };
        self.server.rooms.send(room, by, "m.room.message", &content, transaction).await.unwrap()
    }

    async fn read(&self, by: &Caller, room: &OwnedRoomId, event: &OwnedEventId) {
        let room = self.server.rooms.find(room).await.unwrap().unwrap();
        let marks =
            Marks { read: Some(event.clone()), thread: ReceiptThread::Unthreaded, ..Marks::default() };
        self.receipts.mark(room.number, by.user, &by.user_id, &marks).await.unwrap();
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                let changed = self.wire.changed.notified();
                let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok();
        assert!(came, "{what}: {:?}", self.wire.asked());
    }

    async fn settled(&self) {
        self.until("settled", |world| world.pushers.is_settled()).await;
    }

    /// Lets every pause end.
    async fn later(&self, by: Duration) {
        self.server.fixture.clock.advance(by);
        self.pushers.look_again();
        self.settled().await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.tasks.stopping().cancel();
    }
}

fn row(pushkey: &str) -> PusherRow {
    PusherRow {
        pushkey: pushkey.to_owned(),
        app_id: "org.example.app".to_owned(),
        app_display_name: "App".to_owned(),
        device_display_name: "Phone".to_owned(),
        profile_tag: None,
        lang: "en".to_owned(),
        url: URL.to_owned(),
        format: None,
        data: json!({ "a": 1 }).to_string(),
        set_ms: 0,
    }
}

#[tokio::test]
async fn who_has_a_pusher_is_told_and_nobody_else() {
    let world = World::new().await;
    let (alice, bob, carol) =
        (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let room = world.room(&alice, &[&bob, &carol]).await;
    world.say(&alice, &room, "before").await;
    world.settled().await;
    world.set(&bob, "B", false).await;
    world.say(&alice, &room, "hello").await;
    world.settled().await;
    assert_eq!(world.wire.asked(), ["B hello"]);
    let told = world.wire.last();
    assert_eq!(told["counts"], json!({ "unread": 2 }));
    assert_eq!(told["sender"], "@alice:example.org");
    assert_eq!(told["type"], "m.room.message");
    let device = &told["devices"][0];
    assert_eq!(device["data"], json!({ "a": 1 }));
    assert_eq!(
        (device["app_id"].as_str(), &device["pushkey_ts"]),
        (Some("org.example.app"), &json!(1_700_000_000))
    );
    // Who says a name makes it loud; whoever leaves hears nothing more.
    world.say(&carol, &room, "bob, look").await;
    world.settled().await;
    assert_eq!(world.wire.last()["devices"][0]["tweaks"], json!({ "highlight": true, "sound": "default" }));
    world.server.rooms.leave(&room, &bob, &MembershipOptions::default()).await.unwrap();
    world.say(&alice, &room, "gone").await;
    world.settled().await;
    assert!(!world.wire.asked().contains(&"B gone".to_owned()));
}

#[tokio::test]
async fn what_is_read_lowers_the_count_once() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "B", false).await;
    world.say(&alice, &room, "one").await;
    let two = world.say(&alice, &room, "two").await;
    world.settled().await;
    world.read(&bob, &room, &two).await;
    world.settled().await;
    assert_eq!(world.wire.asked(), ["B one", "B two", "B 0"]);
    // Nothing is unread, so nothing is to be said about what they write.
    world.say(&bob, &room, "three").await;
    world.settled().await;
    assert_eq!(world.wire.asked().len(), 3);
}

#[tokio::test]
async fn invitations_are_told() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    world.set(&bob, "B", false).await;
    let room = world.room(&alice, &[]).await;
    world.server.rooms.invite(&room, &alice, &bob.user_id, &MembershipOptions::default()).await.unwrap();
    world.settled().await;
    assert_eq!(world.wire.asked().first().map(String::as_str), Some("B invite"));
    assert_eq!(world.wire.asked.lock().unwrap()[0]["user_is_target"], true);
}

#[tokio::test]
async fn a_gateway_that_fails_gets_everything_later_and_in_order() {
    let world = World::new().await;
    let (alice, bob, carol) =
        (world.person("alice").await, world.person("bob").await, world.person("carol").await);
    let room = world.room(&alice, &[&bob, &carol]).await;
    world.set(&bob, "B", false).await;
    world.wire.will(&[Outcome::Fails, Outcome::Refuses]);
    world.say(&alice, &room, "one").await;
    world.settled().await;
    world.say(&alice, &room, "two").await;
    world.settled().await;
    assert_eq!(world.wire.asked(), ["B one"]);
    // One who waits holds up no other.
    world.set(&carol, "C", false).await;
    world.wire.outcomes.lock().unwrap().push_front(Outcome::Hangs);
    world.say(&alice, &room, "three").await;
    world.until("carol is told", |world| world.wire.asked().contains(&"C three".to_owned())).await;
    world.server.fixture.clock.advance(Duration::from_secs(2));
    world.pushers.look_again();
    world.until("bob is tried again", |world| world.wire.asked().len() == 3).await;
    world.server.fixture.clock.advance(Duration::from_secs(4));
    world.until("it is refused", |world| world.wire.outcomes.lock().unwrap().is_empty()).await;
    world.pushers.look_again();
    world.until("all arrives", |world| world.wire.asked().contains(&"B three".to_owned())).await;
    let of_bob: Vec<_> = world.wire.asked().into_iter().filter(|asked| asked.starts_with('B')).collect();
    assert_eq!(of_bob, ["B one", "B one", "B one", "B two", "B three"]);
}

#[tokio::test]
async fn a_notification_that_is_always_refused_or_a_day_old_is_given_up() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "B", false).await;
    world.wire.will(&vec![Outcome::Refuses; 6]);
    world.say(&alice, &room, "bad").await;
    world.settled().await;
    for _ in 0..5 {
        world.later(Duration::from_secs(3_600)).await;
    }
    world.say(&alice, &room, "good").await;
    world.settled().await;
    assert_eq!(world.wire.asked().last().map(String::as_str), Some("B good"));
    world.wire.will(&[Outcome::Fails]);
    world.say(&alice, &room, "late").await;
    world.settled().await;
    world.later(Duration::from_secs(25 * 3_600)).await;
    let late = world.wire.asked().into_iter().filter(|asked| asked == "B late").count();
    assert_eq!(late, 1);
}

#[tokio::test]
async fn rejected_push_keys_and_signed_out_devices_end_a_pusher() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "B", false).await;
    world.wire.will(&[Outcome::Rejects("other"), Outcome::Rejects("B")]);
    world.say(&alice, &room, "one").await;
    world.settled().await;
    assert_eq!(world.pushers.list(bob.user).await.unwrap().len(), 1);
    world.say(&alice, &room, "two").await;
    world.settled().await;
    assert_eq!(world.pushers.list(bob.user).await.unwrap(), []);
    world.say(&alice, &room, "three").await;
    world.settled().await;
    assert_eq!(world.wire.asked().last().map(String::as_str), Some("B two"));

    world.set(&bob, "B", false).await;
    world.wire.will(&[Outcome::Fails]);
    world.say(&alice, &room, "four").await;
    world.settled().await;
    let devices = &world.server.fixture.devices;
    devices.delete(Actor::User(bob.user), bob.user, &[bob.device.unwrap()]).await.unwrap();
    world.later(Duration::from_secs(3_600)).await;
    assert_eq!(world.pushers.list(bob.user).await.unwrap(), []);
    let database = &world.server.fixture.database;
    assert_eq!(queued(database).await.unwrap(), []);
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_over_a_kill() {
    let mut world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "B", false).await;
    world.say(&alice, &room, "taken").await;
    world.settled().await;
    world.wire.will(&[Outcome::Hangs]);
    world.say(&alice, &room, "hangs").await;
    world.until("it hangs", |world| world.wire.asked().len() == 2).await;
    world.say(&alice, &room, "behind").await;
    world = world.killed().await;
    world.settled().await;
    assert_eq!(world.wire.asked(), ["B taken", "B hangs", "B hangs", "B behind"]);
}

#[tokio::test]
async fn a_push_key_belongs_to_who_set_it_last() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "K", false).await;
    world.set(&alice, "K", true).await;
    let both = [&alice, &bob];
    let mut counts = Vec::new();
    for of in both {
        counts.push(world.pushers.list(of.user).await.unwrap().len());
    }
    assert_eq!(counts, [1, 1]);
    world.set(&alice, "K", false).await;
    assert_eq!(world.pushers.list(bob.user).await.unwrap(), []);
    world.say(&alice, &room, "hello").await;
    world.settled().await;
    assert!(world.wire.asked().is_empty());
    world.pushers.remove(alice.user, "org.example.app", "K").await.unwrap();
    assert_eq!(world.pushers.list(alice.user).await.unwrap(), []);
}

#[tokio::test]
async fn gateways_learn_nothing_but_ids_where_the_configuration_says_so() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let room = world.room(&alice, &[&bob]).await;
    world.set(&bob, "B", false).await;
    let mut config = Config::default();
    config.push.event_id_only = true;
    drop(world.config.reload(&config));
    let event = world.say(&alice, &room, "a secret").await;
    world.settled().await;
    let mut told = world.wire.last();
    assert_eq!(told["devices"][0].as_object().unwrap().len(), 4);
    told.as_object_mut().unwrap().remove("devices");
    assert_eq!(
        told,
        json!({ "event_id": event, "room_id": room, "counts": { "unread": 1 }, "prio": "high" })
    );
    let text = format!("{:?}", world.wire.asked.lock().unwrap());
    assert!(!text.contains("secret") && !text.contains("alice"), "{text}");
}

#[tokio::test]
async fn lists_of_notifications_go_over_all_rooms_page_by_page() {
    let world = World::new().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let (one, two) = (world.room(&alice, &[]).await, world.room(&alice, &[]).await);
    world.say(&alice, &one, "before bob came").await;
    for room in [&one, &two] {
        world.server.rooms.join(room, &bob, serde_json::Map::new()).await.unwrap();
    }
    let mut expected = Vec::new();
    for number in 0..12 {
        let (room, text) = (if number % 3 == 0 { &one } else { &two }, format!("text {number}"));
        let event = world.say(&alice, room, &text).await;
        if number == 5 {
            world.read(&bob, room, &event).await;
        }
        expected.push(text);
    }
    world.say(&alice, &one, "bob!").await;
    world.say(&bob, &one, "mine").await;
    let database = world.server.fixture.database.clone();
    let notifications = Notifications::new(database, world.server.rooms.clone(), world.sync.clone());
    let (mut from, mut listed, mut read) = (None, Vec::new(), 0);
    loop {
        let page = notifications.page(&bob, from, 5, false).await.unwrap();
        for one in &page.notifications {
            let event: Value = serde_json::from_slice(&one.event).unwrap();
            listed.push(event["content"]["body"].as_str().unwrap().to_owned());
            read += u32::from(one.read);
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    listed.reverse();
    expected.push("bob!".to_owned());
    assert_eq!(listed, expected);
    // In the room where the receipt is: 1, 2, 4 and 5.
    assert_eq!(read, 4);
    let loud = notifications.page(&bob, None, 5, true).await.unwrap();
    assert_eq!(loud.notifications.len(), 1);
    assert!(loud.notifications[0].actions.iter().any(ruma::push::Action::is_highlight));
}
