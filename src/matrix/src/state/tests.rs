//! The state tree against a `BTreeMap`, and what it costs.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;

/// Nodes by id, some of which are withheld until asked for.
#[derive(Default)]
struct Store {
    all: HashMap<NodeId, Arc<Node>>,
    at_hand: RefCell<HashMap<NodeId, Arc<Node>>>,
    rounds: RefCell<usize>,
    fetched: RefCell<usize>,
}

impl NodeSource for Store {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.at_hand.borrow().get(&id).cloned()
    }
}

impl Store {
    /// Runs an operation with a cold cache, fetching what it asks for.
    fn run<T>(&self, operation: impl Fn(&Self) -> Step<T>) -> T {
        self.at_hand.borrow_mut().clear();
        *self.rounds.borrow_mut() = 0;
        *self.fetched.borrow_mut() = 0;
        loop {
            match operation(self) {
                Step::Done(value) => return value,
                Step::Corrupt(id) => panic!("corrupt {id:?}"),
                Step::Need(ids) => {
                    assert!(!ids.is_empty());
                    *self.rounds.borrow_mut() += 1;
                    *self.fetched.borrow_mut() += ids.len();
                    for id in ids {
                        let node = self.all.get(&id).expect("only stored nodes are asked for");
                        let before = self.at_hand.borrow_mut().insert(id, node.clone());
                        assert!(before.is_none(), "asked for a node at hand");
                    }
                }
            }
        }
    }

    fn update(&mut self, root: Root, changes: &[(EntryKey, Option<u32>)]) -> Updated {
        let updated = self.run(|store| update(root, changes, &hasher(), store));
        for (id, bytes) in &updated.new_nodes {
            assert_eq!(hasher().node_id(bytes), *id);
            self.all.insert(*id, Arc::new(Node::decode(bytes).unwrap()));
        }
        updated
    }
}

fn hasher() -> RoomHashKey {
    RoomHashKey::new([3; 32])
}

/// Keys that collide on long prefixes, so that a few of them make deep and compressed paths.
fn any_key() -> impl Strategy<Value = EntryKey> {
    let byte = prop::sample::select(vec![0_u8, 1, 0x10, 0x11, 0xff]);
    prop_oneof![
        prop::array::uniform16(byte).prop_map(EntryKey),
        (0..4_u8, 0..200_u32).prop_map(|(kind, n)| {
            hasher().entry_key(&format!("type{kind}"), &format!("@user{n}:example.org"))
        }),
        (0..16_u8, any::<u8>()).prop_map(|(at, byte)| {
            let mut key = [0; 16];
            key[usize::from(at)] = byte;
            EntryKey(key)
        }),
    ]
}

type Changes = Vec<(EntryKey, Option<u32>)>;

/// Batches of changes, about a third of them deletions.
fn any_batches() -> impl Strategy<Value = Vec<Changes>> {
    let number = prop::option::weighted(0.65, 0..1_000_u32);
    prop::collection::vec(prop::collection::vec((any_key(), number), 0..60), 1..8)
}

fn apply_to_model(model: &mut BTreeMap<EntryKey, u32>, changes: &Changes) {
    for (key, number) in changes {
        match number {
            Some(number) => model.insert(*key, *number),
            None => model.remove(key),
        };
    }
}

fn apply_all(model: &mut BTreeMap<EntryKey, u32>, batches: &[Changes]) {
    for changes in batches {
        apply_to_model(model, changes);
    }
}

/// The tree of a set, made at once.
fn root_of(store: &mut Store, model: &BTreeMap<EntryKey, u32>) -> Root {
    let changes: Changes = model.iter().map(|(key, number)| (*key, Some(*number))).collect();
    store.update(Root::EMPTY, &changes).root
}

