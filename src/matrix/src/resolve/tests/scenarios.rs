//! Rooms that lost their state elsewhere, and the orders that servers disagreed on.
//!
//! Each is resolved with its states in every order, by us and by ruma.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{New, Room, State};

const ALICE: &str = "@alice:a";
const BOB: &str = "@bob:b";
const CHARLIE: &str = "@charlie:c";
const EVE: &str = "@eve:e";
const ZARA: &str = "@zara:z";

/// A room in which Alice has power 100 (in version 12: is the creator) and everybody may join.
struct Story {
    room: Room,
    clock: u64,
    /// The last event of the common beginning.
    base: u32,
}

impl Story {
    fn new(version: &str) -> Self {
        Self::with_levels(version, &json!({}))
    }

    /// With these power levels beside Alice's.
    fn with_levels(version: &str, others: &Value) -> Self {
        let mut room = Room::new(version);
        let base = room.create(ALICE);
        let mut story = Self { room, clock: 0, base };
        story.base = story.member(ALICE, ALICE, "join", base);
        story.base = story.levels(ALICE, others, story.base);
        story.base = story.rule(ALICE, "public", story.base);
        story
    }

    /// Somebody joins in the common beginning.
    fn joined(mut self, users: &[&'static str]) -> Self {
        for user in users {
            self.base = self.member(user, user, "join", self.base);
        }
        self
    }

    fn say(&mut self, sender: &'static str, kind: &str, key: &str, content: Value, after: u32) -> u32 {
        self.clock += 1;
        let ts = self.clock;
        self.say_at(ts, sender, kind, key, content, after)
    }

    fn say_at(
        &mut self,
        ts: u64,
        sender: &'static str,
        kind: &str,
        key: &str,
        content: Value,
        after: u32,
    ) -> u32 {
        let new = New {
            id: format!("$event{}", self.room.events.len()),
            sender,
            kind: kind.to_owned(),
            state_key: Some(key.to_owned()),
            content,
            ts,
            prev: vec![after],
            auth: None,
            forced: false,
        };
        let number = self.room.add(&new);
        assert!(!self.room.event(number).pdu.rejected, "{kind} of {sender} is not allowed where it was said");
        number
    }

    fn member(&mut self, sender: &'static str, user: &str, membership: &str, after: u32) -> u32 {
        self.say(sender, "m.room.member", user, json!({"membership": membership}), after)
    }

    fn levels(&mut self, sender: &'static str, users: &Value, after: u32) -> u32 {
        let mut users = users.clone();
        if self.room.has_create_in_auth_events() {
            users[ALICE] = json!(100);
        }
        self.say(sender, "m.room.power_levels", "", json!({"users": users}), after)
    }

    fn rule(&mut self, sender: &'static str, rule: &str, after: u32) -> u32 {
        self.say(sender, "m.room.join_rules", "", json!({"join_rule": rule}), after)
    }

    fn topic(&mut self, sender: &'static str, topic: &str, after: u32) -> u32 {
        self.say(sender, "m.room.topic", "", json!({"topic": topic}), after)
    }

    fn state(&self, after: u32) -> Arc<State> {
        self.room.event(after).after.clone()
    }

    /// The events' own pieces of state put together, as a server with a gap in its history has it.
    fn state_of(&self, events: &[u32]) -> Arc<State> {
        let entry = |number: &u32| {
            let pdu = &self.room.event(*number).pdu;
            ((pdu.kind.clone(), pdu.state_key.clone().unwrap()), *number)
        };
        Arc::new(events.iter().map(entry).collect())
    }

    /// What all orders of these states resolve to.
    fn resolve(&self, states: &[Arc<State>]) -> Outcome {
        let states: Vec<&State> = states.iter().map(|state| &**state).collect();
        let theirs = self.room.resolve_by_ruma(&states).unwrap();
        for order in orders(states.len()) {
            let ordered: Vec<&State> = order.iter().map(|index| states[*index]).collect();
            assert_eq!(self.room.resolve(&ordered), theirs);
        }
        Outcome(theirs)
    }

    /// What the states after these events resolve to.
    fn meet(&self, ends: &[u32]) -> Outcome {
        let states: Vec<_> = ends.iter().map(|end| self.state(*end)).collect();
        self.resolve(&states)
    }
}

/// A resolved state.
struct Outcome(State);

impl Outcome {
    fn get(&self, kind: &str, key: &str) -> Option<u32> {
        self.0.get(&(kind.to_owned(), key.to_owned())).copied()
    }

