//! Sliding sync: lists, rooms, what is told when. The extensions are in `sliding_extensions`.

use std::time::Duration;

use ruma::{OwnedRoomId, RoomId, presence::PresenceState};
use serde_json::{Value, json};

use super::world::{World, named};
use crate::sync::sliding::{Extensions, ListFilters, RoomWish, SlidingError, SlidingRequest, WantedList};

/// What most clients ask for.
const REQUIRED: [(&str, &str); 4] =
    [("m.room.name", ""), ("m.room.topic", ""), ("m.room.member", "$ME"), ("m.room.member", "$LAZY")];

pub(super) fn wish(limit: usize, required: &[(&str, &str)]) -> RoomWish {
    let required_state = required.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned()));
    RoomWish { timeline_limit: limit, required_state: required_state.collect() }
}

pub(super) fn list(ranges: &[(usize, usize)], limit: usize) -> WantedList {
    let ranges = Some(ranges.to_vec()).filter(|ranges| !ranges.is_empty());
    WantedList { ranges, wish: wish(limit, &REQUIRED), ..WantedList::default() }
}

impl World {
    /// A request for one list of these places.
    pub(super) fn sliding(&self, name: &str, pos: Option<&str>, list: WantedList) -> SlidingRequest {
        let mut request = self.bare_sliding(name, pos);
        request.lists.insert("all".to_owned(), list);
        request
    }

    pub(super) fn bare_sliding(&self, name: &str, pos: Option<&str>) -> SlidingRequest {
        let caller = self.caller(name).clone();
        SlidingRequest {
            device: caller.device.unwrap(),
            caller,
            connection: String::new(),
            transaction: None,
            pos: pos.map(str::to_owned),
            timeout: Duration::ZERO,
            presence: PresenceState::Offline,
            lists: [].into(),
            subscriptions: [].into(),
            extensions: Extensions::default(),
        }
    }

    pub(super) async fn slide(&self, request: SlidingRequest) -> Value {
        serde_json::from_slice(&self.sync.sliding(request).await.unwrap()).unwrap()
    }

    /// One list of all rooms, with timelines of one event.
    async fn slide_all(&self, name: &str, pos: Option<&str>) -> Value {
        self.slide(self.sliding(name, pos, list(&[], 1))).await
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as requests take it")]
pub(super) fn pos(answer: &Value) -> Option<&str> {
    Some(answer["pos"].as_str().unwrap())
}

pub(super) fn room<'a>(answer: &'a Value, room: &RoomId) -> &'a Value {
    &answer["rooms"][room.as_str()]
}

fn told(answer: &Value) -> Vec<String> {
    answer["rooms"].as_object().unwrap().keys().cloned().collect()
}

fn timeline(answer: &Value, id: &RoomId) -> Vec<String> {
    named(&room(answer, id)["timeline"])
}

fn state(answer: &Value, id: &RoomId) -> Vec<String> {
    named(&room(answer, id)["required_state"])
}

fn sorted(rooms: &[&OwnedRoomId]) -> Vec<String> {
    let mut ids: Vec<_> = rooms.iter().map(ToString::to_string).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn windows_show_the_rooms_that_were_active_last_and_grow() {
    let world = World::new(&["alice", "bob"]).await;
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(world.room_with("alice", &["bob"]).await);
    }
    world.say("alice", &rooms[1], "up").await;
    let first = world.slide(world.sliding("bob", None, list(&[(0, 1)], 1))).await;
    assert_eq!(first["lists"]["all"]["count"], 5);
    assert_eq!(told(&first), sorted(&[&rooms[1], &rooms[4]]));
    assert_eq!(timeline(&first, &rooms[1]), ["up"]);
    assert_eq!(room(&first, &rooms[1])["limited"], true);
    // The window grows: only what is new in it is told, and what happened out of it is told with it.
    world.say("alice", &rooms[0], "unseen").await;
    world.say("alice", &rooms[1], "seen").await;
    let second = world.slide(world.sliding("bob", pos(&first), list(&[(0, 3)], 1))).await;
    assert_eq!(told(&second), sorted(&[&rooms[0], &rooms[1], &rooms[3]]));
    assert_eq!(room(&second, &rooms[0])["initial"], true);
    assert_eq!(room(&second, &rooms[1]).get("initial"), None);
    assert_eq!(
        (timeline(&second, &rooms[1]), &room(&second, &rooms[1])["num_live"]),
        (vec!["seen".into()], &json!(1))
    );
    assert_eq!(room(&second, &rooms[0])["num_live"], 1);
    let other = world.slide(world.sliding("bob", pos(&second), list(&[(1, 1), (4, 9)], 1))).await;
    assert_eq!(told(&other), sorted(&[&rooms[2]]));
    let nothing = world.slide(world.sliding("bob", pos(&other), list(&[(0, 9)], 1))).await;
    assert_eq!(told(&nothing), [""; 0]);
    // What fell out of view is caught up with when it comes back.
    world.say("alice", &rooms[2], "one").await;
    world.say("alice", &rooms[3], "two").await;
    let narrow = world.slide(world.sliding("bob", pos(&nothing), list(&[(0, 0)], 5))).await;
    assert_eq!(
        (told(&narrow), timeline(&narrow, &rooms[3]).last().unwrap().as_str()),
        (sorted(&[&rooms[3]]), "two")
    );
    let wide = world.slide(world.sliding("bob", pos(&narrow), list(&[(0, 9)], 1))).await;
    assert_eq!((told(&wide), timeline(&wide, &rooms[2])), (sorted(&[&rooms[2]]), vec!["one".into()]));
}

