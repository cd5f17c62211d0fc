//! What goes to which server, seen from the other end of the wire.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use ruma::{
    OwnedEventId, RoomVersionId, owned_server_name, server_name, to_device::DeviceIdOrAllDevices, user_id,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    ledger::{Ledger, LedgerKind, LedgerQuery, LedgerSubject},
    *,
};
use crate::{
    config::{Config, FederationMode, Live},
    rooms::{
        Room,
        membership::MembershipOptions,
        testing::{Remote, Server},
    },
    tables::{outbox::LaggingRoom, rooms::EventStatus},
    to_device::{Sender, ToDevice},
    wake::Wakes,
};

/// What one server was sent in one transaction.
#[derive(Clone, Debug)]
struct Taken {
    server: String,
    transaction: String,
    body: Value,
}

/// Servers that take what they are sent, but for those that are down.
#[derive(Default)]
struct Wire {
    taken: Mutex<Vec<Taken>>,
    down: Mutex<BTreeSet<String>>,
    /// A transaction with this text is rejected.
    rejected: Mutex<Option<String>>,
    changed: Notify,
}

impl Transport for Wire {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        transaction_id: &'a str,
        body: &'a RawValue,
    ) -> BoxFuture<'a, Result<(), SendFailure>> {
        let outcome = if self.down.lock().unwrap().contains(server.as_str()) {
            Err(SendFailure::Unreachable("down".to_owned()))
        } else if self.rejected.lock().unwrap().as_ref().is_some_and(|text| body.get().contains(text)) {
            Err(SendFailure::Rejected("bad".to_owned()))
        } else {
            let (server, transaction) = (server.to_string(), transaction_id.to_owned());
            let body = serde_json::from_str(body.get()).unwrap();
            self.taken.lock().unwrap().push(Taken { server, transaction, body });
            Ok(())
        };
        self.changed.notify_waiters();
        async move { outcome }.boxed()
    }
}

impl Wire {
    /// The texts of messages, and types of other events, that a server got, in order.
    fn got(&self, server: &str) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let events = taken.iter().filter(|taken| taken.server == server);
        let events = events.flat_map(|taken| taken.body["pdus"].as_array().unwrap().clone());
        let name = |event: Value| {
            let body = event["content"]["body"].as_str().map(str::to_owned);
            let membership = event["content"]["membership"].as_str().map(str::to_owned);
            body.or(membership).unwrap_or_else(|| event["type"].as_str().unwrap().to_owned())
        };
        events.map(name).collect()
    }

    /// The ephemeral data of a type that a server got, in order.
    fn edus(&self, server: &str, kind: &str) -> Vec<Value> {
        let taken = self.taken.lock().unwrap();
        let edus = taken.iter().filter(|taken| taken.server == server);
        let edus = edus.flat_map(|taken| taken.body["edus"].as_array().unwrap().clone());
        edus.filter(|edu| edu["edu_type"] == kind).map(|edu| edu["content"].clone()).collect()
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(self) {
                    return;
                }
                // What is not on the wire is looked at again by and by.
                let _ = tokio::time::timeout(Duration::from_millis(20), changed).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok();
        assert!(came, "{what}: {:#?}", self.taken.lock().unwrap());
    }
}

struct World {
    server: Server,
    remote: Remote,
    room: Arc<Room>,
    /// The last event that the other servers know.
    last: OwnedEventId,
    wire: Arc<Wire>,
    outbox: Outbox,
    typing: Typing,
    presence: Presence,
    tasks: Tasks,
    alice: UserNumber,
}

const ALL: [&str; 3] = ["bad.test", "other.test", "remote.test"];