    fn member(&self, user: &str) -> Option<u32> {
        self.get("m.room.member", user)
    }
}

/// All orders of the first `count` numbers.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for order in orders(count - 1) {
        for place in 0..count {
            let mut longer = order.clone();
            longer.insert(place, count - 1);
            all.push(longer);
        }
    }
    all
}

const VERSIONS: [&str; 10] = ["3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

#[test]
fn a_ban_beats_what_the_banned_does_to_power_levels() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let levels = story.levels(BOB, &json!({BOB: 50, CHARLIE: 50}), base);
        let ban = story.member(ALICE, BOB, "ban", base);
        let met = story.meet(&[levels, ban]);
        assert_eq!(met.member(BOB), Some(ban), "version {version}");
        assert_ne!(met.get("m.room.power_levels", ""), Some(levels), "version {version}");
    }
}

#[test]
fn a_demotion_beats_what_the_demoted_does() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB]);
        let base = story.base;
        let before = story.topic(ALICE, "before", base);
        let topic = story.topic(BOB, "by Bob", before);
        let demotion = story.levels(ALICE, &json!({}), before);
        let met = story.meet(&[topic, demotion]);
        assert_eq!(met.get("m.room.power_levels", ""), Some(demotion), "version {version}");
        assert_eq!(met.get("m.room.topic", ""), Some(before), "version {version}");
    }
}

#[test]
fn a_ban_beats_a_topic_of_the_banned() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB]);
        let base = story.base;
        let topic = story.topic(BOB, "by Bob", base);
        let ban = story.member(ALICE, BOB, "ban", base);
        let met = story.meet(&[topic, ban]);
        assert_eq!((met.get("m.room.topic", ""), met.member(BOB)), (None, Some(ban)), "version {version}");
    }
}

#[test]
fn joining_does_not_evade_a_room_that_closes() {
    for version in VERSIONS {
        let mut story = Story::new(version).joined(&[BOB]);
        let base = story.base;
        let closed = story.rule(ALICE, "invite", base);
        let join = story.member(EVE, EVE, "join", base);
        let met = story.meet(&[closed, join]);
        assert_eq!((met.get("m.room.join_rules", ""), met.member(EVE)), (Some(closed), None), "{version}");
    }
}

#[test]
fn power_levels_of_the_more_powerful_win() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let bobs = story.levels(BOB, &json!({BOB: 50, CHARLIE: 50}), base);
        // Alice's comes later by the clock and is still applied first.
        let alices = story.levels(ALICE, &json!({}), base);
        assert_eq!(story.meet(&[bobs, alices]).get("m.room.power_levels", ""), Some(alices), "{version}");
    }
}

#[test]
fn of_equals_the_later_wins_and_then_the_greater_id() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 100})).joined(&[BOB]);
        let base = story.base;
        let topic = |text: &str| json!({"topic": text});
        let late = story.say_at(90, ALICE, "m.room.topic", "", topic("late"), base);
        let early = story.say_at(80, BOB, "m.room.topic", "", topic("early"), base);
        assert_eq!(story.meet(&[late, early]).get("m.room.topic", ""), Some(late), "{version}");
        let again = story.say_at(90, BOB, "m.room.topic", "", topic("same time"), base);
        let id = |number: u32| story.room.event(number).pdu.event_id.clone();
        let greater = if id(late) > id(again) { late } else { again };
        assert_eq!(story.meet(&[late, again]).get("m.room.topic", ""), Some(greater), "{version}");
    }
}

