//! Simplified sliding sync (MSC4186, unstable).
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

use std::{collections::BTreeMap, time::Duration};

use allod_server::{
    rooms::send::Caller,
    sync::sliding::{
        ExtensionRooms, Extensions, ListFilters, RULES_MAX, RoomWish, SlidingError, SlidingRequest,
        WantedList,
    },
};
use http::{Method, StatusCode};
use ruma::{
    OwnedRoomId,
    api::{
        IncomingRequest, Metadata,
        client::sync::sync_events::v5::Request,
        error::{DeserializationError, ErrorKind},
    },
    presence::PresenceState,
};
use serde::Deserialize;

use crate::{
    app::App,
    auth::Guest,
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Longest name of a connection, or of a list, in bytes.
const NAME_BYTES_MAX: usize = 255;
/// Longest `required_state` of a list or subscription, in bytes of its types and keys.
const REQUIRED_BYTES_MAX: usize = 16 * 1024;

/// `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`
pub(super) async fn sliding_sync(app: App, caller: Guest, sync: SlidingSync) -> Result<Response> {
    let epoch = app.users.epoch(caller.user);
    let SlidingSync { body, pos, timeout_ms, presence } = sync;
    check(&body)?;
    let request = SlidingRequest {
        caller: Caller { user_id: caller.user_id.clone(), user: caller.user, device: Some(caller.device) },
        device: caller.device,
        connection: body.conn_id.unwrap_or_default(),
        transaction: body.txn_id,
        pos: pos.or(body.pos).filter(|pos| !pos.is_empty()),
        timeout: Duration::from_millis(timeout_ms.or(body.timeout).unwrap_or_default()),
        presence: presence.or(body.set_presence).unwrap_or_default(),
        lists: body.lists.into_iter().map(|(name, list)| (name, list.into())).collect(),
        subscriptions: body.room_subscriptions.into_iter().map(|(room, wish)| (room, wish.into())).collect(),
        extensions: body.extensions.into(),
    };
    let answer = app.sync.sliding(request).await?;
    super::still_signed_in(&app, &caller, epoch).await?;
    Ok(json_bytes(answer))
}

/// What a connection keeps of a request is bounded.
fn check(body: &Body) -> Result<()> {
    if body.lists.len() > RULES_MAX || body.room_subscriptions.len() > RULES_MAX {
        return Err(Error::invalid_param("Too many lists or subscriptions"));
    }
    let names = body.conn_id.iter().chain(body.lists.keys());
    if names.into_iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Error::invalid_param("The name of the connection or of a list is too long"));
    }
    let lists = body.lists.values().map(|list| &list.wish);
    let bytes = |wish: &Wish| -> usize {
        wish.required_state.iter().map(|(kind, key)| kind.len().saturating_add(key.len())).sum()
    };
    if lists.chain(body.room_subscriptions.values()).any(|wish| bytes(wish) > REQUIRED_BYTES_MAX) {
        return Err(Error::invalid_param("Too much required state"));
    }
    Ok(())
}

