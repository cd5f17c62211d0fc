//! Lists of what a user was notified of, newest first, over all rooms that they are in.
//!
//! Nothing is stored for them: each room's rows say whom its events notify, and the rooms are gone through in the order of
//! their last events, so that the cost follows the page and not the number of rooms.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#listing-notifications>

use std::{collections::BinaryHeap, sync::Arc};

use allod_storage::Position;
use ruma::{OwnedRoomId, push::Action};

use crate::{
    database::{Database, Error, Range},
    numbers::{RoomNumber, UserNumber},
    rooms::{Rooms, send::Caller},
    sync::Sync,
    tables::notified::{Notified, NotifiedKind, NotifiedRecord},
};

/// Most notifications of a page.
pub const PAGE_MAX: usize = 100;
/// Rows of a room read at once.
const ROOM_ROWS: usize = 50;
/// Rows examined for a page; what notified others counts too.
const EXAMINED_MAX: usize = 20_000;

/// One notification.
#[derive(Clone, Debug)]
pub struct Notification {
    /// What the user's rules do for the event.
    pub actions: Vec<Action>,
    /// The event in client format, without its room.
    pub event: Vec<u8>,
    /// Whether the user has read it.
    pub read: bool,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// When it was sent, in milliseconds since the epoch.
    pub ts: u64,
}

/// A page of notifications.
#[derive(Clone, Debug, Default)]
pub struct NotificationPage {
    /// Newest first.
    pub notifications: Vec<Notification>,
    /// Names where the next page begins; none at the end.
    pub next: Option<u64>,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Notifications {
    database: Database,
    rooms: Rooms,
    sync: Sync,
}

/// Something of a room that is not older than what follows it in the room.
#[derive(Debug)]
enum Step {
    /// Rows before this position are to be read.
    Read,
    /// A row that notifies the user.
    Row(Box<NotifiedRecord>),
}

/// A step with its place; the newest is the greatest.
#[derive(Debug)]
struct Placed {
    at: Position,
    room: RoomNumber,
    step: Step,
}

impl PartialEq for Placed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Placed {}
impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Placed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.room).cmp(&(other.at, other.room))
    }
}

impl Notifications {
    /// Over the rooms, and what is known of who has read them.
    pub fn new(database: Database, rooms: Rooms, sync: Sync) -> Self {
        Self { database, rooms, sync }
    }

    /// A page of what a user was notified of, from where the page before ended; with `highlights`, only where the event stood out.
    pub async fn page(
        &self,
        caller: &Caller,
        from: Option<u64>,
        limit: usize,
        highlights: bool,
    ) -> Result<NotificationPage, Error> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut steps = self.first_steps(caller.user, from.map(Position::new)).await?;
        let mut page = NotificationPage::default();
        let mut examined = 0_usize;
        while let Some(Placed { at, room, step }) = steps.pop() {
            match step {
                Step::Read if examined >= EXAMINED_MAX => {
                    page.next = Some(at.get());
                    return Ok(page);
                }
                Step::Read => {
                    let found = self.read(caller.user, room, at, highlights, &mut examined).await?;
                    steps.extend(found);
                }
                Step::Row(record) => {
                    if let Some(notification) = self.notification(caller, room, at, &record).await? {
                        page.notifications.push(notification);
                    }
                    if page.notifications.len() >= limit {
                        page.next = (!steps.is_empty()).then_some(at.get());
                        return Ok(page);
                    }
                }
            }
        }
        Ok(page)
    }

    /// Each room, to be read from its last event or from where the page before ended.
    async fn first_steps(
        &self,
        user: UserNumber,
        before: Option<Position>,
    ) -> Result<BinaryHeap<Placed>, Error> {
        let (head, rooms) = self.sync.memberships().at_head(self.database.store(), user).await?;
        let newest = before.unwrap_or(head.next());
        let activity = self.sync.activity();
        let steps = rooms.joined.iter().map(|room| {
            let room = RoomNumber(room);
            let last = activity.last_event(room).map_or(newest, Position::next);
            Placed { at: newest.min(last), room, step: Step::Read }
        });
        Ok(steps.collect())
    }

    /// The newest rows of a room before a position that notify the user, and where to read on.
    async fn read(
        &self,
        user: UserNumber,
        room: RoomNumber,
        before: Position,
        highlights: bool,
        examined: &mut usize,
    ) -> Result<Vec<Placed>, Error> {
        let range = Range::<Notified>::between(&room, &(room, before)).reversed().limit(ROOM_ROWS);
        let page = self.database.scan(&range).await?;
        *examined = examined.saturating_add(page.rows.len());
        let mut found = Vec::new();
        let mut more = page.more;
        let mut last = before;
        for ((_, at), record) in page.rows {
            last = at;
            if record.kind == NotifiedKind::Join && record.sender == user {
                more = false;
                break;
            }
            let wanted = if highlights { &record.highlighted } else { &record.notified };
            if record.sender != user && wanted.contains(user) {
                found.push(Placed { at, room, step: Step::Row(Box::new(record)) });
            }
        }
        if more {
            found.push(Placed { at: last, room, step: Step::Read });
        }
        Ok(found)
    }

    async fn notification(
        &self,
        caller: &Caller,
        room: RoomNumber,
        at: Position,
        record: &NotifiedRecord,
    ) -> Result<Option<Notification>, Error> {
        let Some(event) = self.rooms.events().get(room, record.event).await? else { return Ok(None) };
        let known = self.rooms.get(room).await?;
        let view = self.rooms.view_of(Arc::clone(&known), caller).await?;
        if !self.rooms.was_member_at(&view, &event).await? {
            return Ok(None);
        }
        let read = self.sync.read_marks(room, caller.user).await?.covers(record.thread, at);
        let actions = self.rooms.push_actions(&known, &event, caller).await?;
        let rendered = self.rooms.render(&view, std::slice::from_ref(&event), false).await?.pop();
        Ok(rendered.map(|rendered| Notification {
            actions,
            event: rendered,
            read,
            room_id: known.room_id.clone(),
            ts: event.record.origin_server_ts,
        }))
    }
}
