//! `/v3/sync` and sliding sync, followed by two clients of one user each, against the rooms as they are: random histories from
//! seeds, with answers that get lost and connections that begin anew.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::OwnedRoomId;
use serde_json::{Value, json};

use super::{
    model::{Client, NAMES, act, text},
    sliding::{list, pos, wish},
    world::{World, inline},
};
use crate::{
    receipts::Marks,
    rooms::send::TransactionName,
    sync::sliding::{ExtensionRooms, SlidingError, SlidingRequest, WantedList},
    tables::rooms::Membership,
};

/// What a client of sliding sync knows of a room that it is in.
#[derive(Clone, Debug, Default)]
struct Known {
    state: BTreeMap<(String, String), String>,
    messages: Vec<String>,
    joined: Option<u64>,
    notifications: u64,
}

/// A client of one user that believes every answer.
#[derive(Debug, Default)]
struct Slider {
    pos: Option<String>,
    rooms: BTreeMap<String, Known>,
    invited: BTreeSet<String>,
    tags: BTreeMap<String, Value>,
    global: BTreeMap<String, Value>,
}

impl Slider {
    fn apply(&mut self, answer: &Value) {
        for (id, shown) in answer["rooms"].as_object().unwrap() {
            self.apply_room(id, shown);
        }
        let data = &answer["extensions"]["account_data"];
        for datum in data["global"].as_array().into_iter().flatten() {
            self.global.insert(text(&datum["type"]), datum["content"].clone());
        }
        for (id, data) in data["rooms"].as_object().into_iter().flatten() {
            for datum in data.as_array().unwrap() {
                self.tags.insert(id.clone(), datum["content"].clone());
            }
        }
        self.pos = Some(text(&answer["pos"]));
    }

    fn apply_room(&mut self, id: &str, shown: &Value) {
        match shown["membership"].as_str() {
            Some("invite") => {
                assert!(shown["invite_state"].is_array());
                self.rooms.remove(id);
                self.invited.insert(id.to_owned());
                return;
            }
            Some("leave" | "ban") => {
                self.rooms.remove(id);
                self.invited.remove(id);
                return;
            }
            _ => drop(self.invited.remove(id)),
        }
        if shown["initial"] == true {
            self.rooms.insert(id.to_owned(), Known::default());
        }
        let known = self.rooms.get_mut(id).expect("a room is told whole first");
        if shown["limited"] == true || shown["unstable_expanded_timeline"] == true {
            known.messages.clear();
        }
        for event in shown["required_state"].as_array().into_iter().flatten() {
            let key = (text(&event["type"]), text(&event["state_key"]));
            match event.get("event_id") {
                Some(event) => drop(known.state.insert(key, text(event))),
                None => drop(known.state.remove(&key)),
            }
        }
        for event in shown["timeline"].as_array().into_iter().flatten() {
            let id = text(&event["event_id"]);
            if event.get("state_key").is_none() && !known.messages.contains(&id) {
                known.messages.push(id);
            }
        }
        known.joined = shown["joined_count"].as_u64().or(known.joined);
        known.notifications = shown["notification_count"].as_u64().unwrap();
    }
}

/// What happens besides what rooms see of it themselves.
async fn act_more(world: &World, rooms: &[OwnedRoomId], random: &mut StdRng) {
    let (name, room) = (*NAMES.choose(random).unwrap(), rooms.choose(random).unwrap());
    let caller = world.caller(name);
    let known = world.rooms.find(room).await.unwrap().unwrap();
    let view = world.rooms.view(room, caller).await;
    let newest = match &view {
        Ok(view) if view.membership == Some(Membership::Join) => {
            let range = crate::database::Range::<crate::tables::rooms::Timeline>::prefix(&known.number);
            let rows = world.fixture.database.scan(&range.reversed().limit(5)).await.unwrap().rows;
            let (_, event) = rows.choose(random).copied().unwrap();
            Some(world.rooms.events().load(known.number, event).await.unwrap().id().unwrap())
        }
        Ok(_) | Err(_) => None,
    };
    match (random.random_range(0..5), newest) {
        (0, Some(event)) => {
            let id = random.random::<u64>().to_string();
            let transaction = TransactionName { path: "/redact", id: &id };
            drop(world.rooms.redact(room, caller, &event, None, transaction).await);
        }
        (1, Some(event)) => {
            let marks = Marks { read: Some(event), ..Marks::default() };
            world.sources.receipts.mark(known.number, caller.user, &caller.user_id, &marks).await.unwrap();
        }
        (2, Some(event)) => {
            let marks = Marks { read_private: Some(event), ..Marks::default() };
            world.sources.receipts.mark(known.number, caller.user, &caller.user_id, &marks).await.unwrap();
        }
        (3, _) => {
            let content = json!({ "tags": { random.random::<u32>().to_string(): {} } }).to_string();
            let data = &world.sources.account_data;
            data.set(caller.user, Some(known.number), "m.tag", &content).await.unwrap();
        }
        _ => world.set_account_data(name, "x.test", &json!({ "n": random.random::<u32>() })).await,
    }
}

