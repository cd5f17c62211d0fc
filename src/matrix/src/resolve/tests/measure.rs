//! What a resolution costs in rooms of different sizes; prints, and asserts that it is the same.

use std::{collections::HashMap, sync::Arc};

use serde_json::json;

use super::{
    New, Room, State,
    room::{Asked, Supplier, back, run},
};
use crate::{
    resolve::{AuthGraph, Change, Resolution, conflicts},
    state::{Node, NodeId, RoomHashKey, Root, Step, update},
};

/// A room whose state is in a tree.
struct Planted {
    room: Room,
    hasher: RoomHashKey,
    nodes: HashMap<NodeId, Arc<Node>>,
}

impl Planted {
    fn say(&mut self, sender: &'static str, kind: &str, key: &str, membership: &str, auth: Vec<u32>) -> u32 {
        let number = self.room.events.len();
        let new = New {
            id: format!("$e{number}"),
            sender,
            kind: kind.to_owned(),
            state_key: Some(key.to_owned()),
            content: json!({"membership": membership, "join_rule": "public", "users": {"@a:x": 100}}),
            ts: u64::try_from(number).unwrap(),
            prev: vec![0],
            auth: Some(auth),
            forced: true,
        };
        self.room.add_unchecked(&new, &State::new())
    }

    fn plant(&mut self, root: Root, entries: &[((String, String), u32)]) -> Root {
        let changes: Vec<_> = entries
            .iter()
            .map(|((kind, key), number)| (self.hasher.entry_key(kind, key), Some(*number)))
            .collect();
        let source = |id: NodeId| self.nodes.get(&id).cloned();
        let Step::Done(updated) = update(root, &changes, &self.hasher, &source) else {
            panic!("all is at hand")
        };
        for (id, bytes) in &updated.new_nodes {
            self.nodes.insert(*id, Arc::new(Node::decode(bytes).unwrap()));
        }
        updated.root
    }

    /// From the roots of two forks to the root of what they resolve to.
    fn resolve(
        &mut self,
        roots: [Root; 2],
        state: &State,
        names: (&[u32], &[u32]),
        graph: &mut AuthGraph,
    ) -> (usize, Asked) {
        let source = |id: NodeId| self.nodes.get(&id).cloned();
        let Step::Done(sets) = conflicts(&roots, &source) else { panic!("all is at hand") };
        let mut resolution = Resolution::new(&self.room.rules, 0, sets).unwrap();
        let supplier = Supplier { room: &self.room, states: &[state], names: names.0, back: names.1 };
        let (changes, asked) = run(&mut resolution, graph, &supplier);
        let won = |change: &Change| Some(((change.kind.clone(), change.state_key.clone()), change.winner?));
        let won: Vec<_> = changes.iter().filter_map(won).collect();
        self.plant(roots[0], &won);
        (changes.len(), asked)
    }
}

/// A room with so many members, of whom ten change their profile on both of two forks.
fn measure(members: usize) -> (Asked, Asked) {
    let room = Room::new("11");
    let mut planted = Planted { room, hasher: RoomHashKey::new([7; 32]), nodes: HashMap::new() };
    planted.room.create("@a:x");
    let mut state = State::new();
    let mut put = |kind: &str, key: &str, number| state.insert((kind.to_owned(), key.to_owned()), number);
    put("m.room.create", "", 0);
    put("m.room.member", "@a:x", planted.say("@a:x", "m.room.member", "@a:x", "join", vec![0]));
    put("m.room.power_levels", "", planted.say("@a:x", "m.room.power_levels", "", "", vec![0, 1]));
    put("m.room.join_rules", "", planted.say("@a:x", "m.room.join_rules", "", "", vec![0, 1, 2]));
    let users: Vec<&'static str> =
        (0..members).map(|number| &*Box::leak(format!("@user{number}:y").into_boxed_str())).collect();
    for user in &users {
        put("m.room.member", user, planted.say(user, "m.room.member", user, "join", vec![0, 2, 3]));
    }
    let entries: Vec<_> = state.clone().into_iter().collect();
    let root = planted.plant(Root::EMPTY, &entries);
    let mut fork = || {
        let mut changes = Vec::new();
        for user in &users[..10] {
            let key = ("m.room.member".to_owned(), (*user).to_owned());
            let number = planted.say(user, "m.room.member", user, "join", vec![0, 2, 3, state[&key]]);
            changes.push((key, number));
        }
        planted.plant(root, &changes)
    };
    let roots = [fork(), fork()];
    let mut graph = AuthGraph::new(1 << 20);
    let names: Vec<u32> = (0..u32::try_from(planted.room.events.len()).unwrap()).collect();
    let back = back(&names);
    let mut timed = |what: &str| {
        #[expect(clippy::disallowed_methods, reason = "a measurement")]
        let start = std::time::Instant::now();
        let (changes, asked) = planted.resolve(roots, &state, (&names, &back), &mut graph);
        let elapsed = start.elapsed();
        assert_eq!(changes, 10);
        #[expect(clippy::print_stderr, reason = "a measurement")]
        {
            eprintln!("{members} members, {what}: {elapsed:?}, {asked:?}");
        }
        asked
    };
    (timed("first"), timed("again"))
}

/// `cargo test --workspace --lib -- --ignored --nocapture cost_of_ten_conflicts`
#[test]
#[ignore = "measures rooms of up to 100,000 members"]
fn cost_of_ten_conflicts() {
    for members in [1_000, 10_000, 100_000] {
        measure(members);
    }
}

#[test]
fn cost_does_not_depend_on_the_size_of_the_room() {
    let [small, large] = [100, 3_000].map(measure);
    assert_eq!(format!("{small:?}"), format!("{large:?}"));
    let (first, again) = small;
    assert!(first.vertices <= 34 && first.events <= 34 && first.referrers == 0, "{first:?}");
    assert!(again.vertices == 0 && again.rounds <= 4, "{again:?}");
}
