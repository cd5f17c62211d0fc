//! Events that build on others which are not here.

use ruma::OwnedEventId;

use super::world::World;
use crate::tables::rooms::EventStatus;

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

/// Where nobody has what is between, the newest missing event is placed by the state that is stated before it.
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
    assert_eq!(world.server.stored(&world.room, &last).await.record.status, EventStatus::Timeline);
    let state = world.server.state(&world.room).await;
    assert_eq!(state.get(&("m.room.topic".to_owned(), String::new())), Some(&topic));
    // The rest is a gap in the past, which whoever looks back fills.
    assert!(!world.server.rooms.backward_extremities(&world.room, 10).await.unwrap().is_empty());
    assert!(world.inbound.fill_history(&world.room, 0..=u64::MAX).await);
    let shown = world.server.history(&world.room).await;
    assert_eq!(shown.iter().take(4).cloned().collect::<Vec<_>>(), [last, between, topic, join]);
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
    let script = world.others.0.lock().unwrap();
    assert!(script.asked.len() <= 20, "{} requests for one event", script.asked.len());
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