/// A request as clients make them: windows, state and timelines change from one to the next.
fn some_request(
    world: &World,
    name: &str,
    slider: &Slider,
    rooms: &[OwnedRoomId],
    random: &mut StdRng,
) -> SlidingRequest {
    let ranges: &[(usize, usize)] =
        [&[(0, 0)][..], &[(0, 1)], &[(1, 2)], &[(0, 0), (2, 2)], &[(0, 9)], &[]].choose(random).unwrap();
    let mut wanted = list(ranges, random.random_range(0..6));
    if random.random_bool(0.5) {
        wanted.wish.required_state.push(("*".to_owned(), "*".to_owned()));
    }
    let mut request = world.sliding(name, slider.pos.as_deref(), wanted);
    if random.random_bool(0.3) {
        let state = if random.random_bool(0.5) { ("m.room.create", "") } else { ("m.room.member", "*") };
        let room = rooms.choose(random).unwrap().clone();
        request.subscriptions.insert(room, wish(random.random_range(0..9), &[state]));
    }
    if random.random_bool(0.7) {
        request.extensions.account_data = Some(ExtensionRooms::default());
    }
    request
}

/// A request for all there is.
fn whole_request(world: &World, name: &str, slider: &Slider) -> SlidingRequest {
    let wanted = WantedList { wish: wish(100, &[("*", "*")]), ..WantedList::default() };
    let mut request = world.sliding(name, slider.pos.as_deref(), wanted);
    request.extensions.account_data = Some(ExtensionRooms::default());
    request
}

/// Asks, and applies the answer unless it gets lost.
async fn slide_some(
    world: &World,
    name: &str,
    slider: &mut Slider,
    rooms: &[OwnedRoomId],
    random: &mut StdRng,
) {
    if random.random_bool(0.05) {
        *slider = Slider::default();
    }
    let request = some_request(world, name, slider, rooms, random);
    let answer = world.slide(request.clone()).await;
    if random.random_bool(0.2) {
        return;
    }
    if random.random_bool(0.2) {
        // The same again tells the same, and what happened since: a room that became active since may have taken the place
        // of another in the list, and one that was left since, of which nothing had arrived, is not told at all.
        let again = world.slide(request).await;
        let (told, retold) = (answer["rooms"].as_object().unwrap(), again["rooms"].as_object().unwrap());
        let others_came = retold.keys().any(|id| !told.contains_key(id));
        let some_left = answer["lists"] != again["lists"];
        for id in told.keys() {
            assert!(others_came || some_left || retold.contains_key(id), "{id}: {answer} {again}");
        }
        slider.apply(&again);
        let refused = world.sync.sliding(world.bare_sliding(name, pos(&answer))).await;
        assert!(matches!(refused, Err(SlidingError::UnknownPos)));
    } else {
        slider.apply(&answer);
    }
}

