//! What application services are sent, in which order, and what one that does not answer makes of it.

use std::{collections::VecDeque, time::Duration};

use allod_storage::Store;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Method, StatusCode};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomVersionId, api::client::room::create_room::v3 as create,
    events::receipt::ReceiptThread, owned_server_name, server_name, to_device::DeviceIdOrAllDevices,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{transport::CallError, *};
use crate::{
    accounts::testing::id,
    bridges::Registration,
    receipts::Marks,
    rooms::{
        outside::OutsideMember,
        send::{Caller, TransactionName},
        testing::{Remote, Server},
    },
    sync::{SyncSources, testing},
    tables::SPACES,
    to_device::Sender,
};

/// Bridges that answer as they are told, and with success otherwise.
#[derive(Default)]
struct Wire {
    answers: Mutex<VecDeque<Option<u16>>>,
    called: Mutex<Vec<(String, String, Value)>>,
    changed: Notify,
}

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        bridge: &'a Bridge,
        method: Method,
        path: &'a str,
        body: Option<Bytes>,
    ) -> BoxFuture<'a, Result<Called, CallError>> {
        let body = body.map(|body| serde_json::from_slice(&body).unwrap()).unwrap_or_default();
        let call = (bridge.registration.id.clone(), format!("{method} {path}"), body);
        self.called.lock().unwrap().push(call);
        self.changed.notify_waiters();
        let answer = self.answers.lock().unwrap().pop_front();
        let answer = match answer {
            None => Ok(200),
            Some(Some(status)) => Ok(status),
            Some(None) => Err(CallError::Failed("away".to_owned())),
        };
        let called = answer.map(|status| Called {
            status: StatusCode::from_u16(status).unwrap(),
            body: Bytes::from_static(b"{\"instances\":[{\"a\":1}]}"),
        });
        std::future::ready(called).boxed()
    }
}

impl Wire {
    /// The transactions that a bridge was sent: the id, and what stands for the events.
    fn transactions(&self, bridge: &str) -> Vec<(String, Vec<String>)> {
        let called = self.called.lock().unwrap();
        let of = called.iter().filter(|(id, path, _)| id == bridge && path.starts_with("PUT "));
        of.map(|(_, path, body)| {
            let events = body["events"].as_array().unwrap().iter();
            (path.rsplit('/').next().unwrap().to_owned(), events.map(name).collect())
        })
        .collect()
    }

    /// All events that a bridge was sent.
    fn events(&self, bridge: &str) -> Vec<String> {
        self.transactions(bridge).into_iter().flat_map(|(_, events)| events).collect()
    }

    /// What a bridge was sent under a name, all together.
    fn under(&self, bridge: &str, key: &str) -> Vec<Value> {
        let called = self.called.lock().unwrap();
        let of = called.iter().filter(|(id, path, _)| id == bridge && path.starts_with("PUT "));
        of.flat_map(|(.., body)| body[key].as_array().cloned().unwrap_or_default()).collect()
    }
}

fn name(event: &Value) -> String {
    let text = event["content"]["body"].as_str().map(str::to_owned);
    let member = || {
        let who = event["state_key"].as_str()?.trim_start_matches('@').split(':').next()?.to_owned();
        Some(format!("{who} {}", event["content"]["membership"].as_str()?))
    };
    text.or_else(member)
        .unwrap_or_else(|| event["type"].as_str().unwrap().trim_start_matches("m.room.").to_owned())
}

const IRC: &str = r##"
id: irc
url: http://irc.example:1
as_token: a
hs_token: b
sender_localpart: ircbot
receive_ephemeral: true
org.matrix.msc3202: true
protocols: [irc]
namespaces:
  users: [{ exclusive: true, regex: "@irc_.*:example\\.org" }]
  aliases: [{ exclusive: false, regex: "#irc_.*" }]
"##;
const MUTE: &str = "{id: mute, url: null, as_token: c, hs_token: d, sender_localpart: mutebot, \
    namespaces: {users: [{exclusive: false, regex: '.*'}]}}";

