//! Events that build on others which are not here.

use ruma::OwnedEventId;

use super::world::World;
use crate::{rooms::read::Direction, tables::rooms::EventStatus};

/// A chain of messages behind the join, none of them here; `publish` gives them to the others.
fn chain(world: &mut World, length: usize) -> Vec<OwnedEventId> {
    let mut events = vec![world.join.clone()];
    for number in 0..length {
        let event = world.remote.message("@bob:remote.test", &[events.last().unwrap()], &number.to_string());
        events.push(event);
    }
    world.publish();
    events
}

#[tokio::test]
async fn a_gap_is_filled() {
    let mut world = World::new().await;
    let events = chain(&mut world, 8);
    let last = events.last().unwrap();
    let answer = world.send("remote.test", "1", vec![world.json(last)], &[]).await;
    assert_eq!(answer[last], Ok(()));
    for event in &events {
        let stored = world.server.stored(&world.room, event).await;
        assert_eq!(stored.record.status, EventStatus::Timeline);
    }
    assert_eq!((world.others.asked("missing"), world.others.asked("state_ids")), (1, 0));
    let shown = world.server.history(&world.room).await;
    assert_eq!(shown.iter().take(9).rev().cloned().collect::<Vec<_>>(), events);
}

/// Where nobody has what is between, the newest missing event is placed by the state that is stated before it, and the rest
/// of the gap is fetched behind it.
#[tokio::test]
async fn a_gap_that_stays_is_bridged_by_checked_state() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let bob = "@bob:remote.test";
    let topic = world.remote.topic(bob, &[&join], "new");
    let between = world.remote.message(bob, &[&topic], "between");
    let last = world.remote.message(bob, &[&between], "last");
    world.publish();
    world.others.be_silent_about("missing");
    world.send("remote.test", "1", vec![world.json(&last)], &[]).await;
    // What is sent must come with what it directly follows.
    assert!(!world.is_here(&last).await);
    let attempt = world.inbound.0.staging.repairs().attempt(world.room.number, 0).await.unwrap();
    assert!(attempt.whole);
    assert_eq!(world.server.stored(&world.room, &last).await.record.status, EventStatus::Timeline);
    let state = world.server.state(&world.room).await;
    assert_eq!(state.get(&("m.room.topic".to_owned(), String::new())), Some(&topic));
    let shown = world.server.history(&world.room).await;
    assert_eq!(shown.iter().take(4).cloned().collect::<Vec<_>>(), [last, between, topic, join]);
}

/// What was acknowledged waits until what it builds on is to be had, over a restart too.
#[tokio::test]
async fn a_gap_is_repaired_once_others_answer() {
    let mut world = World::new().await;
    let events = chain(&mut world, 8);
    let last = events.last().unwrap().clone();
    for what in ["missing", "event", "state_ids", "backfill"] {
        world.others.be_silent_about(what);
    }
    let answer = world.send("remote.test", "1", vec![world.json(&last)], &[]).await;
    assert_eq!(answer[&last], Ok(()));
    let attempt = world.inbound.0.staging.repairs().attempt(world.room.number, 0).await.unwrap();
    assert!(!attempt.whole && attempt.pages == 0, "{attempt:?}");
    assert!(!world.is_here(&last).await);
    world.reopen().await;
    world.others.0.lock().unwrap().silent.clear();
    let attempt = world.inbound.0.staging.repairs().attempt(world.room.number, 1).await.unwrap();
    assert!(attempt.whole, "{attempt:?}");
    let shown = world.server.history(&world.room).await;
    assert_eq!(shown.iter().take(9).rev().cloned().collect::<Vec<_>>(), events);
    let again = world.inbound.0.staging.repairs().attempt(world.room.number, 0).await.unwrap();
    assert!(again.whole && again.pages == 0, "{again:?}");
}

