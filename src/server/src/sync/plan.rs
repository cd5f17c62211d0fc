//! Which rooms a sync shows, and in which section: from the user's rooms and what changed of them. No I/O.

use std::collections::BTreeMap;

use allod_storage::Position;
use roaring::RoaringBitmap;

use super::memberships::{UserRoomEntry, UserRooms};
use crate::{
    numbers::RoomNumber,
    tables::rooms::{Membership, MembershipChange},
};

/// A room that the user has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JoinedRoom {
    /// The room.
    pub(super) room: RoomNumber,
    /// From where on it is shown; `None` for all of it, as on a first sync: the user has joined since.
    pub(super) since: Option<Position>,
}

/// A room that the user was in, or was asked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeftRoom {
    /// How and when it was left.
    pub(super) entry: UserRoomEntry,
    /// What of it is shown.
    pub(super) shows: LeftView,
}

/// What is shown of a left room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftView {
    /// What happened from there on until it was left.
    Since(Position),
    /// All of it until it was left.
    All,
    /// Only that it was left: an invitation was rejected, or somebody was banned who was not in.
    Leave,
}

/// The rooms of a sync.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Joined rooms; whether they have something to show is another question.
    pub(super) joined: Vec<JoinedRoom>,
    /// New invitations.
    pub(super) invited: Vec<UserRoomEntry>,
    /// New knocks.
    pub(super) knocked: Vec<UserRoomEntry>,
    /// Rooms left since.
    pub(super) left: Vec<LeftRoom>,
    /// Rooms joined since, and not joined before.
    pub(super) newly_joined: RoaringBitmap,
    /// Rooms no longer joined that were.
    pub(super) newly_left: RoaringBitmap,
}

/// What happened to one membership since.
struct Story {
    first_before: Option<Membership>,
    joined_meanwhile: bool,
}

impl Story {
    /// What is shown of a room that is left now.
    fn view(&self, since: Position) -> LeftView {
        match self {
            Self { first_before: Some(Membership::Join), .. } => LeftView::Since(since),
            Self { joined_meanwhile: true, .. } => LeftView::All,
            Self { .. } => LeftView::Leave,
        }
    }
}

/// Plans a sync. `changes` are those of the user's memberships since `since`, in order.
pub(super) fn plan(
    rooms: &UserRooms,
    since: Option<Position>,
    changes: &[(Position, MembershipChange)],
    include_leave: bool,
) -> Plan {
    let mut plan = Plan::default();
    let mut stories: BTreeMap<RoomNumber, Story> = BTreeMap::new();
    for (_, change) in changes {
        let story = stories
            .entry(change.room)
            .or_insert(Story { first_before: change.before, joined_meanwhile: false });
        story.joined_meanwhile |= change.membership == Membership::Join;
    }
    for entry in &rooms.rooms {
        let story = stories.get(&entry.room);
        match (since, entry.membership) {
            (None, Membership::Join) => plan.joined.push(JoinedRoom { room: entry.room, since: None }),
            (Some(since), Membership::Join) => {
                // Who left and came back is shown the room anew: what happened in between is not a difference.
                let since = story.is_none().then_some(since);
                plan.joined.push(JoinedRoom { room: entry.room, since });
            }
            (None, Membership::Invite) => plan.invited.push(*entry),
            (None, Membership::Knock) => plan.knocked.push(*entry),
            (None, Membership::Leave | Membership::Ban) => {
                if include_leave && !entry.forgotten {
                    plan.left.push(LeftRoom { entry: *entry, shows: LeftView::All });
                }
            }
            (Some(_), Membership::Invite) => plan.invited.extend(story.map(|_| *entry)),
            (Some(_), Membership::Knock) => plan.knocked.extend(story.map(|_| *entry)),
            // Also if it is forgotten: else the user's other devices would never learn that it was left.
            (Some(since), Membership::Leave | Membership::Ban) => {
                plan.left.extend(story.map(|story| LeftRoom { entry: *entry, shows: story.view(since) }));
            }
        }
    }
    plan.note_coming_and_going(rooms, &stories);
    plan
}

