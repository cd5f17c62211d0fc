//! Tests of presence.

use ruma::user_id;

use super::*;

const ALICE: UserNumber = UserNumber(1);

struct World {
    presence: Presence,
    clock: Clock,
    sequence: Sequence,
}

fn world() -> World {
    let (clock, sequence) = (Clock::manual(1_000_000), Sequence::new());
    World { presence: Presence::new(clock.clone(), Wakes::new(), sequence.clone()), clock, sequence }
}

impl World {
    fn sync(&self, set: &PresenceState) -> Syncing {
        self.presence.syncing(ALICE, user_id!("@alice:a"), Arc::default(), set)
    }

    fn state(&self) -> PresenceState {
        self.presence.get(ALICE).presence
    }

    fn pass(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.presence.expire();
    }
}

#[test]
fn a_sync_brings_a_user_online_and_its_end_offline() {
    let world = world();
    assert_eq!(world.state(), PresenceState::Offline);
    let sync = world.sync(&PresenceState::Online);
    assert_eq!(world.state(), PresenceState::Online);
    world.pass(OFFLINE_AFTER_MS);
    assert_eq!(world.state(), PresenceState::Online);
    drop(sync);
    world.pass(OFFLINE_AFTER_MS - 1);
    assert_eq!(world.state(), PresenceState::Online);
    world.pass(1);
    assert_eq!(world.state(), PresenceState::Offline);
}

#[test]
fn a_sync_that_does_not_set_presence_has_no_effect() {
    let world = world();
    let _sync = world.sync(&PresenceState::Offline);
    assert_eq!(world.state(), PresenceState::Offline);
    assert_eq!(world.sequence.last(), 0);
}

#[test]
fn idle_users_become_unavailable_until_they_do_something() {
    let world = world();
    let _sync = world.sync(&PresenceState::Online);
    world.pass(UNAVAILABLE_AFTER_MS);
    assert_eq!(world.state(), PresenceState::Unavailable);
    let _again = world.sync(&PresenceState::Online);
    assert_eq!(world.state(), PresenceState::Unavailable);
    world.presence.active(ALICE, user_id!("@alice:a"));
    assert_eq!(world.state(), PresenceState::Online);
}

#[test]
fn activity_is_told_once_and_damped() {
    let world = world();
    let _sync = world.sync(&PresenceState::Online);
    let seen = world.sequence.last();
    world.pass(10_000);
    world.presence.active(ALICE, user_id!("@alice:a"));
    assert!(world.presence.changes(seen).is_empty());
    world.pass(ACTIVE_FOR_MS);
    let changes = world.presence.changes(seen);
    let [(_, _, content)] = changes.as_slice() else { panic!("one change, not {changes:?}") };
    assert_eq!(content.currently_active, Some(false));
    assert_eq!(content.last_active_ago, Some(UInt::from(60_000_u32)));
}

#[test]
fn a_status_message_is_shown_and_a_long_one_refused() {
    let world = world();
    let set = |status: String| {
        world.presence.set(
            ALICE,
            user_id!("@alice:a"),
            Arc::default(),
            PresenceState::Unavailable,
            Some(status),
        )
    };
    set("away".to_owned()).unwrap();
    assert_eq!(world.presence.get(ALICE).status_msg.as_deref(), Some("away"));
    assert_eq!(world.state(), PresenceState::Unavailable);
    set("x".repeat(STATUS_BYTES_MAX + 1)).unwrap_err();
}

#[test]
fn switched_off_everybody_is_offline() {
    let world = world();
    let _sync = world.sync(&PresenceState::Online);
    world.presence.set_enabled(false);
    assert_eq!(world.state(), PresenceState::Offline);
    assert!(world.presence.changes(0).is_empty());
}