#[tokio::test]
async fn state_is_told_when_it_changes_and_when_more_is_asked_for() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    let first = world.slide_all("bob", None).await;
    assert_eq!(state(&first, &id), ["bob join"]);
    assert_eq!(room(&first, &id)["heroes"], json!([{ "user_id": "@alice:example.org" }]));
    world.set("alice", &id, "m.room.name", "", &json!({ "name": "A" })).await;
    world.set("alice", &id, "m.room.avatar", "", &json!({ "url": "mxc://x/y" })).await;
    world.set("alice", &id, "m.room.pinned_events", "", &json!({ "pinned": [] })).await;
    let second = world.slide_all("bob", pos(&first)).await;
    assert_eq!(state(&second, &id), ["alice join", "name"]);
    let shown = room(&second, &id);
    assert_eq!(
        (&shown["name"], &shown["avatar"], shown.get("heroes")),
        (&json!("A"), &json!("mxc://x/y"), None)
    );
    // More state is asked for: only what is new of it is told, at once.
    let mut more = list(&[], 1);
    more.wish.required_state.push(("m.room.pinned_events".to_owned(), String::new()));
    let third = world.slide(world.sliding("bob", pos(&second), more.clone())).await;
    assert_eq!((state(&third, &id), timeline(&third, &id)), (vec!["pinned_events".into()], vec![]));
    let fourth = world.slide(world.sliding("bob", pos(&third), more.clone())).await;
    assert_eq!(told(&fourth), [""; 0]);
    world.set("alice", &id, "m.room.name", "", &json!({})).await;
    let fifth = world.slide(world.sliding("bob", pos(&fourth), more)).await;
    assert_eq!((&room(&fifth, &id)["name"], room(&fifth, &id)["heroes"].is_array()), (&Value::Null, true));
    assert!(room(&fifth, &id).as_object().unwrap().contains_key("name"));
    let all = WantedList { wish: wish(0, &[("*", "*")]), ..WantedList::default() };
    let all = world.slide(world.sliding("bob", None, all)).await;
    assert_eq!(state(&all, &id).len(), 9, "{all}");
}

#[tokio::test]
async fn timelines_grow_with_what_is_asked_for() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    for text in ["1", "2", "3"] {
        world.say("alice", &id, text).await;
    }
    let first = world.slide_all("bob", None).await;
    assert_eq!(timeline(&first, &id), ["3"]);
    let subscribed = |pos: Option<&str>, limit: usize| {
        let mut request = world.sliding("bob", pos, list(&[], 1));
        request.subscriptions.insert(id.clone(), wish(limit, &REQUIRED));
        request
    };
    let second = world.slide(subscribed(pos(&first), 3)).await;
    let shown = room(&second, &id);
    assert_eq!(timeline(&second, &id), ["1", "2", "3"]);
    assert_eq!((&shown["unstable_expanded_timeline"], &shown["num_live"]), (&json!(true), &json!(0)));
    assert_eq!(shown.get("initial"), None);
    // Without a gap the client keeps what it has.
    world.say("alice", &id, "4").await;
    let third = world.slide_all("bob", pos(&second)).await;
    assert_eq!(timeline(&third, &id), ["4"]);
    let fourth = world.slide(subscribed(pos(&third), 4)).await;
    assert_eq!(told(&fourth), [""; 0]);
    // With a gap it does not.
    world.say("alice", &id, "5").await;
    world.say("alice", &id, "6").await;
    let gap = world.slide_all("bob", pos(&fourth)).await;
    assert_eq!((timeline(&gap, &id), &room(&gap, &id)["limited"]), (vec!["6".into()], &json!(true)));
    let whole = world.slide(subscribed(pos(&gap), 50)).await;
    assert_eq!((timeline(&whole, &id).len(), &room(&whole, &id)["limited"]), (12, &json!(false)));
    let nothing = world.slide(subscribed(pos(&whole), 90)).await;
    assert_eq!(told(&nothing), [""; 0]);
}

