//! Rooms made up at random: forks, fights for power, bans, evasions, and lies about what authorises.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{New, Room, State};

/// A source of chance that is the same for the same seed (splitmix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// How a room is made up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) version: &'static str,
    pub(super) size: usize,
    pub(super) seed: u64,
    /// Whether nobody keeps to any rule: events name what they like and are state regardless.
    pub(super) wild: bool,
}

const USERS: [&str; 7] = ["@a:x", "@b:x", "@c:y", "@d:y", "@e:z", "@f:z", "@g:z"];
const LEVELS: [i64; 6] = [0, 0, 25, 50, 75, 100];

struct Maker {
    room: Room,
    dice: Dice,
    wild: bool,
    /// Events that nothing follows yet.
    ends: Vec<u32>,
}

/// Makes a room up, and on the way sees that every merge of forks agrees with ruma's. The numbers
/// of the last events of its forks come with it.
pub(super) fn make(plan: Plan) -> (Room, Vec<u32>) {
    let mut room = Room::new(plan.version);
    let create = room.create(USERS[0]);
    let mut maker = Maker { room, dice: Dice(plan.seed), wild: plan.wild, ends: vec![create] };
    maker.begin();
    while maker.room.events.len() < plan.size {
        maker.next_event();
    }
    (maker.room, maker.ends)
}

/// Sees that our resolution of these states is ruma's, however they and their events are ordered
/// and numbered, and however little is remembered.
pub(super) fn agree(room: &Room, states: &[Arc<State>], dice: &mut Dice) -> Option<State> {
    let mut states: Vec<&State> = states.iter().map(|state| &**state).collect();
    let theirs = room.resolve_by_ruma(&states);
    dice.shuffle(&mut states);
    let mut names: Vec<u32> = (0..u32::try_from(room.events.len()).unwrap()).collect();
    if dice.percent(50) {
        dice.shuffle(&mut names);
    }
    let ours = room.resolve_renamed(&states, &names, dice.pick(&[0, 5_000, 1 << 20]));
    if let Some(theirs) = &theirs {
        assert_eq!(&ours, theirs, "states {states:?}");
    }
    theirs
}

impl Maker {
    /// What every room begins with: its creator, power levels, join rules.
    fn begin(&mut self) {
        let users = if self.room.has_create_in_auth_events() { json!({"@a:x": 100}) } else { json!({}) };
        for (kind, key, content) in [
            ("m.room.member", "@a:x", json!({"membership": "join"})),
            ("m.room.power_levels", "", json!({"users": users})),
            ("m.room.join_rules", "", json!({"join_rule": "public"})),
        ] {
            let new = New {
                id: format!("${:016x}", self.dice.next()),
                sender: "@a:x",
                kind: kind.to_owned(),
                state_key: Some(key.to_owned()),
                content,
                ts: 1,
                prev: self.ends.clone(),
                auth: None,
                forced: false,
            };
            self.ends = vec![self.room.add(&new)];
        }
    }

    fn next_event(&mut self) {
        let prev = self.choose_prev();
        let states: Vec<Arc<State>> =
            prev.iter().map(|number| self.room.event(*number).after.clone()).collect();
        let before = match &states[..] {
            [only] => only.clone(),
            _ => agree(&self.room, &states, &mut self.dice).map_or_else(|| states[0].clone(), Arc::new),
        };
        let mut new = self.choose_event(&before, prev);
        self.choose_auth(&mut new);
        let number = self.room.add_after(&new, &before);
        let rejected = self.room.event(number).pdu.rejected;
        // A server that refuses an event builds on what it had.
        if !rejected || self.wild || self.dice.percent(5) {
            self.ends.retain(|end| !new.prev.contains(end));
            self.ends.push(number);
        }
    }

    /// Mostly goes on from an end, sometimes joins several, sometimes forks.
    fn choose_prev(&mut self) -> Vec<u32> {
        let mut ends = self.ends.clone();
        self.dice.shuffle(&mut ends);
        let chance = self.dice.below(100);
        if ends.len() > 5 || (chance < 12 && ends.len() > 1) {
            let count = 2 + self.dice.below(3);
            ends.truncate(count);
            return ends;
        }
        if chance < 28 && self.room.events.len() > 5 {
            // A fork from an event of the last few dozen.
            let back = 1 + self.dice.below(self.room.events.len().min(40) - 4);
            let number = u32::try_from(self.room.events.len() - back).unwrap();
            if !self.room.event(number).pdu.rejected {
                return vec![number];
            }
        }
        ends.truncate(1);
        ends
    }