struct World {
    server: Server,
    sources: SyncSources,
    wire: Arc<Wire>,
    appservices: Appservices,
}

impl World {
    async fn new() -> Self {
        Self::over(Store::memory(SPACES), Arc::default()).await
    }

    async fn over(store: Store, wire: Arc<Wire>) -> Self {
        let server = Server::over(store).await;
        let (sources, sync) = testing::start(&server);
        let registrations = [IRC, MUTE].map(|text| Registration::parse(text).unwrap());
        let bridges = Bridges::of(registrations.to_vec(), server_name!("example.org")).unwrap();
        let appservices = Appservices::start(AppserviceSources {
            database: server.fixture.database.clone(),
            bridges,
            users: server.fixture.users.clone(),
            rooms: server.rooms.clone(),
            sync,
            keys: sources.keys.clone(),
            typing: sources.typing.clone(),
            transport: wire.clone(),
            clock: server.fixture.clock.clone(),
            random: Random::seeded(3),
            tasks: server.tasks.clone(),
        });
        Self { appservices: appservices.await.unwrap(), server, sources, wire }
    }

    async fn killed(self) -> Self {
        let (store, wire) = (self.server.fixture.store.clone(), Arc::clone(&self.wire));
        assert!(self.server.tasks.shut_down(Duration::from_secs(10)).await);
        drop(self);
        wire.answers.lock().unwrap().clear();
        Self::over(store, wire).await
    }

    async fn person(&self, name: &str) -> Caller {
        let user = match self.server.fixture.users.number(&id(name)).await.unwrap() {
            Some(user) => user,
            None => self.server.fixture.account(name).await,
        };
        let device = self.server.fixture.sign_in(user, Some("PHONE"), false).await.device;
        Caller { user_id: id(name), user, device: Some(device) }
    }

    async fn room(&self, creator: &Caller, alias: Option<&str>) -> OwnedRoomId {
        self.server.fixture.clock.advance(Duration::from_millis(1));
        let mut request = create::Request::new();
        request.preset = Some(create::RoomPreset::PublicChat);
        request.room_alias_name = alias.map(str::to_owned);
        self.server.rooms.create(creator, &request, false).await.unwrap()
    }

    async fn join(&self, who: &Caller, room: &OwnedRoomId) {
        self.server.rooms.join(room, who, serde_json::Map::new()).await.unwrap();
    }

    async fn say(&self, by: &Caller, room: &OwnedRoomId, text: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let transaction = TransactionName { path: "/send", id: text };
        self.server.rooms.send(room, by, "m.room.message", &content, transaction).await.unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                let changed = self.wire.changed.notified();
                let _ = tokio::time::timeout(Duration::from_millis(10), changed).await;
            }
        };
        let came = tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok();
        assert!(came, "{what}: {:?}", self.wire.called.lock().unwrap());
    }

    async fn settled(&self) {
        self.until("settled", |world| world.appservices.is_settled()).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.tasks.stopping().cancel();
    }
}

#[tokio::test]
async fn what_happens_where_its_users_are_is_sent_in_order_and_nothing_else() {
    let world = World::new().await;
    let (alice, ghost) = (world.person("alice").await, world.person("irc_bob").await);
    let (theirs, other) = (world.room(&alice, None).await, world.room(&alice, None).await);
    world.say(&alice, &theirs, "before").await;
    world.join(&ghost, &theirs).await;
    for number in 0..250 {
        world.say(&alice, &theirs, &format!("text {number}")).await;
    }
    world.say(&alice, &other, "elsewhere").await;
    world.settled().await;
    let expected: Vec<String> = std::iter::once("irc_bob join".to_owned())
        .chain((0..250).map(|number| format!("text {number}")))
        .collect();
    assert_eq!(world.wire.events("irc"), expected);
    let transactions = world.wire.transactions("irc");
    assert!(transactions.iter().all(|(_, events)| events.len() <= 100));
    let mut ids: Vec<_> = transactions.into_iter().map(|(id, _)| id).collect();
    ids.dedup();
    assert_eq!(ids.len(), world.wire.transactions("irc").len());
    // One without an address is sent nothing, whatever is its business.
    assert!(world.wire.transactions("mute").is_empty());
    // Aliases make rooms its business too.
    let named = world.room(&alice, Some("irc_den")).await;
    world.say(&alice, &named, "by alias").await;
    world.settled().await;
    assert!(world.wire.events("irc").contains(&"by alias".to_owned()));
}