/// The mainline goes before the clock: what was said under newer power levels is applied later.
#[test]
fn topics_follow_the_mainline() {
    for version in VERSIONS {
        let mut story = Story::new(version).joined(&[BOB]);
        let base = story.base;
        let old = story.say_at(99, ALICE, "m.room.topic", "", json!({"topic": "old"}), base);
        let levels = story.levels(ALICE, &json!({BOB: 50}), base);
        let new = story.say_at(5, BOB, "m.room.topic", "", json!({"topic": "new"}), levels);
        let met = story.meet(&[old, new]);
        assert_eq!(met.get("m.room.topic", ""), Some(new), "version {version}");
        assert_eq!(met.get("m.room.power_levels", ""), Some(levels), "version {version}");
    }
}

/// Power levels of a branch that nobody looks at any more do not come back.
#[test]
fn a_chain_of_power_levels_beats_a_lonely_one() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let lonely = story.levels(BOB, &json!({BOB: 50, CHARLIE: 50}), base);
        let first = story.levels(ALICE, &json!({BOB: 50, CHARLIE: 25}), base);
        let second = story.levels(ALICE, &json!({CHARLIE: 25}), first);
        let met = story.meet(&[lonely, second]);
        assert_eq!(met.get("m.room.power_levels", ""), Some(second), "version {version}");
    }
}

#[test]
fn joins_at_the_same_time_all_count() {
    for version in VERSIONS {
        let mut story = Story::new(version).joined(&[BOB]);
        let base = story.base;
        let joins = [CHARLIE, EVE, ZARA].map(|user| story.member(user, user, "join", base));
        let met = story.meet(&joins);
        assert_eq!([CHARLIE, EVE, ZARA].map(|user| met.member(user)), joins.map(Some), "{version}");
    }
}

/// MSC4297, problem A: the state that Bob's and Charlie's servers have of a room that Alice closed
/// and left. Nobody is there who could set join rules again: v2 loses them, v2.1 keeps them.
#[test]
fn cve_2025_49090_join_rules_are_not_lost() {
    for (version, keeps) in [("11", false), ("12", true)] {
        let mut story = Story::new(version).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let (create, open) = (0, story.state(base)[&("m.room.join_rules".to_owned(), String::new())]);
        let levels = story.state(base)[&("m.room.power_levels".to_owned(), String::new())];
        let (bob, charlie) = (base - 1, base);
        let closed = story.rule(ALICE, "invite", base);
        let left = story.member(ALICE, ALICE, "leave", closed);
        let bob_again = story.member(BOB, BOB, "join", left);
        let charlie_again = story.member(CHARLIE, CHARLIE, "join", left);
        let bobs = story.state_of(&[create, levels, charlie, closed, left, bob_again]);
        let charlies = story.state_of(&[create, levels, open, bob, left, charlie_again]);
        let met = story.resolve(&[bobs, charlies]);
        assert_eq!(met.get("m.room.join_rules", ""), keeps.then_some(closed), "version {version}");
        assert_eq!(met.member(ALICE), Some(left), "version {version}");
        assert_eq!(met.member(BOB), Some(bob_again), "version {version}");
        assert_eq!(met.member(CHARLIE), Some(charlie_again), "version {version}");
    }
}

/// MSC4297, problem B: Eve's server still has the first power levels, Zara's the third. The second
/// lies between them: v2 does not look at it and falls back to the first, v2.1 does not.
#[test]
fn cve_2025_49090_power_levels_do_not_fall_back() {
    for (version, keeps) in [("11", false), ("12", true)] {
        let mut story = Story::new(version).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let common = story.state(base);
        let first = common[&("m.room.power_levels".to_owned(), String::new())];
        let second = story.levels(ALICE, &json!({BOB: 50}), base);
        let third = story.levels(BOB, &json!({BOB: 50, CHARLIE: 50}), second);
        let zara = story.member(ZARA, ZARA, "join", third);
        let eve = story.member(EVE, EVE, "join", third);
        let eve_again = story.member(EVE, EVE, "join", eve);
        let mut eves = (*common).clone();
        eves.insert(("m.room.member".to_owned(), EVE.to_owned()), eve_again);
        let zaras = story.state(zara);
        let met = story.resolve(&[Arc::new(eves), zaras]);
        let expected = if keeps { third } else { first };
        assert_eq!(met.get("m.room.power_levels", ""), Some(expected), "version {version}");
        assert_eq!((met.member(EVE), met.member(ZARA)), (Some(eve_again), Some(zara)), "version {version}");
    }
}