impl World {
    /// `@alice` of this server in a room with people of three others.
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let server = Server::new().await;
        let alice = server.fixture.account("alice").await;
        let wire = Arc::new(Wire::default());
        let typing = Typing::new(server.fixture.clock.clone(), Wakes::new(), crate::typing::Sequence::new());
        let mut config = Config::default();
        config.federation.mode = FederationMode::Open;
        change(&mut config);
        let tasks = Tasks::new();
        let presence =
            Presence::new(server.fixture.clock.clone(), Wakes::new(), crate::typing::Sequence::new());
        let outbox = start(&server, &wire, (&typing, &presence), config, &tasks).await;
        let (mut remote, events) = Remote::new(RoomVersionId::V11);
        let (room, last) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        Self { server, remote, room, last, wire, outbox, typing, presence, tasks, alice }
    }

    /// Stops the outbox, and starts it again.
    async fn restart(&mut self) {
        assert!(self.tasks.shut_down(Duration::from_secs(10)).await);
        self.tasks = Tasks::new();
        let mut config = Config::default();
        config.federation.mode = FederationMode::Open;
        self.outbox =
            start(&self.server, &self.wire, (&self.typing, &self.presence), config, &self.tasks).await;
    }

    async fn say(&self, text: &str) {
        self.server.say(&self.room, "alice", text).await;
    }

    /// Waits until a server counts as away.
    async fn misses(&self, server: &ServerName) {
        let away = || self.outbox.0.book().get(server).is_some_and(|of| !of.backoff.is_well());
        self.wire.until("that somebody is away", |_| away()).await;
    }

    /// Something that another server's user does.
    async fn live(&mut self, event: OwnedEventId) {
        assert_eq!(self.server.live(&self.room, &self.remote, &event).await, EventStatus::Timeline);
        self.last = event;
    }

    async fn everybody_got(&self, expected: &[&str]) {
        for server in ALL {
            self.wire.until(server, |wire| wire.got(server) == expected).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

async fn start(
    server: &Server,
    wire: &Arc<Wire>,
    (typing, presence): (&Typing, &Presence),
    config: Config,
    tasks: &Tasks,
) -> Outbox {
    let fixture = &server.fixture;
    let transport: Arc<dyn Transport> = wire.clone();
    let random = Random::seeded(fixture.store.head().get());
    let own_name = fixture.users.server_name().to_owned();
    let (database, users, devices) =
        (fixture.database.clone(), fixture.users.clone(), fixture.devices.clone());
    Outbox::start(OutboxSources {
        keys: Keys::new(database.clone(), users.clone(), devices.clone()),
        database,
        rooms: server.rooms.clone(),
        users,
        devices,
        typing: typing.clone(),
        presence: presence.clone(),
        policy: Policy::new(Live::new(config), own_name.clone()),
        identity: Identity::ephemeral(own_name, &random).unwrap(),
        transport,
        clock: fixture.clock.clone(),
        random,
        tasks: tasks.clone(),
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn events_go_to_the_servers_that_were_in_the_room() {
    let mut world = World::new().await;
    world.say("one").await;
    // What others say is theirs to send.
    let bob = world.remote.message("@bob:remote.test", &[&world.last.clone()], "from bob");
    world.live(bob).await;
    world.say("two").await;
    world.everybody_got(&["one", "two"]).await;

    let kick = world.remote.member("@bob:remote.test", &[&world.last.clone()], "@mallory:bad.test", "leave");
    world.live(kick).await;
    world.say("three").await;
    for server in ["other.test", "remote.test"] {
        world.wire.until(server, |wire| wire.got(server) == ["one", "two", "three"]).await;
    }
    assert_eq!(world.wire.got("bad.test"), ["one", "two"]);
}

#[tokio::test]
async fn who_is_put_out_is_told_so_and_nothing_more() {
    let mut world = World::new().await;
    let levels = json!({ "users": { "@bob:remote.test": 100, "@alice:example.org": 100 } });
    let last = world.last.clone();
    let levels = world.remote.event("@bob:remote.test", &[&last], "m.room.power_levels", Some(""), &levels);
    world.live(levels).await;
    let alice = world.server.caller("alice").await;
    let rooms = world.server.rooms.clone();
    let options = MembershipOptions::default();
    rooms.kick(&world.room.room_id, &alice, user_id!("@carol:other.test"), &options).await.unwrap();
    rooms.ban(&world.room.room_id, &alice, user_id!("@mallory:bad.test"), &options).await.unwrap();
    world.say("secret").await;
    world.wire.until("the rest", |wire| wire.got("remote.test") == ["leave", "ban", "secret"]).await;
    world.wire.until("the kicked", |wire| wire.got("other.test") == ["leave"]).await;
    world.wire.until("the banned", |wire| wire.got("bad.test") == ["leave", "ban"]).await;
}

#[tokio::test]
async fn servers_that_may_not_be_spoken_to_are_left_out() {
    let denied = |config: &mut Config| config.federation.deny = vec![owned_server_name!("other.test")];
    let mut world = World::with(denied).await;
    world.say("one").await;
    world.wire.until("those allowed", |wire| wire.got("bad.test") == ["one"]).await;
    world.wire.until("those allowed", |wire| wire.got("remote.test") == ["one"]).await;
    let acl = json!({ "allow": ["*"], "deny": ["bad.test"] });
    let last = world.last.clone();
    let acl = world.remote.event("@bob:remote.test", &[&last], "m.room.server_acl", Some(""), &acl);
    world.live(acl).await;
    world.say("two").await;
    world.wire.until("those in the room", |wire| wire.got("remote.test") == ["one", "two"]).await;
    assert_eq!(world.wire.got("bad.test"), ["one"]);
    assert_eq!(world.wire.got("other.test"), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_was_away_gets_what_it_missed() {
    let mut world = World::new().await;
    world.wire.down.lock().unwrap().insert("other.test".to_owned());
    let count = 130;
    for number in 0..count {
        world.say(&number.to_string()).await;
    }
    world.wire.until("the others", |wire| wire.got("remote.test").len() == count).await;
    world.misses(server_name!("other.test")).await;
    // What it missed is remembered over a restart.
    world.restart().await;
    let rows = world.server.fixture.database.scan_all(crate::database::Range::<LaggingRoom>::whole()).await;
    assert_eq!(rows.unwrap().len(), 1);
    assert_eq!(world.wire.got("other.test"), Vec::<String>::new());

    world.wire.down.lock().unwrap().clear();
    world.outbox.wake(server_name!("other.test"));
    let missed: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    world.wire.until("what it missed", |wire| wire.got("other.test") == missed).await;
    world.say("now").await;
    world.wire.until("what comes now", |wire| wire.got("other.test").last().unwrap() == "now").await;
    assert_eq!(world.wire.got("other.test").len(), count + 1);
    let largest = world
        .wire
        .taken
        .lock()
        .unwrap()
        .iter()
        .map(|taken| taken.body["pdus"].as_array().unwrap().len())
        .max();
    assert!(largest <= Some(50), "{largest:?}");
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let mut world = World::new().await;
    world.say("one").await;
    world.everybody_got(&["one"]).await;
    assert!(world.tasks.shut_down(Duration::from_secs(10)).await);
    world.say("two").await;
    world.restart().await;
    world.say("three").await;
    world.everybody_got(&["one", "two", "three"]).await;
    let taken = world.wire.taken.lock().unwrap().clone();
    let names: BTreeSet<_> = taken.iter().map(|taken| (&taken.server, &taken.transaction)).collect();
    assert_eq!(names.len(), taken.len(), "two transactions have one id");
    assert!(taken.iter().all(|taken| taken.body["origin"] == "example.org"));
}

/// CVE-2025-30355: one event that a server could not read stopped everything else.
#[tokio::test]
async fn cve_2025_30355_one_bad_event_stops_nothing_else() {
    let world = World::new().await;
    world.wire.down.lock().unwrap().insert("remote.test".to_owned());
    world.say("before").await;
    world.misses(server_name!("remote.test")).await;
    *world.wire.rejected.lock().unwrap() = Some("dreadful".to_owned());
    for text in ["one", "dreadful", "two", "three"] {
        world.say(text).await;
    }
    world.wire.down.lock().unwrap().clear();
    world.outbox.wake(server_name!("remote.test"));
    world.everybody_got(&["before", "one", "two", "three"]).await;
}

#[tokio::test]
async fn typing_is_told_once_and_its_end_too() {
    let world = World::new().await;
    let alice = world.server.caller("alice").await;
    for _ in 0..3 {
        world.typing.start(world.room.number, alice.user, &alice.user_id, Duration::from_secs(30));
    }
    let bob = world.server.fixture.users.number_or_new(user_id!("@bob:remote.test")).await.unwrap();
    world.typing.start(world.room.number, bob, user_id!("@bob:remote.test"), Duration::from_secs(30));
    world.wire.until("started", |wire| wire.edus("other.test", "m.typing").len() == 1).await;
    world.typing.stop(world.room.number, alice.user);
    world.wire.until("stopped", |wire| wire.edus("other.test", "m.typing").len() == 2).await;
    let told = world.wire.edus("other.test", "m.typing");
    let said =
        |typing| json!({ "room_id": world.room.room_id, "user_id": "@alice:example.org", "typing": typing });
    assert_eq!(told, [said(true), said(false)]);
}

#[tokio::test]
async fn who_is_online_is_told_where_they_are_known() {
    let world = World::new().await;
    let alice = world.server.caller("alice").await;
    let rooms = Arc::new(roaring::RoaringBitmap::from([world.room.number.0]));
    let bob = user_id!("@bob:remote.test");
    let number = world.server.fixture.users.number_or_new(bob).await.unwrap();
    for (user, user_id) in [(number, bob), (alice.user, &*alice.user_id)] {
        let state = ruma::presence::PresenceState::Online;
        world.presence.set(user, user_id, Arc::clone(&rooms), state, Some("here".to_owned())).unwrap();
    }
    for server in ALL {
        world.wire.until("who is online", |wire| !wire.edus(server, "m.presence").is_empty()).await;
        let told = world.wire.edus(server, "m.presence");
        let expected = json!({ "push": [{
            "user_id": alice.user_id, "presence": "online", "last_active_ago": 0,
            "currently_active": true, "status_msg": "here",
        }] });
        assert_eq!(told, [expected]);
    }
}

#[tokio::test]
async fn devices_are_told_in_a_chain() {
    let world = World::new().await;
    let alice = world.alice;
    world.server.fixture.sign_in(alice, Some("ONE"), false).await;
    let updates = |wire: &Wire| wire.edus("remote.test", "m.device_list_update");
    world.wire.until("the first", |wire| updates(wire).len() == 1).await;
    world.server.fixture.sign_in(alice, Some("TWO"), false).await;
    world.wire.until("the second", |wire| updates(wire).len() == 2).await;
    world
        .server
        .fixture
        .devices
        .delete_by_id(crate::audit::Actor::User(alice), alice, &["ONE".into()])
        .await
        .unwrap();
    world.wire.until("the end of the first", |wire| updates(wire).len() == 3).await;
    let told = updates(&world.wire);
    let devices: Vec<_> = told.iter().map(|update| update["device_id"].as_str().unwrap()).collect();
    assert_eq!(devices, ["ONE", "TWO", "ONE"]);
    assert_eq!(told[2]["deleted"], true);
    assert_eq!(told[0]["prev_id"], json!([]));
    assert_eq!(told[1]["prev_id"], json!([told[0]["stream_id"]]));
    assert_eq!(told[2]["prev_id"], json!([told[1]["stream_id"]]));
    assert_eq!(world.outbox.device_stream(alice).await.unwrap(), told[2]["stream_id"].as_u64().unwrap());
}

#[tokio::test]
async fn a_change_of_devices_is_told_once_to_each_server_however_many_rooms_are_shared() {
    let world = World::new().await;
    for number in 0..2 {
        let (mut remote, events) =
            Remote::another(RoomVersionId::V11, &format!("!shared{number}:remote.test"));
        world.server.adopt(&mut remote, &[events.last().unwrap()]).await;
    }
    let updates = |wire: &Wire, server: &str| wire.edus(server, "m.device_list_update");
    for (number, device) in ["ONE", "TWO"].into_iter().enumerate() {
        world.server.fixture.sign_in(world.alice, Some(device), false).await;
        for server in ALL {
            world.wire.until(server, |wire| updates(wire, server).len() > number).await;
        }
    }
    for server in ALL {
        let told = updates(&world.wire, server);
        let devices: Vec<_> = told.iter().map(|update| update["device_id"].as_str().unwrap()).collect();
        assert_eq!(devices, ["ONE", "TWO"], "{server}");
        assert_eq!(told[1]["prev_id"], json!([told[0]["stream_id"]]));
    }
}

#[tokio::test]
async fn messages_to_devices_elsewhere_are_sent_once_for_each_transaction() {
    let world = World::new().await;
    let fixture = &world.server.fixture;
    let phone = fixture.sign_in(world.alice, Some("PHONE"), false).await.device;
    let inbox = ToDevice::new(
        fixture.database.clone(),
        fixture.users.clone(),
        fixture.devices.clone(),
        fixture.clock.clone(),
    );
    inbox.reach_out(world.outbox.0.sources.policy.clone());
    let content = serde_json::value::to_raw_value(&json!({ "n": 1 })).unwrap();
    let to_all = BTreeMap::from([(DeviceIdOrAllDevices::AllDevices, content)]);
    let messages = BTreeMap::from([
        (user_id!("@bob:remote.test").to_owned(), to_all.clone()),
        (user_id!("@carol:other.test").to_owned(), to_all),
    ]);
    let sender = Sender { user_id: user_id!("@alice:example.org"), device: phone };
    world.wire.down.lock().unwrap().insert("remote.test".to_owned());
    inbox.send(sender, "m.test", "1", &messages).await.unwrap();
    inbox.send(sender, "m.test", "1", &messages).await.unwrap();
    inbox.send(sender, "m.test", "2", &messages).await.unwrap();
    world.wire.until("two", |wire| wire.edus("other.test", "m.direct_to_device").len() == 2).await;
    world.misses(server_name!("remote.test")).await;
    world.wire.down.lock().unwrap().clear();
    world.outbox.wake(server_name!("remote.test"));
    world.wire.until("two", |wire| wire.edus("remote.test", "m.direct_to_device").len() == 2).await;
    let told = world.wire.edus("remote.test", "m.direct_to_device");
    assert_eq!(told[0]["messages"], json!({ "@bob:remote.test": { "*": { "n": 1 } } }));
    assert_eq!((&told[0]["sender"], &told[0]["type"]), (&json!("@alice:example.org"), &json!("m.test")));
    assert_ne!(told[0]["message_id"], told[1]["message_id"]);
    assert!(told[0]["message_id"].as_str().unwrap().len() <= 32);
}

#[tokio::test]
async fn the_ledger_says_who_was_given_what() {
    let world = World::new().await;
    world.say("one").await;
    world.say("two").await;
    world.everybody_got(&["one", "two"]).await;
    assert!(world.tasks.shut_down(Duration::from_secs(10)).await);
    let ledger = Ledger::new(world.server.fixture.database.clone());
    let partner = LedgerQuery::Partner(owned_server_name!("other.test"));
    let lines = ledger.query(&partner).await.unwrap();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((line.kind, line.count), (LedgerKind::Event, 2));
    assert_eq!(line.subject, LedgerSubject::Room(world.room.number));
    assert!(line.bytes > 200 && line.first_ms <= line.last_ms);
    let of_room = LedgerQuery::Subject(LedgerSubject::Room(world.room.number));
    let servers: Vec<_> = ledger.query(&of_room).await.unwrap().into_iter().map(|line| line.server).collect();
    assert_eq!(servers.iter().map(|server| server.as_str()).collect::<BTreeSet<_>>(), BTreeSet::from(ALL));
}