#[tokio::test]
async fn who_does_not_answer_gets_the_same_transaction_again_and_the_rest_behind_it() {
    let world = World::new().await;
    let ghost = world.person("irc_bob").await;
    let room = world.room(&ghost, None).await;
    world.settled().await;
    world.wire.called.lock().unwrap().clear();
    world.wire.answers.lock().unwrap().extend([None, Some(500), Some(404)]);
    world.say(&ghost, &room, "one").await;
    world.settled().await;
    world.say(&ghost, &room, "two").await;
    world
        .until("it is tried again", |world| {
            world.appservices.wake(BridgeIndex(0));
            world.wire.transactions("irc").len() >= 5
        })
        .await;
    let transactions = world.wire.transactions("irc");
    assert!(transactions[..4].iter().all(|sent| sent == &transactions[0]), "{transactions:?}");
    assert_eq!(
        (&*transactions[0].1, &*transactions[4].1),
        (&["one".to_owned()][..], &["two".to_owned()][..])
    );
    assert_ne!(transactions[0].0, transactions[4].0);
}

#[tokio::test]
async fn transactions_mean_the_same_over_a_kill() {
    let mut world = World::new().await;
    let ghost = world.person("irc_bob").await;
    let room = world.room(&ghost, None).await;
    world.settled().await;
    world.wire.called.lock().unwrap().clear();
    world.wire.answers.lock().unwrap().extend(vec![None; 1_000]);
    world.say(&ghost, &room, "one").await;
    world.until("it is tried", |world| !world.wire.transactions("irc").is_empty()).await;
    world.say(&ghost, &room, "two").await;
    world = world.killed().await;
    world.settled().await;
    let mut transactions = world.wire.transactions("irc");
    transactions.dedup();
    let texts: Vec<_> = transactions.iter().map(|(_, events)| events.join(" ")).collect();
    assert_eq!(texts, ["one", "two"]);
}

#[tokio::test]
async fn ephemeral_data_and_messages_to_devices_come_along() {
    let world = World::new().await;
    let (alice, ghost) = (world.person("alice").await, world.person("irc_bob").await);
    let room = world.room(&alice, None).await;
    world.join(&ghost, &room).await;
    let event = world.say(&ghost, &room, "hello").await;
    let known = world.server.rooms.find(&room).await.unwrap().unwrap();
    world.sources.typing.start(known.number, alice.user, &alice.user_id, Duration::from_secs(9));
    let marks = Marks { read: Some(event.clone()), thread: ReceiptThread::Unthreaded, ..Marks::default() };
    world.sources.receipts.mark(known.number, alice.user, &alice.user_id, &marks).await.unwrap();
    let content = to_raw_value(&json!({ "a": 1 })).unwrap();
    let messages = [(ghost.user_id.clone(), [(DeviceIdOrAllDevices::AllDevices, content)].into())].into();
    let sender = Sender { user_id: &alice.user_id, device: alice.device.unwrap() };
    world.sources.to_device.send(sender, "m.test", "txn", &messages).await.unwrap();
    world.settled().await;
    let ephemeral = world.wire.under("irc", "ephemeral");
    let typing = json!({ "type": "m.typing", "room_id": room, "content": { "user_ids": [alice.user_id] } });
    assert!(ephemeral.contains(&typing), "{ephemeral:?}");
    let receipt = ephemeral.iter().find(|data| data["type"] == "m.receipt").unwrap();
    assert_eq!(
        receipt["content"][event.as_str()]["m.read"]["@alice:example.org"]["ts"],
        1_700_000_000_001_u64
    );
    assert_eq!(
        world.wire.under("irc", "to_device"),
        [json!({
            "type": "m.test", "sender": "@alice:example.org", "content": { "a": 1 },
            "to_user_id": "@irc_bob:example.org", "to_device_id": "PHONE",
        })]
    );
    // What it was brought does not wait any more.
    let (user, device, head) = (ghost.user, ghost.device.unwrap(), world.server.fixture.store.head());
    let left = world.sources.to_device.receive(user, device, Position::ZERO, head).await.unwrap();
    assert!(left.events.is_empty());
    let called = world.wire.called.lock().unwrap();
    let changed: Vec<&Value> =
        called.iter().map(|(.., body)| &body["org.matrix.msc3202.device_lists"]["changed"]).collect();
    assert!(
        changed.iter().any(|changed| changed.to_string().contains("@irc_bob:example.org")),
        "{changed:?}"
    );
    assert!(called.iter().any(|(.., body)| {
        body["org.matrix.msc3202.device_one_time_keys_count"]["@irc_bob:example.org"]["PHONE"].is_object()
    }));
}