#[tokio::test]
async fn rooms_come_and_go_with_the_membership() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room("alice").await;
    let first = world.slide_all("bob", None).await;
    assert_eq!(first["lists"]["all"]["count"], 0);
    world.invite("alice", &id, "bob").await;
    let invited = world.slide_all("bob", pos(&first)).await;
    let shown = room(&invited, &id);
    assert_eq!((&shown["membership"], shown.get("timeline")), (&json!("invite"), None));
    assert_eq!(named(&shown["invite_state"]).last().unwrap(), "bob invite");
    assert_eq!(told(&world.slide_all("bob", pos(&invited)).await), [""; 0]);
    // The answer before was the last one.
    let quiet = world.slide_all("bob", None).await;
    world.join("bob", &id).await;
    let joined = world.slide_all("bob", pos(&quiet)).await;
    let shown = room(&joined, &id);
    assert_eq!(
        (&shown["initial"], &shown["membership"], &shown["num_live"]),
        (&json!(true), &json!("join"), &json!(1))
    );
    world.say("alice", &id, "before").await;
    world.kick("alice", &id, "bob").await;
    world.say("alice", &id, "secret").await;
    let kicked = world.slide(world.sliding("bob", pos(&joined), list(&[], 5))).await;
    let shown = room(&kicked, &id);
    assert_eq!(shown["membership"], "leave");
    assert!(timeline(&kicked, &id).ends_with(&["before".to_owned(), "bob leave".to_owned()]), "{kicked}");
    assert!(state(&kicked, &id).contains(&"bob leave".to_owned()));
    world.say("alice", &id, "secret too").await;
    let after = world.slide(world.sliding("bob", pos(&kicked), list(&[], 5))).await;
    assert_eq!(told(&after), [""; 0]);
    // Who was put out is told so by a new connection too, and no more than that.
    let new = world.slide(world.sliding("bob", None, list(&[], 5))).await;
    assert_eq!(timeline(&new, &id).last().unwrap(), "bob leave");
    world.join("bob", &id).await;
    let back = world.slide(world.sliding("bob", pos(&new), list(&[], 1))).await;
    assert_eq!((&room(&back, &id)["initial"], timeline(&back, &id)), (&json!(true), vec!["bob join".into()]));
    // Who leaves is told so once.
    world.leave("bob", &id).await;
    let left = world.slide_all("bob", pos(&back)).await;
    assert_eq!(
        (room(&left, &id)["membership"].as_str(), &left["lists"]["all"]["count"]),
        (Some("leave"), &json!(1))
    );
    let gone = world.slide_all("bob", pos(&left)).await;
    assert_eq!((told(&gone), &gone["lists"]["all"]["count"]), (vec![], &json!(0)));
    assert_eq!(told(&world.slide_all("bob", None).await), [""; 0]);
}

#[tokio::test]
async fn who_leaves_and_comes_back_between_two_answers_is_shown_the_room_anew() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    let first = world.slide_all("bob", None).await;
    world.leave("bob", &id).await;
    world.set("alice", &id, "m.room.topic", "", &json!({ "topic": "T" })).await;
    world.join("bob", &id).await;
    let back = world.slide_all("bob", pos(&first)).await;
    assert_eq!(
        (&room(&back, &id)["initial"], state(&back, &id)),
        (&json!(true), vec!["topic".into(), "bob join".into()])
    );
}

#[tokio::test]
async fn sec_10_rooms_of_others_cannot_be_subscribed_to() {
    let world = World::new(&["alice", "bob"]).await;
    let (secret, left) = (world.room("alice").await, world.room_with("alice", &["bob"]).await);
    world.leave("bob", &left).await;
    world.say("alice", &left, "secret").await;
    let mut request = world.bare_sliding("bob", None);
    for id in [&secret, &left, &OwnedRoomId::try_from("!none:example.org").unwrap()] {
        request.subscriptions.insert(id.clone(), wish(20, &[("*", "*")]));
    }
    let answer = world.slide(request).await;
    assert_eq!(told(&answer), sorted(&[&left]));
    assert_eq!(timeline(&answer, &left).last().unwrap(), "bob leave");
}

