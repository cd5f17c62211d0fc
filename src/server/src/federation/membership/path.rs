//! Paths of the requests, their parts percent-encoded.

use ruma::{EventId, RoomId, RoomVersionId, UserId};

use crate::percent::encoded;

const BASE: &str = "/_matrix/federation";

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`, or another such endpoint.
pub(super) fn make(endpoint: &str, room_id: &RoomId, user_id: &UserId, versions: &[RoomVersionId]) -> String {
    let mut path =
        format!("{BASE}/v1/{endpoint}/{}/{}", encoded(room_id.as_str()), encoded(user_id.as_str()));
    for (index, version) in versions.iter().enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str("ver=");
        path.push_str(&encoded(version.as_str()));
    }
    path
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`, or another such endpoint.
pub(super) fn send(endpoint: &str, version: u8, room_id: &RoomId, event_id: &EventId) -> String {
    format!("{BASE}/v{version}/{endpoint}/{}/{}", encoded(room_id.as_str()), encoded(event_id.as_str()))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`, or the like of it.
pub(super) fn state(endpoint: &str, room_id: &RoomId, event_id: &EventId) -> String {
    format!("{BASE}/v1/{endpoint}/{}?event_id={}", encoded(room_id.as_str()), encoded(event_id.as_str()))
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub(super) fn exchange(room_id: &RoomId) -> String {
    format!("{BASE}/v1/exchange_third_party_invite/{}", encoded(room_id.as_str()))
}

/// `GET /_matrix/federation/v1/event/{eventId}`
pub(super) fn event(event_id: &EventId) -> String {
    format!("{BASE}/v1/event/{}", encoded(event_id.as_str()))
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};

    use super::*;

    #[test]
    fn parts_are_encoded() {
        let versions = [RoomVersionId::V10, RoomVersionId::V11];
        assert_eq!(
            make("make_join", room_id!("!a/b:c.example"), user_id!("@d+e:f.example"), &versions),
            "/_matrix/federation/v1/make_join/%21a%2Fb%3Ac.example/%40d%2Be%3Af.example?ver=10&ver=11"
        );
        assert_eq!(
            send("send_join", 2, room_id!("!a:b"), event_id!("$x/+y")),
            "/_matrix/federation/v2/send_join/%21a%3Ab/%24x%2F%2By"
        );
        assert_eq!(
            state("state_ids", room_id!("!a:b"), event_id!("$x/+y")),
            "/_matrix/federation/v1/state_ids/%21a%3Ab?event_id=%24x%2F%2By"
        );
        assert_eq!(event(event_id!("$x")), "/_matrix/federation/v1/event/%24x");
    }
}