    fn choose_event(&mut self, before: &State, prev: Vec<u32>) -> New {
        let joined: Vec<&'static str> =
            USERS.into_iter().filter(|user| self.membership(before, user) == "join").collect();
        let sender = if joined.is_empty() || self.dice.percent(20) {
            self.dice.pick(&USERS)
        } else {
            self.dice.pick(&joined)
        };
        let target = self.dice.pick(&USERS);
        let member = |membership: &str| json!({"membership": membership});
        let (kind, key, content) = match self.dice.below(100) {
            0..22 => ("m.room.member", Some(sender), self.join(before)),
            22..28 => ("m.room.member", Some(sender), member("leave")),
            28..35 => ("m.room.member", Some(target), member("invite")),
            35..42 => ("m.room.member", Some(target), member("leave")),
            42..48 => ("m.room.member", Some(target), member("ban")),
            48..50 => ("m.room.member", Some(sender), member("knock")),
            50..64 => ("m.room.power_levels", Some(""), self.power_levels(before)),
            64..72 => ("m.room.join_rules", Some(""), self.join_rules()),
            72..82 => ("m.room.topic", Some(""), json!({"topic": self.dice.below(9)})),
            82..86 => ("m.room.name", Some(""), json!({"name": "n"})),
            86..90 => ("custom", Some(target), json!({})),
            90..94 => ("custom", Some(self.dice.pick(&["", "k", "l"])), json!({"odd": [1, null]})),
            _ => ("m.room.message", None, json!({"body": "b"})),
        };
        let drift = self.room.events.len() / 4 + self.dice.below(12);
        New {
            id: format!("${:016x}", self.dice.next()),
            sender,
            kind: kind.to_owned(),
            state_key: key.map(str::to_owned),
            content,
            ts: u64::try_from(drift).unwrap(),
            prev,
            auth: None,
            forced: self.wild,
        }
    }

    /// Mostly names what it should; else what it should have named at another place in the room,
    /// or, in a wild room, anything.
    fn choose_auth(&mut self, new: &mut New) {
        if self.wild && self.dice.percent(40) {
            let mut auth: Vec<u32> = (0..self.dice.below(5))
                .map(|_| u32::try_from(self.dice.below(self.room.events.len())).unwrap())
                .filter(|number| *number != 0 && self.room.event(*number).pdu.is_state())
                .collect();
            if self.room.has_create_in_auth_events() {
                auth.insert(0, 0);
            }
            auth.dedup();
            new.auth = Some(auth);
        } else if self.dice.percent(8) {
            let number = u32::try_from(self.dice.below(self.room.events.len())).unwrap();
            let elsewhere = self.room.event(number).after.clone();
            new.auth = Some(self.room.auth_events(new, &elsewhere));
        }
    }

    fn membership(&self, state: &State, user: &str) -> String {
        let number = state.get(&("m.room.member".to_owned(), user.to_owned()));
        let event = number.map(|number| &self.room.event(*number).pdu);
        event.and_then(|event| event.membership()).map_or_else(String::new, |it| it.to_string())
    }

    fn join(&mut self, before: &State) -> Value {
        let mut content = json!({"membership": "join", "displayname": self.dice.below(3)});
        if self.dice.percent(20) {
            let joined: Vec<&str> =
                USERS.into_iter().filter(|user| self.membership(before, user) == "join").collect();
            if let Some(user) = joined.first() {
                content["join_authorised_via_users_server"] = json!(user);
            }
        }
        content
    }

    fn join_rules(&mut self) -> Value {
        let rule = self.dice.pick(&["public", "public", "invite", "restricted", "knock"]);
        json!({"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": "!other:x"}]})
    }

    /// The current power levels with a change or two; in a wild room sometimes nonsense.
    fn power_levels(&mut self, before: &State) -> Value {
        let current = before.get(&("m.room.power_levels".to_owned(), String::new()));
        let content = current.map(|number| self.room.event(*number).pdu.content.get().to_owned());
        let mut content: Value =
            content.map_or_else(|| json!({"users": {}}), |text| serde_json::from_str(&text).unwrap());
        for _ in 0..=self.dice.below(2) {
            let level = json!(self.dice.pick(&LEVELS));
            match self.dice.below(10) {
                0 => content["state_default"] = level,
                1 => content["ban"] = level,
                2 => content["users_default"] = json!(self.dice.pick(&[0, 0, 50])),
                3 => content["events"] = json!({"m.room.topic": level}),
                4 if self.wild => content["users"] = json!("nonsense"),
                _ => {
                    let user = self.dice.pick(&USERS[1..]);
                    if let Some(users) = content["users"].as_object_mut() {
                        users.insert(user.to_owned(), level);
                    }
                }
            }
        }
        content
    }
}