/// A request. ruma's lacks some filters, and takes no request without ranges.
pub(super) struct SlidingSync {
    body: Body,
    pos: Option<String>,
    timeout_ms: Option<u64>,
    presence: Option<PresenceState>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    conn_id: Option<String>,
    txn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
    lists: BTreeMap<String, List>,
    room_subscriptions: BTreeMap<OwnedRoomId, Wish>,
    extensions: ExtensionsBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    ranges: Option<Vec<(usize, usize)>>,
    /// As the accepted proposal has it.
    range: Option<(usize, usize)>,
    slow_get_all_rooms: bool,
    filters: Option<Filters>,
    #[serde(flatten)]
    wish: Wish,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wish {
    timeline_limit: usize,
    required_state: Vec<(String, String)>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Filters {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    is_invite: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
    spaces: Option<Vec<OwnedRoomId>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExtensionsBody {
    to_device: Option<ToDevice>,
    e2ee: Option<Switch>,
    account_data: Option<OfRooms>,
    receipts: Option<OfRooms>,
    typing: Option<OfRooms>,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    thread_subscriptions: Option<Limited>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToDevice {
    enabled: Option<bool>,
    since: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Limited {
    enabled: Option<bool>,
    limit: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OfRooms {
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl From<List> for WantedList {
    fn from(list: List) -> Self {
        let ranges = list.ranges.or_else(|| list.range.map(|range| vec![range]));
        Self {
            ranges: ranges.filter(|_| !list.slow_get_all_rooms),
            filters: list.filters.unwrap_or_default().into(),
            wish: list.wish.into(),
        }
    }
}

impl From<Wish> for RoomWish {
    fn from(Wish { timeline_limit, required_state }: Wish) -> Self {
        Self { timeline_limit, required_state }
    }
}

impl From<Filters> for ListFilters {
    fn from(filters: Filters) -> Self {
        Self {
            is_dm: filters.is_dm,
            is_encrypted: filters.is_encrypted,
            is_invite: filters.is_invite,
            room_types: filters.room_types,
            not_room_types: filters.not_room_types.unwrap_or_default(),
            tags: filters.tags,
            not_tags: filters.not_tags.unwrap_or_default(),
            spaces: filters.spaces,
        }
    }
}

impl From<ExtensionsBody> for Extensions {
    fn from(body: ExtensionsBody) -> Self {
        fn rooms(of: Option<OfRooms>) -> Option<ExtensionRooms> {
            const ALL: &str = "*";
            let of = of.filter(|of| of.enabled == Some(true))?;
            let is_all = |names: &Vec<String>| names.iter().any(|name| name == ALL);
            let rooms = of.rooms.filter(|rooms| !is_all(rooms));
            // What is no id of a room names none.
            let ids = |rooms: Vec<String>| {
                rooms.into_iter().filter_map(|room| OwnedRoomId::try_from(room).ok()).collect()
            };
            Some(ExtensionRooms { lists: of.lists.filter(|lists| !is_all(lists)), rooms: rooms.map(ids) })
        }
        let is_on = |enabled: Option<bool>| enabled == Some(true);
        Self {
            to_device: body.to_device.filter(|wish| is_on(wish.enabled)).map(|wish| wish.since),
            e2ee: body.e2ee.is_some_and(|wish| is_on(wish.enabled)),
            account_data: rooms(body.account_data),
            receipts: rooms(body.receipts),
            typing: rooms(body.typing),
            thread_subscriptions: body
                .thread_subscriptions
                .filter(|wish| is_on(wish.enabled))
                .map(|wish| wish.limit.unwrap_or(usize::MAX)),
        }
    }
}

impl Metadata for SlidingSync {
    const METHOD: Method = Request::METHOD;
    const RATE_LIMITED: bool = Request::RATE_LIMITED;
    type Authentication = <Request as Metadata>::Authentication;
    type PathBuilder = <Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = Request::PATH_BUILDER;
}

impl IncomingRequest for SlidingSync {
    type EndpointError = <Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = <Request as IncomingRequest>::OutgoingResponse;

    fn try_from_http_request_inner(
        http: http::Request<&[u8]>,
        _path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let query = http.uri().query().unwrap_or_default();
        let named = |name: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let body =
            if http.body().is_empty() { Body::default() } else { serde_json::from_slice(http.body())? };
        Ok(Self {
            body,
            pos: named("pos"),
            timeout_ms: named("timeout").and_then(|timeout| timeout.parse().ok()),
            presence: named("set_presence").map(PresenceState::from),
        })
    }
}

impl From<SlidingError> for Error {
    fn from(error: SlidingError) -> Self {
        match error {
            SlidingError::UnknownPos => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorKind::UnknownPos,
                "The connection is not known any more; begin a new one",
            ),
            SlidingError::BadInboxToken => {
                Self::invalid_param("The token of messages to the device is wrong")
            }
            SlidingError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