#[tokio::test]
async fn lists_are_filtered() {
    let world = World::new(&["alice", "bob"]).await;
    let plain = world.room("alice").await;
    let secret = world.room("alice").await;
    world
        .set("alice", &secret, "m.room.encryption", "", &json!({ "algorithm": "m.megolm.v1.aes-sha2" }))
        .await;
    let space = world.space("alice").await;
    world.set("alice", &space, "m.space.child", plain.as_str(), &json!({ "via": ["example.org"] })).await;
    world.set("alice", &space, "m.space.child", secret.as_str(), &json!({})).await;
    let invited = world.room("bob").await;
    world.invite("bob", &invited, "alice").await;
    world
        .set_account_data(
            "alice",
            "m.direct",
            &json!({ "@bob:example.org": [secret, "nonsense"], "@x:y": 3 }),
        )
        .await;
    let number = world.rooms.find(&plain).await.unwrap().unwrap().number;
    let alice = world.caller("alice").user;
    world
        .sources
        .account_data
        .set(alice, Some(number), "m.tag", r#"{"tags":{"m.favourite":{}}}"#)
        .await
        .unwrap();
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let space_type = vec![Some("m.space".to_owned())];
    let cases: [(ListFilters, Vec<&OwnedRoomId>); 10] = [
        (ListFilters { is_dm: Some(true), ..Default::default() }, vec![&secret]),
        (ListFilters { is_encrypted: Some(true), ..Default::default() }, vec![&secret]),
        (ListFilters { is_encrypted: Some(false), ..Default::default() }, vec![&plain, &space, &invited]),
        (ListFilters { is_invite: Some(true), ..Default::default() }, vec![&invited]),
        (ListFilters { room_types: Some(space_type.clone()), ..Default::default() }, vec![&space]),
        (
            ListFilters { room_types: Some(vec![None]), is_dm: Some(false), ..Default::default() },
            vec![&plain, &invited],
        ),
        (
            ListFilters { not_room_types: space_type, is_invite: Some(false), ..Default::default() },
            vec![&plain, &secret],
        ),
        (ListFilters { tags: Some(text(&["m.favourite", "x"])), ..Default::default() }, vec![&plain]),
        (
            ListFilters { not_tags: text(&["m.favourite"]), is_invite: Some(false), ..Default::default() },
            vec![&secret, &space],
        ),
        (
            ListFilters { spaces: Some(vec![space.clone(), invited.clone()]), ..Default::default() },
            vec![&plain],
        ),
    ];
    for (filters, expected) in cases {
        let wanted = WantedList { filters: filters.clone(), ..list(&[(0, 9)], 1) };
        let answer = world.slide(world.sliding("alice", None, wanted)).await;
        assert_eq!(told(&answer), sorted(&expected), "{filters:?}");
        assert_eq!(answer["lists"]["all"]["count"], expected.len());
    }
}

#[tokio::test]
async fn direct_rooms_and_counts_are_told_when_they_change() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    let quiet = world.room_with("alice", &["bob"]).await;
    let event = world.say("alice", &id, "one").await;
    let first = world.slide_all("bob", None).await;
    let shown = room(&first, &id);
    assert_eq!((&shown["notification_count"], shown.get("is_dm")), (&json!(1), None));
    assert_eq!(room(&first, &quiet)["notification_count"], 0);
    world.set_account_data("bob", "m.direct", &json!({ "@alice:example.org": [id] })).await;
    let second = world.slide_all("bob", pos(&first)).await;
    assert_eq!((told(&second), &room(&second, &id)["is_dm"]), (sorted(&[&id]), &json!(true)));
    let bob = world.caller("bob");
    let number = world.rooms.find(&id).await.unwrap().unwrap().number;
    let marks = crate::receipts::Marks { read_private: Some(event), ..Default::default() };
    world.sources.receipts.mark(number, bob.user, &bob.user_id, &marks).await.unwrap();
    let read = world.slide_all("bob", pos(&second)).await;
    assert_eq!((told(&read), &room(&read, &id)["notification_count"]), (sorted(&[&id]), &json!(0)));
    world.set_account_data("bob", "m.direct", &json!({})).await;
    let third = world.slide_all("bob", pos(&read)).await;
    assert_eq!(room(&third, &id)["is_dm"], false);
    assert_eq!(told(&world.slide_all("bob", pos(&third)).await), [""; 0]);
}

