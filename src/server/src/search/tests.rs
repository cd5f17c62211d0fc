//! What is found, and that it is what the user could read, and all of it.

use std::{collections::BTreeSet, time::Duration};

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::client::{filter::RoomEventFilter, room::create_room::v3 as create},
};
use serde_json::{json, value::to_raw_value};

use super::*;
use crate::{
    random::Random,
    rooms::{
        membership::MembershipOptions, pagination::PaginationToken, read::Direction, send::TransactionName,
        testing::Server,
    },
    sync::testing,
};

struct World {
    server: Server,
    search: Search,
    filter: EventFilter,
    sent: u32,
}

impl World {
    async fn new() -> Self {
        let server = Server::new().await;
        let (_, sync) = testing::start(&server);
        let search = Search::new(server.fixture.database.clone(), server.rooms.clone(), sync);
        let filter = EventFilter::from(&RoomEventFilter::default());
        Self { server, search, filter, sent: 0 }
    }

    async fn room(&self, creator: &Caller) -> OwnedRoomId {
        self.server.fixture.clock.advance(Duration::from_millis(1));
        let mut request = create::Request::new();
        request.preset = Some(create::RoomPreset::PublicChat);
        self.server.rooms.create(creator, &request, false).await.unwrap()
    }

    async fn say(&mut self, by: &Caller, room: &OwnedRoomId, text: &str) -> OwnedEventId {
        self.sent += 1;
        self.server.fixture.clock.advance(Duration::from_millis(1));
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        let transaction = TransactionName { path: "/send", id: &self.sent.to_string() };
        self.server.rooms.send(room, by, "m.room.message", &content, transaction).await.unwrap()
    }

    async fn set(&self, by: &Caller, room: &OwnedRoomId, kind: &str, content: serde_json::Value) {
        let content = to_raw_value(&content).unwrap();
        self.server.rooms.set_state(room, by, kind, "", &content).await.unwrap();
    }

    /// A search for "word".
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            term: "word",
            fields: &SearchField::ALL,
            filter: &self.filter,
            rooms: None,
            not_rooms: &[],
            recent: true,
            limit: MATCHES_MAX,
            from: None,
        }
    }

    /// The texts that are found, in order, with the count.
    async fn find(&self, by: &Caller, wanted: Wanted<'_>) -> (usize, Vec<String>) {
        let page = self.search.search(by, &wanted).await.unwrap();
        (page.count, page.matches.iter().map(text).collect())
    }
}

fn text(found: &Match) -> String {
    let pdu = found.event.pdu(&found.view.room).unwrap();
    crate::rooms::words::texts(&pdu).pop().map(|(_, text)| text).unwrap_or_default()
}

#[tokio::test]
async fn all_words_must_stand_there_whatever_their_spelling() {
    let mut world = World::new().await;
    let alice = world.server.caller("alice").await;
    let room = world.room(&alice).await;
    let find = async |world: &World, term: &'static str| {
        world.find(&alice, Wanted { term, ..world.wanted() }).await.1
    };
    for text in ["A word, or two", "WORD word word", "two words", "Another word: two!", "nothing"] {
        world.say(&alice, &room, text).await;
    }
    assert_eq!(find(&world, "word").await, ["Another word: two!", "WORD word word", "A word, or two"]);
    assert_eq!(find(&world, "two Word").await, ["Another word: two!", "A word, or two"]);
    assert!(find(&world, "two word missing").await.is_empty());
    assert!(find(&world, " ,! ").await.is_empty());
    // The best first: three times in three words.
    let ranked = world.find(&alice, Wanted { recent: false, ..world.wanted() }).await.1;
    assert_eq!(ranked[0], "WORD word word");
    world.set(&alice, &room, "m.room.topic", json!({ "topic": "the word of the day" })).await;
    let topics = world.find(&alice, Wanted { fields: &[SearchField::Topic], ..world.wanted() }).await.1;
    assert_eq!(topics, ["the word of the day"]);
    let bodies = world.find(&alice, Wanted { fields: &[SearchField::Body], ..world.wanted() }).await.1;
    assert_eq!(bodies.len(), 3);
}

#[tokio::test]
async fn pages_stay_the_same_while_people_go_on_talking() {
    let mut world = World::new().await;
    let alice = world.server.caller("alice").await;
    let (one, two) = (world.room(&alice).await, world.room(&alice).await);
    for number in 0..200 {
        let room = if number % 3 == 0 { &one } else { &two };
        world.say(&alice, room, &format!("word {number}")).await;
    }
    let (mut from, mut found) = (None, Vec::new());
    loop {
        let wanted = Wanted { limit: 40, from, ..world.wanted() };
        let page = world.search.search(&alice, &wanted).await.unwrap();
        assert_eq!(page.count, 200);
        found.extend(page.matches.iter().map(text));
        from = page.next;
        if from.is_none() {
            break;
        }
        world.say(&alice, &one, "a new word").await;
    }
    let expected: Vec<_> = (0..200).rev().map(|number| format!("word {number}")).collect();
    assert_eq!(found, expected);
    let in_one =
        world.find(&alice, Wanted { rooms: Some(std::slice::from_ref(&one)), ..world.wanted() }).await;
    assert_eq!(in_one.0, 67 + 5);
    let not_one =
        world.find(&alice, Wanted { not_rooms: std::slice::from_ref(&one), ..world.wanted() }).await;
    assert_eq!(not_one.0, 133);
}

