//! §Checks performed on receipt of a PDU, §Rejection, §Soft failure: what is not accepted, and what it must not do.

use ruma::RoomVersionId;
use serde_json::json;

use crate::{
    rooms::{
        ingest::{IngestOutcome, Missing, Placement},
        testing::{Forged, Remote, Server, status},
    },
    tables::rooms::EventStatus::{Outlier, Rejected, SoftFailed, Timeline},
};

const BOB: &str = "@bob:remote.test";
const CAROL: &str = "@carol:other.test";
const MALLORY: &str = "@mallory:bad.test";

/// §Checks performed on receipt of a PDU, 4: an event whose auth events were refused is refused, and so is one that names
/// something else than state as what allows it; nothing panics.
#[tokio::test]
async fn what_bad_auth_events_allow_is_refused() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let server = Server::new().await;
        let (mut remote, events) = Remote::new(version);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        // Mallory has no power to set levels.
        let levels = json!({ "users": { MALLORY: 100 } });
        let grab = remote.event(MALLORY, &[&join], "m.room.power_levels", Some(""), &levels);
        assert_eq!(server.live(&room, &remote, &grab).await, Rejected);
        let upon = remote.topic(MALLORY, &[&join], "mine");
        let mut auth = remote.verified(&upon).pdu().auth_events.clone();
        auth.retain(|id| *id != events[2]);
        auth.push(grab.clone());
        let forged = Forged { auth: Some(auth), ..Forged::default() };
        let content = json!({ "topic": "mine" });
        let upon = remote.forge(MALLORY, &[&join], "m.room.topic", Some(""), &content, forged);
        assert_eq!(server.live(&room, &remote, &upon).await, Rejected);

        let message = remote.message(BOB, &[&join], "hello");
        assert_eq!(server.live(&room, &remote, &message).await, Timeline);
        let mut auth = remote.verified(&message).pdu().auth_events.clone();
        auth.push(message.clone());
        let forged = Forged { auth: Some(auth.clone()), ..Forged::default() };
        let odd = remote.forge(BOB, &[&message], "m.room.message", None, &json!({ "body": "x" }), forged);
        assert_eq!(server.live(&room, &remote, &odd).await, Rejected);
        let forged = Forged { auth: Some(auth), ..Forged::default() };
        let odd = remote.forge(BOB, &[&message], "m.room.name", Some(""), &json!({ "name": "x" }), forged);
        let outcome = server.ingest(&room, &remote, Placement::Outlier, &[&odd]).await.remove(0);
        assert_eq!(status(&outcome), Rejected);

        // Refused events change nothing, are never shown, and nothing of ours follows them.
        let state = server.state(&room).await;
        assert!(!state.contains_key(&("m.room.topic".to_owned(), String::new())));
        assert_eq!(state[&("m.room.power_levels".to_owned(), String::new())], events[2]);
        assert_eq!(server.history(&room).await, [message.clone(), join.clone()]);
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), std::slice::from_ref(&message));
        // What is built on a refused event is judged by the state before it.
        let next = remote.message(BOB, &[&odd], "past it");
        assert_eq!(server.live(&room, &remote, &odd).await, Rejected);
        assert_eq!(server.live(&room, &remote, &next).await, Timeline);
        assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [next]);
    }
}

/// §Soft failure: what the state before it allows and the current state does not is kept, but not shown and not built on;
/// an accepted event that follows it stands for what it was built on.
#[tokio::test]
async fn what_evades_a_ban_is_soft_failed() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let ban = remote.member(BOB, &[&join], MALLORY, "ban");
    let evades = remote.message(MALLORY, &[&join], "still here");
    assert_eq!(server.live(&room, &remote, &ban).await, Timeline);
    assert_eq!(server.live(&room, &remote, &evades).await, SoftFailed);
    assert_eq!(server.history(&room).await, [ban.clone(), join.clone()]);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), std::slice::from_ref(&ban));
    assert!(server.stored(&room, &evades).await.record.reason.is_some());

    let state_evades = remote.topic(MALLORY, &[&evades], "mine");
    assert_ne!(server.live(&room, &remote, &state_evades).await, Timeline);
    // Bob saw neither ban nor message arrive here; his event follows the message, which is hidden.
    let next = remote.message(BOB, &[&evades], "what?");
    assert_eq!(server.live(&room, &remote, &next).await, Timeline);
    let mut tips = server.rooms.forward_extremities(&room).await.unwrap();
    tips.sort();
    let mut expected = vec![ban, next];
    expected.sort();
    assert_eq!(tips, expected);
    let state = server.state(&room).await;
    let member = server.stored(&room, &state[&("m.room.member".to_owned(), MALLORY.to_owned())]).await;
    assert!(member.json.windows(5).any(|part| part == b"\"ban\""));
}

