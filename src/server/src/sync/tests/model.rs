//! A client that believes every answer, against the rooms as they are: random histories from seeds.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use super::world::{World, token};
use crate::rooms::membership::MembershipOptions;

pub(super) const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// What a client knows of a room: state, and messages in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    pub(super) state: BTreeMap<(String, String), String>,
    pub(super) messages: Vec<String>,
}

/// A client of one user.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) token: Option<String>,
    pub(super) rooms: BTreeMap<String, Known>,
    pub(super) invited: Vec<String>,
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

impl Client {
    pub(super) fn apply(&mut self, answer: &Value) {
        for (room, shown) in answer["rooms"]["join"].as_object().into_iter().flatten() {
            self.invited.retain(|other| other != room);
            let known = self.rooms.entry(room.clone()).or_default();
            if shown["timeline"]["limited"] == true {
                known.messages.clear();
            }
            for event in shown["state"]["events"].as_array().unwrap() {
                known.set(event);
            }
            for event in shown["timeline"]["events"].as_array().unwrap() {
                if event.get("state_key").is_some() {
                    known.set(event);
                } else if !known.messages.contains(&text(&event["event_id"])) {
                    known.messages.push(text(&event["event_id"]));
                }
            }
        }
        for (room, _) in answer["rooms"]["leave"].as_object().into_iter().flatten() {
            self.rooms.remove(room);
            self.invited.retain(|other| other != room);
        }
        for (room, _) in answer["rooms"]["invite"].as_object().into_iter().flatten() {
            self.rooms.remove(room);
            self.invited.push(room.clone());
            self.invited.sort();
            self.invited.dedup();
        }
        self.token = Some(token(answer).to_owned());
    }
}

impl Known {
    fn set(&mut self, event: &Value) {
        let key = (text(&event["type"]), text(&event["state_key"]));
        self.state.insert(key, text(&event["event_id"]));
    }
}

/// Someone does something; what the rules forbid does not happen.
pub(super) async fn act(world: &World, rooms: &[OwnedRoomId], random: &mut StdRng) {
    let (name, other) = (*NAMES.choose(random).unwrap(), *NAMES.choose(random).unwrap());
    let room = rooms.choose(random).unwrap();
    let caller = world.caller(name);
    let options = MembershipOptions::default();
    let content = serde_json::value::to_raw_value(&json!({ "msgtype": "m.text", "body": "x" })).unwrap();
    match random.random_range(0..12) {
        0 => drop(world.rooms.join(room, caller, serde_json::Map::new()).await),
        1 => drop(world.rooms.leave(room, caller, &options).await),
        2 => drop(world.rooms.invite(room, caller, &world.caller(other).user_id, &options).await),
        3 => drop(world.rooms.kick(room, caller, &world.caller(other).user_id, &options).await),
        4 => {
            let content = json!({ "topic": random.random::<u32>().to_string() });
            let content = serde_json::value::to_raw_value(&content).unwrap();
            drop(world.rooms.set_state(room, caller, "m.room.topic", "", &content).await);
        }
        number => {
            let id = random.random::<u64>().to_string();
            let transaction = crate::rooms::send::TransactionName { path: "/send", id: &id };
            let kind = if number == 5 { "x.other" } else { "m.room.message" };
            drop(world.rooms.send(room, caller, kind, &content, transaction).await);
        }
    }
}

/// Compares what a client knows with a fresh look.
async fn check(world: &World, name: &str, client: &Client, seed: u64) {
    let mut fresh = Client::default();
    let filter = json!({ "room": { "timeline": { "limit": 100 } } });
    fresh.apply(&world.sync_with(name, None, filter).await);
    assert_eq!(client.invited, fresh.invited, "seed {seed}, {name}");
    assert_eq!(
        client.rooms.keys().collect::<Vec<_>>(),
        fresh.rooms.keys().collect::<Vec<_>>(),
        "seed {seed}, {name}"
    );
    for (room, known) in &client.rooms {
        let truth = &fresh.rooms[room];
        assert_eq!(known.state, truth.state, "seed {seed}, {name}, {room}");
        // After a gap a client has the newest messages only.
        assert!(truth.messages.ends_with(&known.messages), "seed {seed}, {name}, {room}");
    }
}

async fn run(seed: u64) {
    let world = World::new(&NAMES).await;
    let mut random = StdRng::seed_from_u64(seed);
    let rooms = vec![world.room("alice").await, world.room("bob").await, world.room("carol").await];
    let mut clients: BTreeMap<&str, Client> = NAMES.iter().map(|name| (*name, Client::default())).collect();
    let limit = random.random_range(1..8);
    let filter = json!({ "room": { "timeline": { "limit": limit } } });
    for _ in 0..120 {
        for _ in 0..random.random_range(0..6) {
            act(&world, &rooms, &mut random).await;
        }
        let name = *NAMES.choose(&mut random).unwrap();
        let client = clients.get_mut(name).unwrap();
        let answer = world.sync_with(name, client.token.as_deref(), filter.clone()).await;
        client.apply(&answer);
        check(&world, name, client, seed).await;
    }
}

#[tokio::test]
async fn clients_that_follow_know_what_newcomers_are_told() {
    for seed in 0..12 {
        run(seed).await;
    }
}

/// Clients that sync while others write must not miss or dream up anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_missed_while_others_write() {
    for seed in 0..4 {
        let world = World::new(&NAMES).await;
        let rooms =
            vec![world.room_with("alice", &NAMES[1..]).await, world.room_with("bob", &NAMES[..1]).await];
        let writing = async {
            let writers = (0..4).map(|writer| {
                let (world, rooms) = (&world, &rooms);
                async move {
                    let mut random = StdRng::seed_from_u64(seed * 100 + writer);
                    for _ in 0..100 {
                        act(world, rooms, &mut random).await;
                    }
                }
            });
            futures_util::future::join_all(writers).await;
        };
        let mut client = Client::default();
        let filter = json!({ "room": { "timeline": { "limit": 100 } } });
        let following = async {
            for _ in 0..200 {
                client.apply(&world.sync_with("dave", client.token.as_deref(), filter.clone()).await);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(writing, following);
        client.apply(&world.sync_with("dave", client.token.as_deref(), filter.clone()).await);
        check(&world, "dave", &client, seed).await;
    }
}
