//! A filter, compiled for one sync.

use allod_matrix::filter::{EventFilter, FieldSelection, RoomSelection};
use ruma::api::client::filter::{EventFormat, FilterDefinition, LazyLoadOptions};

use crate::sync::room_delta::LazyMembers;

/// Events in a timeline if the client does not say.
const TIMELINE_LIMIT: usize = 10;

/// What a client wants to see.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent options of the specification")]
pub(super) struct SyncFilter {
    pub(super) rooms: RoomSelection,
    pub(super) all_rooms: bool,
    pub(super) include_leave: bool,
    pub(super) timeline: EventFilter,
    pub(super) timeline_limit: usize,
    pub(super) state: EventFilter,
    pub(super) lazy: Option<LazyMembers>,
    pub(super) ephemeral: EventFilter,
    pub(super) room_account_data: EventFilter,
    pub(super) account_data: EventFilter,
    pub(super) presence: EventFilter,
    pub(super) unread_threads: bool,
    /// `None` for all fields.
    pub(super) fields: Option<FieldSelection>,
    pub(super) federation_format: bool,
}

impl SyncFilter {
    /// Compiles a filter; timelines have at most `timeline_limit_max` events.
    pub(super) fn new(definition: &FilterDefinition, timeline_limit_max: usize) -> Self {
        let room = &definition.room;
        let timeline = EventFilter::from(&room.timeline);
        Self {
            rooms: RoomSelection::of_room_filter(room),
            all_rooms: room.rooms.is_none() && room.not_rooms.is_empty(),
            include_leave: room.include_leave,
            timeline_limit: timeline.limit(TIMELINE_LIMIT, timeline_limit_max),
            timeline,
            state: EventFilter::from(&room.state),
            lazy: match room.state.lazy_load_options {
                LazyLoadOptions::Enabled { include_redundant_members } => {
                    Some(LazyMembers { redundant: include_redundant_members, listener: None })
                }
                LazyLoadOptions::Disabled => None,
            },
            ephemeral: EventFilter::from(&room.ephemeral),
            room_account_data: EventFilter::from(&room.account_data),
            account_data: EventFilter::from(&definition.account_data),
            presence: EventFilter::from(&definition.presence),
            unread_threads: room.timeline.unread_thread_notifications,
            fields: definition.event_fields.as_deref().map(FieldSelection::new),
            federation_format: definition.event_format == EventFormat::Federation,
        }
    }
}
