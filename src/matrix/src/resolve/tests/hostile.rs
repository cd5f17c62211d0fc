//! Graphs that somebody made to hurt: deep, wide, and both. Work is counted, not timed.

use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::{Value, json};

use super::room::{Asked, back, run};
use super::{New, Room, State, room::Supplier};
use crate::resolve::{AuthGraph, Resolution};

/// A room with 10,000 events on top of the usual beginning, each naming what `auth` says.
fn grown(version: &str, kind: &str, content: &Value, auth: impl Fn(u32) -> Vec<u32>) -> Room {
    let mut room = Room::new(version);
    room.create("@a:x");
    let nothing = State::new();
    let mut add = |kind: &str, key: &str, content: &Value, auth: Vec<u32>| {
        room.add_unchecked(
            &New {
                id: format!("$e{}", room.events.len()),
                sender: "@a:x",
                kind: kind.to_owned(),
                state_key: Some(key.to_owned()),
                content: content.clone(),
                ts: 1,
                prev: vec![0],
                auth: Some(auth),
                forced: true,
            },
            &nothing,
        )
    };
    add("m.room.member", "@a:x", &json!({"membership": "join"}), vec![0]);
    add("m.room.power_levels", "", &json!({"users": {"@a:x": 100}}), vec![0, 1]);
    for number in 3..SIZE {
        add(kind, "", content, auth(number));
    }
    room
}

const SIZE: u32 = 10_003;

fn resolve(
    room: &Room,
    sets: [&[u32]; 2],
    states: &[&State; 2],
    graph: &mut AuthGraph,
) -> (Vec<Option<u32>>, Asked) {
    let names: Vec<u32> = (0..SIZE).collect();
    let sets = sets.iter().map(|set| set.iter().collect::<RoaringBitmap>()).collect();
    let mut resolution = Resolution::new(&room.rules, 0, sets).unwrap();
    let supplier = Supplier { room, states, names: &names, back: &back(&names) };
    let (changes, asked) = run(&mut resolution, graph, &supplier);
    (changes.into_iter().map(|change| change.winner).collect(), asked)
}

/// The state of all sets: the beginning without power levels.
fn beginning() -> State {
    let entry = |kind: &str, key: &str, number| ((kind.to_owned(), key.to_owned()), number);
    [entry("m.room.create", "", 0), entry("m.room.member", "@a:x", 1)].into()
}

/// One chain of 10,000 power levels: the end against the beginning. Walks are iterative, and each
/// event is asked for once.
#[test]
fn cve_2024_31208_a_deep_auth_graph() {
    for version in ["11", "12"] {
        let levels = json!({"users": if version == "12" { json!({}) } else { json!({"@a:x": 100}) }});
        let create = |auth: Vec<u32>| if version == "12" { auth[1..].to_vec() } else { auth };
        let room = grown(version, "m.room.power_levels", &levels, |number| create(vec![0, 1, number - 1]));
        let mut graph = AuthGraph::new(1 << 20);
        let states = [&beginning(), &beginning()];
        let (winners, asked) = resolve(&room, [&[SIZE - 1], &[3]], &states, &mut graph);
        assert_eq!(winners, [Some(SIZE - 1)], "version {version}");
        let size = usize::try_from(SIZE).unwrap();
        assert!(asked.vertices <= size && asked.events <= size && asked.rounds <= size + 50, "{asked:?}");
        assert!(graph.bytes() <= 1 << 20, "{} bytes are remembered", graph.bytes());
    }
}

/// The same chain where nothing of it is in conflict: two topics under its end. What is remembered
/// from one resolution serves the next.
#[test]
fn cve_2024_31208_a_conflict_on_top_of_a_deep_auth_graph() {
    let levels = json!({"users": {"@a:x": 100}});
    let top = SIZE - 3;
    let mut room = grown("11", "m.room.power_levels", &levels, |number| vec![0, 1, number - 1]);
    room.events.truncate(usize::try_from(top).unwrap());
    let mut state = beginning();
    state.insert(("m.room.power_levels".to_owned(), String::new()), top - 1);
    for ts in [1, 2, 3] {
        let id = format!("$topic{ts}");
        let (kind, state_key) = ("m.room.topic".to_owned(), Some(String::new()));
        let (prev, auth) = (vec![top - 1], Some(vec![0, 1, top - 1]));
        let content = json!({"topic": ts});
        room.add_unchecked(
            &New { id, sender: "@a:x", kind, state_key, content, ts, prev, auth, forced: true },
            &state,
        );
    }
    let mut graph = AuthGraph::new(16 << 20);
    let states = [&state, &state];
    let (winners, first) = resolve(&room, [&[top], &[top + 1]], &states, &mut graph);
    assert_eq!(winners, [Some(top + 1)]);
    // The chain is walked once, but only the ends of it are read whole.
    assert!(first.vertices <= usize::try_from(SIZE).unwrap() && first.events < 10, "{first:?}");
    let (winners, second) = resolve(&room, [&[top + 2], &[top + 1]], &states, &mut graph);
    assert_eq!(winners, [Some(top + 2)]);
    assert!(second.vertices <= 4 && second.rounds < 10 && second.events < 10, "{second:?}");
}

/// 10,000 events side by side, all in conflict, each naming a hundred others.
#[test]
fn cve_2024_31208_a_wide_auth_graph() {
    let room = grown("11", "odd", &json!({}), |number| {
        let mut auth = vec![0, 1, 2];
        auth.extend((3..number).rev().step_by(97).take(100));
        auth
    });
    let all: Vec<u32> = (3..SIZE).collect();
    let mut graph = AuthGraph::new(1 << 20);
    let states = [&beginning(), &beginning()];
    let (winners, asked) = resolve(&room, [&all, &[]], &states, &mut graph);
    // Of equals the greatest id wins; and there are the power levels, which no state had.
    assert_eq!(winners, [Some(2), Some(9_999)]);
    let size = usize::try_from(SIZE).unwrap();
    assert!(asked.vertices <= size && asked.events <= size && asked.rounds <= 300, "{asked:?}");
    assert!(graph.bytes() <= 1 << 20, "{} bytes are remembered", graph.bytes());
}

/// An old event that 10,000 refer to and none of them is state any more: each is looked at once.
#[test]
fn cve_2024_31208_an_event_that_many_refer_to() {
    let mut room = grown("11", "odd", &json!({}), |_| vec![0, 1, 2]);
    let state = room.event(1).after.clone();
    let states: [&State; 2] = [&state, &Arc::new(beginning())];
    let mut graph = AuthGraph::new(1 << 20);
    // Number 2 is in the chain of one side alone, and no state rests on it.
    let (_, asked) = resolve(&room, [&[3], &[]], &states, &mut graph);
    let size = usize::try_from(SIZE).unwrap();
    assert!(asked.referrers <= size && asked.vertices <= size && asked.events < 10, "{asked:?}");
    // Once the newest of them is state, that is found at once.
    let mut state = beginning();
    state.insert(("odd".to_owned(), "newest".to_owned()), SIZE - 1);
    let pdu = Arc::make_mut(&mut room.events[usize::try_from(SIZE - 1).unwrap()].pdu);
    pdu.state_key = Some("newest".to_owned());
    let (_, asked) = resolve(&room, [&[3], &[]], &[&state, &state], &mut AuthGraph::new(1 << 20));
    assert!(asked.vertices < 400 && asked.referrers <= 2, "{asked:?}");
}