#[tokio::test]
async fn invitations_to_rooms_elsewhere_are_sent() {
    let world = World::new().await;
    let ghost = world.person("irc_bob").await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let invite =
        remote.member("@bob:remote.test", &[events.last().unwrap()], ghost.user_id.as_str(), "invite");
    let member = OutsideMember {
        room_id: remote.room_id.clone(),
        version: remote.version.clone(),
        user: ghost.user_id.clone(),
        event: remote.verified(&invite),
        stripped: Vec::new(),
        via: owned_server_name!("remote.test"),
    };
    world.server.rooms.set_outside(member).await.unwrap();
    world.settled().await;
    assert_eq!(world.wire.events("irc"), ["irc_bob invite"]);
    let called = world.wire.called.lock().unwrap();
    let event = &called[0].2["events"][0];
    assert_eq!(
        (&event["room_id"], &event["unsigned"]["invite_room_state"]),
        (&json!(remote.room_id), &json!([]))
    );
}

#[tokio::test]
async fn questions_reach_those_who_may_know() {
    let world = World::new().await;
    let asked =
        || world.wire.called.lock().unwrap().last().cloned().map(|(id, path, _)| format!("{id} {path}"));
    assert!(world.appservices.makes_user(&id("irc_new")).await);
    assert_eq!(asked().unwrap(), "irc GET /_matrix/app/v1/users/%40irc_new%3Aexample.org");
    world.wire.answers.lock().unwrap().push_back(Some(404));
    let alias = ruma::room_alias_id!("#irc_den:example.org");
    assert!(!world.appservices.makes_alias(alias).await);
    assert_eq!(asked().unwrap(), "irc GET /_matrix/app/v1/rooms/%23irc_den%3Aexample.org");
    let protocols = world.appservices.protocols().await;
    assert_eq!(serde_json::Value::Object(protocols), json!({ "irc": { "instances": [{ "a": 1 }] } }));
    assert!(world.appservices.protocol("xmpp").await.is_none());
    assert!(world.appservices.ping(BridgeIndex(0), Some("t")).await.is_ok());
    assert_eq!(world.wire.called.lock().unwrap().last().unwrap().2, json!({ "transaction_id": "t" }));
    world.wire.answers.lock().unwrap().extend([Some(403), None]);
    assert!(matches!(world.appservices.ping(BridgeIndex(0), None).await, Err(PingError::Status { .. })));
    assert!(matches!(world.appservices.ping(BridgeIndex(0), None).await, Err(PingError::Failed(_))));
    assert!(matches!(world.appservices.ping(BridgeIndex(1), None).await, Err(PingError::NoUrl)));
}