fn model_diff(a: &BTreeMap<EntryKey, u32>, b: &BTreeMap<EntryKey, u32>) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .map(|key| Difference { key: *key, before: a.get(key).copied(), after: b.get(key).copied() })
        .filter(|difference| difference.before != difference.after)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// However a set came about, its root is the same, and it holds what the model holds.
    #[test]
    fn shape_is_canonical(batches in any_batches()) {
        let mut store = Store::default();
        let mut model = BTreeMap::new();
        let mut root = Root::EMPTY;
        for changes in &batches {
            apply_to_model(&mut model, changes);
            let updated = store.update(root, changes);
            prop_assert_eq!(updated.root == root, updated.new_nodes.is_empty() || updated.root == Root::EMPTY);
            root = updated.root;
            prop_assert_eq!(root, root_of(&mut store, &model));
            let total = u32::try_from(model.len()).unwrap();
            prop_assert_eq!(store.run(|store| count(root, store)), total);
            let listed = store.run(|store| scan(root, Selection::All, None, usize::MAX, store));
            prop_assert_eq!(listed, model.clone().into_iter().collect::<Vec<_>>());
        }
        let mut keys: Vec<_> = model.keys().copied().collect();
        keys.extend(batches.iter().flatten().map(|(key, _)| *key).rev());
        let found = store.run(|store| get_many(root, &keys, store));
        let expected: Vec<_> = keys.iter().map(|key| model.get(key).copied()).collect();
        prop_assert_eq!(found, expected);
        // One at a time, in another order.
        let mut single = Root::EMPTY;
        for (key, number) in model.iter().rev() {
            single = store.update(single, &[(*key, Some(*number))]).root;
        }
        prop_assert_eq!(single, root);
        for key in model.keys() {
            single = store.update(single, &[(*key, None)]).root;
        }
        prop_assert_eq!(single, Root::EMPTY);
    }

    #[test]
    fn diff_is_the_models(first in any_batches(), second in any_batches(), related in any::<bool>()) {
        let mut store = Store::default();
        let mut a = BTreeMap::new();
        apply_all(&mut a, &first);
        let mut b = if related { a.clone() } else { BTreeMap::new() };
        apply_all(&mut b, &second);
        let (root_a, root_b) = (root_of(&mut store, &a), root_of(&mut store, &b));
        let found = store.run(|store| diff(root_a, root_b, store));
        prop_assert_eq!(found, model_diff(&a, &b));
        prop_assert!(store.run(|store| diff(root_a, root_a, store)).is_empty());
    }

    #[test]
    fn pages_join_to_the_whole(batches in any_batches(), limit in 1..40_usize, typed in any::<bool>()) {
        let mut store = Store::default();
        let mut model = BTreeMap::new();
        apply_all(&mut model, &batches);
        let root = root_of(&mut store, &model);
        let prefix = hasher().type_prefix("type1");
        let selection = if typed { Selection::Type(prefix) } else { Selection::All };
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = store.run(|store| scan(root, selection, after, limit, store));
            prop_assert!(page.len() <= limit);
            after = page.last().map(|(key, _)| *key).or(after);
            let end = page.len() < limit;
            all.extend(page);
            if end { break }
        }
        let expected: Vec<_> = model
            .into_iter()
            .filter(|(key, _)| !typed || key.type_prefix() == prefix)
            .collect();
        prop_assert_eq!(all, expected);
    }

    /// A node in the wrong place is reported, never believed, and never loops.
    #[test]
    fn misplaced_nodes_are_noticed(seed in any::<u32>()) {
        let mut store = Store::default();
        let changes: Changes = (0..400).map(|n| (member(n ^ seed), Some(n))).collect();
        let root = store.update(Root::EMPTY, &changes).root;
        let top = store.all.get(&root.0.unwrap()).unwrap().clone();
        let broken = |id: NodeId| -> Option<Arc<Node>> {
            if Some(id) == root.0 { store.all.get(&id).cloned() } else { Some(top.clone()) }
        };
        let keys: Vec<_> = changes.iter().map(|(key, _)| *key).collect();
        prop_assert!(matches!(get_many(root, &keys, &broken), Step::Corrupt(_)));
        prop_assert!(matches!(diff(root, Root::EMPTY, &broken), Step::Corrupt(_)));
        prop_assert!(matches!(scan(root, Selection::All, None, 500, &broken), Step::Corrupt(_)));
        let change = [(keys[0], Some(7))];
        prop_assert!(matches!(update(root, &change, &hasher(), &broken), Step::Corrupt(_)));
    }
}