/// Compares what both clients know with the rooms.
async fn check(world: &World, name: &str, client: &Client, slider: &Slider, seed: u64) {
    let user = world.caller(name).user;
    let entries = world.sync.memberships().current(user).await.unwrap();
    let mut joined = BTreeSet::new();
    let mut invited = BTreeSet::new();
    for entry in &entries.rooms {
        let room = world.rooms.get(entry.room).await.unwrap();
        let id = room.room_id.to_string();
        match entry.membership {
            Membership::Invite => drop(invited.insert(id)),
            Membership::Join => {
                let root = world.rooms.current_root(entry.room).await.unwrap();
                let all = world.rooms.states().all(&room, root, None).await.unwrap();
                let numbers: Vec<_> = all.into_iter().map(|(_, event)| event).collect();
                let mut state = BTreeMap::new();
                for event in world.rooms.events().load_many(entry.room, &numbers).await.unwrap() {
                    let key = (event.record.kind.clone(), event.record.state_key.clone().unwrap());
                    state.insert(key, event.record.event_id.clone());
                }
                let (known, slid) = (&client.rooms[&id], &slider.rooms[&id]);
                assert_eq!(known.state, state, "seed {seed}, {name}, {id}");
                assert_eq!(slid.state, state, "seed {seed}, {name}, {id}");
                // Both have the newest messages; how far back differs.
                let shorter = known.messages.len().min(slid.messages.len());
                assert!(
                    known.messages.ends_with(&slid.messages[slid.messages.len() - shorter..]),
                    "seed {seed}, {name}, {id}: {known:?} {slid:?}"
                );
                let head = world.rooms.head(entry.room).await.unwrap();
                assert_eq!(slid.joined, Some(u64::from(head.joined)), "seed {seed}, {name}, {id}");
                joined.insert(id);
            }
            Membership::Knock | Membership::Leave | Membership::Ban => {}
        }
    }
    assert_eq!(client.rooms.keys().cloned().collect::<BTreeSet<_>>(), joined, "seed {seed}, {name}");
    assert_eq!(slider.rooms.keys().cloned().collect::<BTreeSet<_>>(), joined, "seed {seed}, {name}");
    assert_eq!(client.invited.iter().cloned().collect::<BTreeSet<_>>(), invited, "seed {seed}, {name}");
    assert_eq!(slider.invited, invited, "seed {seed}, {name}");
    let fresh = world.sync(name, None).await;
    for (id, known) in &slider.rooms {
        let shown = &fresh["rooms"]["join"][id];
        let count = shown["unread_notifications"]["notification_count"].as_u64();
        assert_eq!(Some(known.notifications), count, "seed {seed}, {name}, {id}");
        let tag = shown["account_data"]["events"][0]["content"].clone();
        assert_eq!(slider.tags.get(id).cloned().unwrap_or_default(), tag, "seed {seed}, {name}, {id}");
    }
    for datum in fresh["account_data"]["events"].as_array().unwrap() {
        let known = &slider.global[&text(&datum["type"])];
        assert_eq!(*known, datum["content"], "seed {seed}, {name}");
    }
}

async fn run(seed: u64) {
    let world = World::new(&NAMES).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut rooms = Vec::new();
    for name in ["alice", "bob", "carol"] {
        rooms.push(world.room_with(name, &["dave"]).await);
    }
    let mut clients: BTreeMap<&str, (Client, Slider)> =
        NAMES.iter().map(|name| (*name, Default::default())).collect();
    for step in 0..80 {
        for _ in 0..random.random_range(0..6) {
            if random.random_bool(0.3) {
                act_more(&world, &rooms, &mut random).await;
            } else {
                act(&world, &rooms, &mut random).await;
            }
        }
        let name = *NAMES.choose(&mut random).unwrap();
        let (client, slider) = clients.get_mut(name).unwrap();
        let mut request = world.request(name, client.token.as_deref());
        request.filter = inline(json!({ "room": { "timeline": { "limit": random.random_range(1..8) } } }));
        let answer = world.answer(request).await;
        if random.random_bool(0.8) {
            client.apply(&answer);
        }
        slide_some(&world, name, slider, &rooms, &mut random).await;
        if step % 10 == 9 {
            client.apply(&world.sync(name, client.token.as_deref()).await);
            slider.apply(&world.slide(whole_request(&world, name, slider)).await);
            check(&world, name, client, slider, seed).await;
        }
    }
    for (name, (client, slider)) in &mut clients {
        client.apply(&world.sync(name, client.token.as_deref()).await);
        slider.apply(&world.slide(whole_request(&world, name, slider)).await);
        check(&world, name, client, slider, seed).await;
    }
}

#[tokio::test]
async fn both_kinds_of_sync_tell_the_same() {
    for seed in 0..12 {
        run(seed).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn both_kinds_of_sync_tell_the_same_in_a_thousand_histories() {
    for seed in 0..1000 {
        run(seed).await;
    }
}

/// Clients that sync while others write must not miss or dream up anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_missed_while_others_write() {
    for seed in 0..4 {
        let world = World::new(&NAMES).await;
        let rooms =
            vec![world.room_with("alice", &NAMES[1..]).await, world.room_with("bob", &NAMES[3..]).await];
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
        let (mut client, mut slider) = (Client::default(), Slider::default());
        let mut random = StdRng::seed_from_u64(seed);
        let following = async {
            for _ in 0..200 {
                slide_some(&world, "dave", &mut slider, &rooms, &mut random).await;
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(writing, following);
        client.apply(&world.sync("dave", None).await);
        slider.apply(&world.slide(whole_request(&world, "dave", &slider)).await);
        check(&world, "dave", &client, &slider, seed).await;
    }
}