/// What was the newest before a gap is followed by what was in it, so that it has no say in the state any more.
#[tokio::test]
async fn ends_from_before_a_gap_are_none_once_it_is_closed() {
    let mut world = World::new().await;
    let join = world.join.clone();
    let bob = "@bob:remote.test";
    let mut events = vec![world.remote.topic(bob, &[&join], "one")];
    for number in 0..250 {
        let event = world.remote.message(bob, &[events.last().unwrap()], &number.to_string());
        events.push(event);
    }
    let topic = world.remote.topic(bob, &[events.last().unwrap()], "two");
    let last = world.remote.message(bob, &[&topic], "last");
    world.publish();
    world.others.be_silent_about("missing");
    world.send("remote.test", "1", vec![world.json(&last)], &[]).await;
    let attempt = world.inbound.0.staging.repairs().attempt(world.room.number, 0).await.unwrap();
    assert!(attempt.whole && attempt.pages > 2, "{attempt:?}");
    assert_eq!(
        world.server.rooms.forward_extremities(&world.room).await.unwrap(),
        std::slice::from_ref(&last)
    );
    let state = world.server.state(&world.room).await;
    assert_eq!(state.get(&("m.room.topic".to_owned(), String::new())), Some(&topic));
    let shown = world.server.history(&world.room).await;
    assert_eq!((&shown[0], &shown[253]), (&last, &join));
}

/// CVE-2024-31208: chains without end took all of the server's time and disk.
#[tokio::test]
async fn cve_2024_31208_endless_chains_have_an_end() {
    let mut world = World::new().await;
    let events = chain(&mut world, 2_000);
    // What connects them to the room is kept back.
    world.others.0.lock().unwrap().events.remove(&events[1]);
    world.others.be_silent_about("state_ids");
    let last = events.last().unwrap();
    let answer = world.send("remote.test", "1", vec![world.json(last)], &[]).await;
    assert_eq!(answer[last], Ok(()));
    assert!(!world.is_here(last).await);
    let asked = world.others.0.lock().unwrap().asked.len();
    assert!(asked <= 20, "{asked} requests for one event");
}

/// The whole past of a room comes page by page as somebody looks back.
#[tokio::test]
async fn the_past_is_fetched_when_somebody_looks() {
    let world = World::new().await;
    world.publish();
    let mut fetched = 0;
    while world.inbound.fill_history(&world.room, 0..=u64::MAX).await {
        fetched += 1;
    }
    assert!(fetched >= 1);
    assert_eq!(world.server.rooms.backward_extremities(&world.room, 10).await.unwrap(), []);
    // All seven events that were before the join.
    assert_eq!(world.server.history(&world.room).await.len(), 8);
}

/// Where nobody answers, what is here is all there is.
#[tokio::test]
async fn a_past_that_nobody_has_stays_away() {
    let world = World::new().await;
    assert!(!world.inbound.fill_history(&world.room, 0..=u64::MAX).await);
    assert!(world.others.asked("backfill") >= 1);
    assert!(!world.inbound.fill_history(&world.room, 0..=0).await);
}

/// Events of the part of the history that is missing are found by their ids and by time.
#[tokio::test]
async fn single_events_of_the_past_are_fetched() {
    let world = World::new().await;
    world.publish();
    let mut past: Vec<_> = world
        .remote
        .nodes
        .iter()
        .map(|(event_id, node)| {
            let at_ms = u64::from(node.event.pdu().origin_server_ts.get());
            (at_ms, event_id.clone())
        })
        .collect();
    past.sort();
    let (at_ms, wanted) = past[5].clone();
    assert!(world.inbound.fetch_event(&world.room, &wanted).await);
    assert!(world.inbound.fetch_event_at_time(&world.room, (past[3].0, Direction::Backward), None).await);
    // What is here is as near as can be.
    assert!(!world.inbound.fetch_event_at_time(&world.room, (at_ms, Direction::Forward), Some(at_ms)).await);
    assert!(!world.inbound.fetch_event(&world.room, &wanted).await);
    let shown = world.server.history(&world.room).await;
    assert!(shown.contains(&wanted) && shown.contains(&past[3].1), "{shown:?}");
    assert_eq!(shown.first(), Some(&world.join));
}
