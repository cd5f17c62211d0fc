//! Everything that ordering and checking will look at, asked for in a few large batches.

use roaring::RoaringBitmap;
use ruma::{events::StateEventType, room_version_rules::AuthorizationRules};

use super::view::{StateKey, View, state_key};
use crate::{auth::auth_types, event::Pdu};

/// Whether all is at hand: the events of the full conflicted set, the events that they name in
/// `auth_events`, the create event, and the unconflicted state that the checks may fall back on.
pub(super) fn gather(
    full: &RoaringBitmap,
    create: u32,
    falls_back: Option<&AuthorizationRules>,
    view: &mut View<'_>,
) -> bool {
    let mut complete = view.event(create).is_some();
    for number in full {
        let (vertex, event) = (view.vertex(number), view.event(number));
        let Some(vertex) = vertex else {
            complete = false;
            continue;
        };
        for auth_event in &vertex.auth_events {
            complete &= view.event(*auth_event).is_some();
        }
        if let Some(key) = state_key(&vertex) {
            complete &= view.unconflicted(&key).is_some();
        }
        let Some(event) = event else {
            complete = false;
            continue;
        };
        if let Some(rules) = falls_back {
            for key in needed_state(&event, rules) {
                complete &= state_event_is_known(&key, view);
            }
        }
    }
    complete
}

/// The state that authorises an event; nothing if its content is so malformed that it cannot be.
fn needed_state(event: &Pdu, rules: &AuthorizationRules) -> Vec<StateKey> {
    let mut keys = auth_types(&event.kind, &event.sender, event.state_key.as_deref(), &event.content, rules)
        .unwrap_or_default();
    // Also where the mainline begins.
    keys.push((StateEventType::RoomPowerLevels, String::new()));
    keys
}

fn state_event_is_known(key: &StateKey, view: &mut View<'_>) -> bool {
    match view.unconflicted(key) {
        Some(Some(number)) => view.event(number).is_some(),
        Some(None) => true,
        None => false,
    }
}