/// §Retrieving missing events: what is missing is named, nothing is stored, and the same event is taken once it is there.
#[tokio::test]
async fn what_is_missing_is_named() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V12);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let dave = "@dave:other.test";
    let joins = remote.member(dave, &[&join], dave, "join");
    let first = remote.message(CAROL, &[&joins], "one");
    let second = remote.message(dave, &[&first], "two");
    let outcome = server.ingest(&room, &remote, Placement::Live, &[&second]).await.remove(0);
    let missing = Missing { prev: vec![first.clone()], auth: vec![joins.clone()], state: Vec::new() };
    assert_eq!(outcome, IngestOutcome::Missing(missing));
    // An outlier is no parent: its state is not known.
    server.ingest(&room, &remote, Placement::Outlier, &[&joins, &first]).await;
    let number = server.stored(&room, &first).await.number;
    let outcome = server.ingest(&room, &remote, Placement::Live, &[&second]).await.remove(0);
    assert_eq!(outcome, IngestOutcome::Missing(Missing { prev: vec![first.clone()], ..Missing::default() }));
    // Any order within a call; an outlier that gets its place keeps its number; twice is once.
    for expected in [false, true] {
        let outcomes =
            server.ingest(&room, &remote, Placement::Live, &[&second, &first, &joins, &second]).await;
        assert!(outcomes.iter().all(|outcome| status(outcome) == Timeline));
        let known = |outcome: &IngestOutcome| matches!(outcome, IngestOutcome::Known { .. });
        assert_eq!(outcomes[..3].iter().all(known), expected);
        assert!(known(&outcomes[3]) || expected);
    }
    assert_eq!(server.stored(&room, &first).await.number, number);
    assert_eq!(server.history(&room).await, [second, first, joins, join]);
}

/// Outliers are known, and are no part of the history.
#[tokio::test]
async fn outliers_are_not_shown() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let message = remote.message(BOB, &[&join], "hello");
    let outcome = server.ingest(&room, &remote, Placement::Outlier, &[&message]).await.remove(0);
    assert_eq!(status(&outcome), Outlier);
    let view = server.view(&room).await;
    for event in [&message, &events[0]] {
        assert!(server.rooms.visible_event(&view, event).await.unwrap().is_none());
    }
    assert_eq!(server.history(&room).await, [join]);
    // But those of which the state consists are.
    let state = server.rooms.state_events(&view, None).await.unwrap();
    assert_eq!(state.len(), events.len() + 1);
}

/// However many refused events there are, paging back reaches the start.
#[tokio::test]
async fn cve_2026_45076_refused_events_do_not_stand_in_the_way() {
    let server = Server::new().await;
    let (mut remote, events) = Remote::new(RoomVersionId::V11);
    let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
    let first = remote.message(BOB, &[&join], "first");
    assert_eq!(server.live(&room, &remote, &first).await, Timeline);
    let refused: Vec<_> = (0..200).map(|n| remote.topic(MALLORY, &[&first], &format!("spam {n}"))).collect();
    let refused: Vec<_> = refused.iter().collect();
    let outcomes = server.ingest(&room, &remote, Placement::Live, &refused).await;
    assert!(outcomes.iter().all(|outcome| status(outcome) == Rejected));
    let last = remote.message(BOB, &[&first], "last");
    assert_eq!(server.live(&room, &remote, &last).await, Timeline);
    assert_eq!(server.history(&room).await, [last.clone(), first, join]);
    assert_eq!(server.rooms.forward_extremities(&room).await.unwrap(), [last]);
}
