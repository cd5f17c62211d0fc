//! What other servers' events, and the resolution of states, come to in `/sync` (§Syncing, §State resolution).

use std::sync::Arc;

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::{
    sliding::{pos, wish},
    world::{World, section, state, timeline, token},
};
use crate::{
    rooms::{
        Room,
        ingest::{Incoming, Placement},
        testing::Remote,
    },
    sync::sliding::WantedList,
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const ALICE: &str = "@alice:example.org";

/// Alice, in a room of another server's.
async fn joined() -> (World, Remote, Arc<Room>, OwnedEventId) {
    let world = World::new(&["alice"]).await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let topic = remote.topic(BOB, &[events.last().unwrap()], "bob's");
    let join = remote.member(ALICE, &[&topic], ALICE, "join");
    let room = world.rooms.adopt(remote.adopt(&join)).await.unwrap();
    (world, remote, room, join)
}

async fn live(world: &World, room: &Arc<Room>, remote: &Remote, event: &OwnedEventId) {
    let incoming = Incoming::new(remote.verified(event), Placement::Live);
    world.rooms.ingest(room, vec![incoming]).await.unwrap();
}

/// A joined room is shown whole, though the server has seen nothing of it but its state.
#[tokio::test]
async fn an_adopted_room_is_shown() {
    let (world, _, room, _) = joined().await;
    let answer = world.sync("alice", None).await;
    assert_eq!(timeline(&answer, &room.room_id), ["alice join"]);
    let mut told = state(&answer, &room.room_id);
    told.sort();
    let mut expected = ["create", "power_levels", "join_rules", "history_visibility", "topic"].to_vec();
    expected.extend(["bob join", "carol join", "mallory join"]);
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert_eq!(section(&answer, "join", &room.room_id)["summary"]["m.joined_member_count"], 4);
}

/// State that changes by resolution, without an event of its own in the timeline, is told by both kinds of sync.
#[tokio::test]
async fn state_changed_by_resolution_is_told() {
    let (world, mut remote, room, join) = joined().await;
    let by_carol = remote.topic(CAROL, &[&join], "carol's");
    live(&world, &room, &remote, &by_carol).await;
    let answer = world.sync("alice", None).await;
    let wanted = WantedList { wish: wish(1, &[("m.room.topic", "")]), ..WantedList::default() };
    let slid = world.slide(world.sliding("alice", None, wanted.clone())).await;
    assert_eq!(timeline(&answer, &room.room_id), ["alice join", "topic"]);
    // Meanwhile, and not knowing of that, Bob had taken the power to do so from Carol.
    let levels = json!({ "users": { BOB: 100 } });
    let demotes = remote.event(BOB, &[&join], "m.room.power_levels", Some(""), &levels);
    live(&world, &room, &remote, &demotes).await;
    let next = world.sync("alice", Some(token(&answer))).await;
    assert_eq!(timeline(&next, &room.room_id), ["power_levels"]);
    let told = &section(&next, "join", &room.room_id)["state"]["events"];
    assert_eq!(told.as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told[0]["content"]["topic"], "bob's");
    let slid = world.slide(world.sliding("alice", pos(&slid), wanted.clone())).await;
    let told = &slid["rooms"][room.room_id.as_str()]["required_state"];
    assert_eq!(
        (told.as_array().unwrap().len(), &told[0]["content"]["topic"]),
        (1, &json!("bob's")),
        "{slid}"
    );
    // Nothing is told twice.
    let slid = world.slide(world.sliding("alice", pos(&slid), wanted)).await;
    assert_eq!(slid["rooms"], json!({}));
    let last = world.sync("alice", Some(token(&next))).await;
    assert!(section(&last, "join", &room.room_id).is_null());
}

/// Refused, soft-failed and backfilled events are no news, and held-back redactions are told with nothing.
#[tokio::test]
async fn what_is_not_shown_is_not_told() {
    let (world, mut remote, room, join) = joined().await;
    let answer = world.sync("alice", None).await;
    let ban = remote.member(BOB, &[&join], "@mallory:bad.test", "ban");
    let evades = remote.message("@mallory:bad.test", &[&join], "still here");
    let refused = remote.topic("@mallory:bad.test", &[&join], "mine");
    let secret = remote.message(CAROL, &[&ban], "secret");
    let redaction = remote.redaction(BOB, &[&ban], &secret);
    for event in [&ban, &evades, &refused, &redaction] {
        live(&world, &room, &remote, event).await;
    }
    let next = world.sync("alice", Some(token(&answer))).await;
    assert_eq!(timeline(&next, &room.room_id), ["mallory ban"]);
    live(&world, &room, &remote, &secret).await;
    let last = world.sync("alice", Some(token(&next))).await;
    assert_eq!(timeline(&last, &room.room_id), ["(redacted)"]);
}

/// A room that was joined before its members are known is shown at once to who loads members lazily, and when it is whole
/// to who takes what they are told for all.
#[tokio::test]
async fn a_partial_room_is_slid_in_by_whom_it_suffices() {
    let world = World::new(&["alice"]).await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let join = remote.member(ALICE, &[events.last().unwrap()], ALICE, "join");
    let room = world.rooms.adopt(remote.adopt_partially(&join)).await.unwrap();
    let list = |required: &[(&str, &str)]| WantedList { wish: wish(5, required), ..WantedList::default() };
    let lazy = list(&[("m.room.member", "$LAZY"), ("m.room.create", "")]);
    let all = list(&[("*", "*")]);
    let asked = |last: Option<&serde_json::Value>, connection: &str, list: &WantedList| {
        let mut request = world.sliding("alice", last.and_then(pos), list.clone());
        request.connection = connection.to_owned();
        world.slide(request)
    };
    let id = room.room_id.as_str();
    let (first, held) = (asked(None, "lazy", &lazy).await, asked(None, "all", &all).await);
    assert_eq!(first["rooms"][id]["initial"], true, "{first}");
    assert_eq!((&held["rooms"], &held["lists"]["all"]["count"]), (&json!({}), &json!(0)));
    let mut states = std::collections::BTreeMap::new();
    for event in world.rooms.missing_states(room.number).await.unwrap() {
        let stated = remote.stated(&event);
        let mut outliers = remote.auth_chain(stated.before.clone());
        outliers.extend(stated.before.iter().chain([&event]).cloned());
        for outlier in &outliers {
            let incoming = Incoming::new(remote.verified(outlier), Placement::Outlier);
            world.rooms.ingest(&room, vec![incoming]).await.unwrap();
        }
        states.insert(event, stated);
    }
    world.rooms.complete(&room, states).await.unwrap();
    let (next, whole) = (asked(Some(&first), "lazy", &lazy).await, asked(Some(&held), "all", &all).await);
    assert_eq!(next["rooms"][id]["joined_count"], 4, "{next}");
    // Whom the timeline does not name, nobody asked for.
    assert_eq!(next["rooms"][id].get("required_state"), None, "{next}");
    assert_eq!(whole["rooms"][id]["initial"], true, "{whole}");
    assert_eq!(whole["rooms"][id]["required_state"].as_array().unwrap().len(), 8);
}