#[tokio::test]
async fn rooms_are_sorted_by_what_people_say() {
    let world = World::new(&["alice"]).await;
    let id = world.room("alice").await;
    let first = world.slide_all("alice", None).await;
    let created = room(&first, &id)["bump_stamp"].as_u64().unwrap();
    world.set("alice", &id, "m.room.topic", "", &json!({ "topic": "T" })).await;
    let second = world.slide_all("alice", pos(&first)).await;
    assert_eq!(room(&second, &id)["bump_stamp"], created);
    world.say("alice", &id, "one").await;
    let third = world.slide_all("alice", pos(&second)).await;
    assert!(room(&third, &id)["bump_stamp"].as_u64().unwrap() > created);
}

#[tokio::test]
async fn lost_answers_are_given_again_and_more_with_them() {
    let world = World::new(&["alice", "bob", "carol"]).await;
    let id = world.room_with("alice", &["carol", "bob"]).await;
    let first = world.slide_all("bob", None).await;
    world.say("carol", &id, "one").await;
    let lost = world.slide_all("bob", pos(&first)).await;
    assert_eq!(state(&lost, &id), ["carol join"]);
    world.say("alice", &id, "two").await;
    let again = world.slide(world.sliding("bob", pos(&first), list(&[], 2))).await;
    assert_eq!(timeline(&again, &id), ["one", "two"]);
    assert_eq!(state(&again, &id), ["alice join", "carol join"]);
    world.say("carol", &id, "three").await;
    let next = world.slide_all("bob", pos(&again)).await;
    assert_eq!((timeline(&next, &id), state(&next, &id)), (vec!["three".into()], vec![]));
    for old in [&first, &lost] {
        let refused = world.sync.sliding(world.sliding("bob", pos(old), list(&[], 1))).await;
        assert!(matches!(refused, Err(SlidingError::UnknownPos)));
    }
    // A device may have several connections; what one is told is nothing to another.
    let mut other = world.sliding("bob", None, list(&[], 1));
    other.connection = "other".to_owned();
    let other = world.slide(other).await;
    assert_eq!(room(&other, &id)["initial"], true);
    assert_eq!(told(&world.slide_all("bob", pos(&next)).await), [""; 0]);
    // Too many make room for each other.
    for number in 0..8 {
        let mut request = world.sliding("bob", None, list(&[], 1));
        request.connection = number.to_string();
        world.slide(request).await;
    }
    let mut forgotten = world.sliding("bob", pos(&other), list(&[], 1));
    forgotten.connection = "other".to_owned();
    assert!(matches!(world.sync.sliding(forgotten).await, Err(SlidingError::UnknownPos)));
}

#[tokio::test]
async fn a_waiting_request_is_answered_by_news_or_by_the_next_request() {
    let world = World::new(&["alice", "bob"]).await;
    let id = world.room_with("alice", &["bob"]).await;
    let first = world.slide_all("bob", None).await;
    let waiting = || {
        let mut request = world.sliding("bob", pos(&first), list(&[], 1));
        request.timeout = Duration::from_secs(60);
        world.slide(request)
    };
    let until_waiting = async || {
        while world.sources.wakes.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (answer, _) = tokio::join!(waiting(), async {
        until_waiting().await;
        world.say("alice", &id, "news").await
    });
    assert_eq!(timeline(&answer, &id), ["news"]);
    // The client comes back with the place before: the answer got lost.
    let (given_up, next) = tokio::join!(
        async {
            let mut request = world.sliding("bob", pos(&answer), list(&[], 1));
            request.timeout = Duration::from_secs(60);
            world.slide(request).await
        },
        async {
            until_waiting().await;
            let mut more = list(&[], 1);
            more.wish.required_state.push(("m.room.create".to_owned(), String::new()));
            world.slide(world.sliding("bob", pos(&answer), more)).await
        }
    );
    assert_eq!((told(&given_up), &given_up["pos"]), (vec![], &answer["pos"]));
    assert_eq!(state(&next, &id), ["create"]);
    let mut request = world.sliding("bob", pos(&next), list(&[], 1));
    request.timeout = Duration::from_millis(20);
    let idle = world.slide(request).await;
    assert_eq!((told(&idle), &idle["lists"]["all"]["count"]), (vec![], &json!(1)));
}

#[tokio::test]
async fn a_sliding_waiter_is_small() {
    let world = World::new(&["alice"]).await;
    let request = world.bare_sliding("alice", None);
    let size = std::mem::size_of_val(&world.sync.sliding(request));
    assert!(size < 8 * 1024, "{size} bytes");
}
