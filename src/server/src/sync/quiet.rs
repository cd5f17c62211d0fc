//! Whether there is nothing to tell, found out in memory: most polls begin, and many end, without news.

use allod_storage::Position;

use super::{Inner, memberships::UserRooms, token::SyncToken};
use crate::rooms::send::Caller;

impl Inner {
    /// The token of an answer that would tell nothing, if it is certain that it would not; `rooms` are those of the user as
    /// they were when the poll began, or later. Presence counts only `with_presence`.
    pub(super) fn quiet(
        &self,
        caller: &Caller,
        known: SyncToken,
        rooms: &UserRooms,
        with_presence: bool,
    ) -> Option<SyncToken> {
        let sources = &self.sources;
        // Before what it counts is looked at.
        let ephemeral = sources.sequence.last();
        let position = self.activity.followed();
        let delivered = known.boot == self.boot && known.inbox == known.position;
        if !delivered || self.has_news(caller, known.position, rooms) || !self.inbox_is_empty(caller) {
            return None;
        }
        if known.ephemeral != ephemeral
            && (sources.typing.changed_in(&rooms.joined, known.ephemeral)
                || (with_presence && sources.presence.has_changes(known.ephemeral)))
        {
            return None;
        }
        Some(SyncToken { position, ephemeral, inbox: position, ..known })
    }

    /// Whether the log may have told of something that the user sees.
    fn has_news(&self, caller: &Caller, since: Position, rooms: &UserRooms) -> bool {
        let (activity, user) = (&self.activity, caller.user);
        activity.membership_changed(user, since)
            || activity.user_data_changed(user, since)
            || activity.device_list_changed(since)
            || activity.any_room_changed(&rooms.joined, since)
    }

    /// Whether nothing waits for the device, and nothing of what it has got is still kept.
    pub(super) fn inbox_is_empty(&self, caller: &Caller) -> bool {
        caller.device.is_none_or(|device| {
            let empty = self.empty_inboxes.get(&device);
            empty.is_some_and(|empty| !self.activity.inbox_changed(caller.user, empty))
        })
    }
}