impl Plan {
    fn note_coming_and_going(&mut self, rooms: &UserRooms, stories: &BTreeMap<RoomNumber, Story>) {
        for (room, story) in stories {
            let was_joined = story.first_before == Some(Membership::Join);
            match (was_joined, rooms.joined.contains(room.0)) {
                (false, true) => {
                    self.newly_joined.insert(room.0);
                }
                (true, false) => {
                    self.newly_left.insert(room.0);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Leaves out the rooms that are not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(RoomNumber) -> bool) {
        self.joined.retain(|joined| wanted(joined.room));
        self.invited.retain(|entry| wanted(entry.room));
        self.knocked.retain(|entry| wanted(entry.room));
        self.left.retain(|left| wanted(left.entry.room));
    }
}

#[cfg(test)]
mod tests {
    use Membership::{Ban, Invite, Join, Knock, Leave};

    use super::*;
    use crate::numbers::{EventNumber, UserNumber};

    const SINCE: Position = Position::new(10);

    fn entry(room: u32, membership: Membership) -> UserRoomEntry {
        let (event, sender) = (EventNumber(1), UserNumber(1));
        let position = Position::new(12);
        UserRoomEntry { room: RoomNumber(room), membership, event, sender, position, forgotten: false }
    }

    fn rooms(entries: &[(u32, Membership)]) -> UserRooms {
        UserRooms {
            rooms: entries.iter().map(|(room, membership)| entry(*room, *membership)).collect(),
            joined: std::sync::Arc::new(
                entries.iter().filter(|(_, it)| *it == Join).map(|(room, _)| *room).collect(),
            ),
            ..UserRooms::default()
        }
    }

    fn change(room: u32, before: Option<Membership>, membership: Membership) -> (Position, MembershipChange) {
        let (event, sender) = (EventNumber(1), UserNumber(1));
        (Position::new(11), MembershipChange { room: RoomNumber(room), membership, before, event, sender })
    }

    fn incremental(before: Option<Membership>, story: &[Membership]) -> Plan {
        let mut changes = Vec::new();
        let mut last = before;
        for membership in story {
            changes.push(change(1, last, *membership));
            last = Some(*membership);
        }
        plan(&rooms(&[(1, last.unwrap())]), Some(SINCE), &changes, false)
    }

    #[test]
    fn a_first_sync_shows_all_but_left_rooms() {
        let rooms = rooms(&[(1, Join), (2, Invite), (3, Knock), (4, Leave), (5, Ban)]);
        let first = plan(&rooms, None, &[], false);
        assert_eq!(first.joined, [JoinedRoom { room: RoomNumber(1), since: None }]);
        assert_eq!((first.invited.len(), first.knocked.len(), first.left.len()), (1, 1, 0));
        let with_left = plan(&rooms, None, &[], true);
        assert_eq!(with_left.left.len(), 2);
    }

    #[test]
    fn without_a_change_only_joined_rooms_may_be_shown() {
        let rooms = rooms(&[(1, Join), (2, Invite), (3, Knock), (4, Leave), (5, Ban)]);
        let next = plan(&rooms, Some(SINCE), &[], true);
        assert_eq!(next.joined, [JoinedRoom { room: RoomNumber(1), since: Some(SINCE) }]);
        assert_eq!(next, Plan { joined: next.joined.clone(), ..Plan::default() });
    }

    #[test]
    fn every_story_has_its_section() {
        let cases: [(Option<Membership>, &[Membership], Option<LeftView>); 8] = [
            (Some(Join), &[Leave], Some(LeftView::Since(SINCE))),
            (Some(Join), &[Leave, Ban], Some(LeftView::Since(SINCE))),
            (Some(Join), &[Leave, Join, Leave], Some(LeftView::Since(SINCE))),
            (None, &[Invite, Join, Leave], Some(LeftView::All)),
            (Some(Invite), &[Leave], Some(LeftView::Leave)),
            (None, &[Ban], Some(LeftView::Leave)),
            (Some(Ban), &[Leave], Some(LeftView::Leave)),
            (Some(Leave), &[Invite], None),
        ];
        for (before, story, expected) in cases {
            let plan = incremental(before, story);
            assert_eq!(plan.left.first().map(|left| left.shows), expected, "{before:?} {story:?}");
            assert_eq!(plan.newly_left.contains(1), before == Some(Join), "{before:?} {story:?}");
        }
        assert_eq!(incremental(Some(Leave), &[Invite]).invited.len(), 1);
        assert_eq!(incremental(None, &[Knock]).knocked.len(), 1);
    }

    #[test]
    fn who_joins_is_shown_the_room_whole() {
        for (before, story, newly) in [
            (Some(Invite), &[Join][..], true),
            (Some(Join), &[Leave, Invite, Join], false),
            (None, &[Join], true),
        ] {
            let plan = incremental(before, story);
            assert_eq!(plan.joined, [JoinedRoom { room: RoomNumber(1), since: None }]);
            assert_eq!(plan.newly_joined.contains(1), newly);
        }
    }
}