#[tokio::test]
async fn what_is_redacted_or_encrypted_is_not_in_the_index() {
    let mut world = World::new().await;
    let alice = world.server.caller("alice").await;
    let (room, other) = (world.room(&alice).await, world.room(&alice).await);
    let secret = world.say(&alice, &room, "a secret word").await;
    world.say(&alice, &room, "another word").await;
    let transaction = TransactionName { path: "/redact", id: "1" };
    world.server.rooms.redact(&room, &alice, &secret, None, transaction).await.unwrap();
    assert_eq!(world.find(&alice, world.wanted()).await, (1, vec!["another word".to_owned()]));
    let rows = async || {
        let database = &world.server.fixture.database;
        database
            .scan_all(crate::database::Range::<crate::tables::search::SearchPosting>::whole())
            .await
            .unwrap()
            .len()
    };
    assert_eq!(rows().await, 2);
    world.say(&alice, &other, "a word elsewhere").await;
    world.set(&alice, &other, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    world.say(&alice, &other, "a careless word").await;
    assert_eq!(world.find(&alice, world.wanted()).await.0, 1);
    let database = &world.server.fixture.database;
    let rows = database.scan_all(crate::database::Range::<crate::tables::search::SearchPosting>::whole());
    assert_eq!(rows.await.unwrap().len(), 2);
}

/// People come and go, histories are opened and closed, things are said and redacted: what a search finds is what the same
/// person finds by reading.
#[tokio::test]
async fn a_search_finds_what_reading_finds_and_nothing_else() {
    for seed in 0..12 {
        let random = Random::seeded(seed);
        let below = |limit: u64| u64::from_be_bytes(random.bytes()) % limit;
        let mut world = World::new().await;
        let people = [
            world.server.caller("alice").await,
            world.server.caller("bob").await,
            world.server.caller("carol").await,
        ];
        let rooms = [world.room(&people[0]).await, world.room(&people[0]).await];
        let mut said: Vec<(OwnedRoomId, OwnedEventId)> = Vec::new();
        for _ in 0..120 {
            let room = &rooms[usize::try_from(below(2)).unwrap()];
            let who = &people[usize::try_from(below(3)).unwrap()];
            let number = world.server.rooms.find(room).await.unwrap().unwrap().number;
            let is_in = world.server.rooms.is_joined(number, who.user).await.unwrap();
            match below(10) {
                0 if !is_in => drop(world.server.rooms.join(room, who, serde_json::Map::new()).await),
                1 if is_in && who.user != people[0].user => {
                    world.server.rooms.leave(room, who, &MembershipOptions::default()).await.unwrap();
                }
                2 => {
                    let kinds = ["joined", "shared", "invited", "world_readable"];
                    let kind = kinds[usize::try_from(below(4)).unwrap()];
                    let content = json!({ "history_visibility": kind });
                    world.set(&people[0], room, "m.room.history_visibility", content).await;
                }
                3 if !said.is_empty() => {
                    let (room, event) =
                        said[usize::try_from(below(said.len().try_into().unwrap())).unwrap()].clone();
                    let id = world.sent.to_string();
                    world.sent += 1;
                    let transaction = TransactionName { path: "/redact", id: &id };
                    drop(world.server.rooms.redact(&room, &people[0], &event, None, transaction).await);
                }
                _ if is_in => {
                    let text =
                        ["a word", "no such thing", "word by word"][usize::try_from(below(3)).unwrap()];
                    said.push((room.clone(), world.say(who, room, text).await));
                }
                _ => {}
            }
        }
        for who in &people {
            let read = by_reading(&world, who, &rooms).await;
            let wanted = Wanted { fields: &[SearchField::Body], recent: seed % 2 == 0, ..world.wanted() };
            let page = world.search.search(who, &wanted).await.unwrap();
            let found: BTreeSet<_> =
                page.matches.iter().map(|found| found.event.record.event_id.clone()).collect();
            assert_eq!(found, read, "seed {seed}, {}", who.user_id);
            assert_eq!(page.count, read.len());
        }
    }
}

/// The events with the word that somebody is shown who reads the rooms that they have been in.
async fn by_reading(world: &World, who: &Caller, rooms: &[OwnedRoomId]) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for room in rooms {
        let number = world.server.rooms.find(room).await.unwrap().unwrap().number;
        if world.server.rooms.member(number, who.user).await.unwrap().is_none() {
            continue;
        }
        let Ok(view) = world.server.rooms.view(room, who).await else { continue };
        let (mut from, wanted) = (PaginationToken::END, |_: &StoredEvent| true);
        loop {
            let page =
                world.server.rooms.history(&view, from, None, Direction::Backward, 50, wanted).await.unwrap();
            for event in page.events {
                let pdu = event.pdu(&view.room).unwrap();
                let texts = crate::rooms::words::texts(&pdu);
                if pdu.kind == "m.room.message" && texts.iter().any(|(_, text)| text.contains("word")) {
                    read.insert(event.record.event_id.clone());
                }
            }
            match page.end {
                Some(end) => from = end,
                None => break,
            }
        }
    }
    read
}