/// A removed administrator's old fork, however late it arrives and however it is mixed with the
/// others, brings nothing of theirs back.
#[test]
fn cve_2025_49090_a_removed_administrator_stays_removed() {
    for version in ["11", "12"] {
        let mut story = Story::with_levels(version, &json!({EVE: 90})).joined(&[BOB, EVE]);
        let base = story.base;
        let demotion = story.levels(ALICE, &json!({}), base);
        let ban = story.member(ALICE, EVE, "ban", demotion);
        let after = story.topic(ALICE, "after", ban);
        // What Eve's server says that she did meanwhile.
        let levels = story.levels(EVE, &json!({EVE: 90, ZARA: 90}), base);
        let zara = story.member(ZARA, ZARA, "join", levels);
        let rules = story.rule(ZARA, "invite", zara);
        let kick = story.member(EVE, BOB, "ban", rules);
        let met = story.meet(&[after, zara, rules, kick]);
        assert_eq!(met.member(EVE), Some(ban), "version {version}");
        assert_eq!(met.get("m.room.power_levels", ""), Some(demotion), "version {version}");
        assert_ne!(met.get("m.room.join_rules", ""), Some(rules), "version {version}");
        assert_ne!(met.member(BOB), Some(kick), "version {version}");
        assert_eq!(met.get("m.room.topic", ""), Some(after), "version {version}");
    }
}

/// Lesson of CVE-2022-39374 and its like: what the rules refused authorises nothing, also where a
/// state and an event's own `auth_events` name it.
#[test]
fn cve_2022_39374_a_rejected_event_authorises_nothing() {
    for version in VERSIONS {
        let mut story = Story::new(version).joined(&[BOB]);
        let base = story.base;
        let mut new = New {
            id: "$grab".to_owned(),
            sender: BOB,
            kind: "m.room.power_levels".to_owned(),
            state_key: Some(String::new()),
            content: json!({"users": {BOB: 100}}),
            ts: 50,
            prev: vec![base],
            auth: None,
            forced: true,
        };
        let grab = story.room.add(&new);
        assert!(story.room.event(grab).pdu.rejected);
        let state = story.state(grab);
        (new.id, new.kind) = ("$topic".to_owned(), "m.room.topic".to_owned());
        (new.content, new.prev) = (json!({"topic": "mine"}), vec![grab]);
        let topic = story.room.add(&new);
        assert!(story.room.event(topic).pdu.rejected && story.room.event(topic).auth.contains(&grab));
        let met = story.resolve(&[story.state(base), state, story.state(topic)]);
        assert_eq!(met.get("m.room.topic", ""), None, "version {version}");
        assert_ne!(met.get("m.room.power_levels", ""), Some(grab), "version {version}");
    }
}

/// The power levels that only a branch's chain has, and a topic that no conflict touches: whether
/// they count as disputed depends on who else rests on them, which only the topic's chain shows.
#[test]
fn what_unconflicted_state_rests_on_is_not_disputed() {
    for version in VERSIONS {
        let mut story = Story::with_levels(version, &json!({BOB: 50})).joined(&[BOB, CHARLIE]);
        let base = story.base;
        let first = story.levels(ALICE, &json!({BOB: 50, CHARLIE: 50}), base);
        let second = story.levels(ALICE, &json!({BOB: 50}), first);
        let topic = story.topic(CHARLIE, "while I could", first);
        let name = story.say(BOB, "m.room.name", "", json!({"name": "n"}), second);
        let [mut left, mut right] = [name, base].map(|end| (*story.state(end)).clone());
        for state in [&mut left, &mut right] {
            state.insert(("m.room.topic".to_owned(), String::new()), topic);
        }
        let met = story.resolve(&[Arc::new(left), Arc::new(right)]);
        assert_eq!(met.get("m.room.topic", ""), Some(topic), "version {version}");
        assert_eq!(met.get("m.room.power_levels", ""), Some(second), "version {version}");
    }
}