fn member(number: u32) -> EntryKey {
    hasher().entry_key("m.room.member", &format!("@user{number}:example.org"))
}

/// A room of so many members and the usual other state.
fn room(store: &mut Store, members: u32) -> Root {
    let kinds = [
        "create",
        "power_levels",
        "join_rules",
        "history_visibility",
        "name",
        "topic",
        "avatar",
        "canonical_alias",
        "encryption",
        "guest_access",
        "server_acl",
        "pinned_events",
    ];
    let mut changes: Changes = (0..members).map(|n| (member(n), Some(n + 100))).collect();
    for (number, kind) in (0..).zip(kinds) {
        changes.push((hasher().entry_key(&format!("m.room.{kind}"), ""), Some(number)));
    }
    store.update(Root::EMPTY, &changes).root
}

fn written(updated: &Updated) -> usize {
    updated.new_nodes.iter().map(|(id, bytes)| id.0.len() + bytes.len()).sum()
}

/// The design's figure: less than 2 KiB written per state change in a room of 100,000 members.
#[test]
#[expect(clippy::print_stderr, reason = "figures for the documentation")]
fn bytes_per_change() {
    for members in [10, 1_000, 10_000, 30_000, 100_000] {
        let mut store = Store::default();
        let root = room(&mut store, members);
        let stored: usize = store.all.values().map(|node| 16 + node.encode().len()).sum();
        let (mut total, mut worst, mut rounds) = (0, 0, 0);
        let samples = 200;
        for n in 0..samples {
            let key = member(if n % 2 == 0 { n * 7 % members } else { members + n });
            let updated = store.run(|store| update(root, &[(key, Some(1_000_000 + n))], &hasher(), store));
            rounds = rounds.max(*store.rounds.borrow());
            total += written(&updated);
            worst = worst.max(written(&updated));
        }
        let mean = total / usize::try_from(samples).unwrap();
        eprintln!(
            "{members} members: {stored} bytes in {} nodes; a change writes {mean} bytes (worst {worst}) after {rounds} rounds",
            store.all.len()
        );
        // The worst is a change that splits a full leaf.
        assert!(mean < 1_792 && worst < 2_560, "{members} members: {mean}, worst {worst} bytes");
        assert!(rounds <= 7);
    }
}

/// Neighbouring states of a large room: what is read follows what changed.
#[test]
fn diff_reads_only_what_differs() {
    let mut store = Store::default();
    let root = room(&mut store, 20_000);
    let after = store.update(root, &[(member(5), Some(9)), (member(20_001), Some(8))]).root;
    let found = store.run(|store| diff(root, after, store));
    assert_eq!(found.len(), 2);
    assert!(*store.fetched.borrow() <= 20, "{} nodes read", store.fetched.borrow());
    let page = store
        .run(|store| scan(root, Selection::Type(hasher().type_prefix("m.room.member")), None, 50, store));
    assert_eq!(page.len(), 50);
    assert!(*store.fetched.borrow() <= 30, "{} nodes read", store.fetched.borrow());
}

#[test]
fn no_change_writes_nothing() {
    let mut store = Store::default();
    let root = room(&mut store, 500);
    let same = store.update(root, &[(member(5), Some(105)), (member(90_000), None)]);
    assert_eq!(same, Updated { root, new_nodes: vec![] });
    assert_eq!(store.update(Root::EMPTY, &[(member(5), None)]).root, Root::EMPTY);
}
