//! What the library hands over, reduced to what is compared.

use matrix_sdk::{
    deserialized_responses::TimelineEvent,
    ruma::{
        OwnedEventId, OwnedUserId, UserId,
        events::{
            AnySyncEphemeralRoomEvent, AnySyncMessageLikeEvent, AnySyncTimelineEvent, SyncMessageLikeEvent,
            receipt::ReceiptType,
        },
        serde::Raw,
    },
};

/// The texts of the messages among events.
pub(crate) fn texts(events: &[TimelineEvent]) -> Vec<String> {
    let text = |event: &TimelineEvent| match event.raw().deserialize().ok()? {
        AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(
            SyncMessageLikeEvent::Original(message),
        )) => Some(message.content.body().to_owned()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

/// The type of an event.
pub(crate) fn kind(event: &TimelineEvent) -> Option<String> {
    event.raw().get_field("type").ok().flatten()
}

/// Whether a notice says that exactly these people type.
pub(crate) fn tells_typists(ephemeral: &[Raw<AnySyncEphemeralRoomEvent>], typists: &[OwnedUserId]) -> bool {
    ephemeral.iter().filter_map(|event| event.deserialize().ok()).any(
        |event| matches!(event, AnySyncEphemeralRoomEvent::Typing(typing) if typing.content.user_ids == typists),
    )
}

/// Whether a public receipt of `user` for `event` is among what a sync brought.
pub(crate) fn tells_receipt(
    ephemeral: &[Raw<AnySyncEphemeralRoomEvent>],
    user: &UserId,
    event: &OwnedEventId,
) -> bool {
    ephemeral.iter().filter_map(|event| event.deserialize().ok()).any(|ephemeral| match ephemeral {
        AnySyncEphemeralRoomEvent::Receipt(receipts) => receipts
            .content
            .get(event)
            .and_then(|kinds| kinds.get(&ReceiptType::Read))
            .is_some_and(|users| users.contains_key(user)),
        _ => false,
    })
}
