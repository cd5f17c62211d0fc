//! Getting events for a room: history, context, single events, state and members.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#getting-events-for-a-room>

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use allod_server::{
    numbers::UserNumber,
    rooms::{
        EventFilter, RelationFilter,
        access::{AccessError, View},
        event::StoredEvent,
        pagination::PaginationToken,
        read::Direction,
    },
    sync::token::SyncToken,
    tables::rooms::Membership,
};
use http::StatusCode;
use ruma::{
    EventId, UInt,
    api::{
        Direction as RumaDirection,
        client::{
            context::get_context::v3 as context,
            filter::{LazyLoadOptions, RoomEventFilter},
            membership::{get_member_events::v3 as members, joined_members::v3 as joined_members},
            message::get_message_events::v3 as messages,
            room::get_room_event::v3 as event,
            state::{
                get_state_event_for_key::v3::{self as state_event, StateEventFormat},
                get_state_events::v3 as state,
            },
        },
    },
    events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Guest,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes, json_response},
    wrapped::{DirectionOptional, WithQuery},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .raw_endpoint(get_message_events)
        .raw_endpoint(get_context)
        .raw_endpoint(get_room_event)
        .raw_endpoint(get_state_events)
        .raw_endpoint(get_state_event_for_key)
        .raw_endpoint(get_member_events)
        .raw_endpoint(joined_members)
}

/// Most events in one answer.
const EVENTS_MAX: usize = 1000;

/// How often other servers are asked for one page.
const FETCHES_MAX: usize = 5;

/// A page of `/messages` or the surroundings of an event.
#[derive(Serialize)]
struct Page {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_before: Option<Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events_after: Option<Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk: Option<Vec<Box<RawValue>>>,
    state: Vec<Box<RawValue>>,
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
async fn get_message_events(
    app: App,
    session: Guest,
    DirectionOptional(asked): DirectionOptional<WithQuery<messages::Request>>,
) -> Result<Response> {
    let relations = relation_filter(asked.parameter("filter").as_deref());
    let request = asked.request;
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let direction = match request.dir {
        RumaDirection::Backward => Direction::Backward,
        RumaDirection::Forward => Direction::Forward,
    };
    let from = match (&request.from, direction) {
        (Some(from), _) => token(&app, &view, from).await?,
        (None, Direction::Backward) => PaginationToken::END,
        (None, Direction::Forward) => PaginationToken::START,
    };
    let to = match &request.to {
        Some(to) => Some(token(&app, &view, to).await?),
        None => None,
    };
    let filter = EventFilter::from(&request.filter).with_relations(relations);
    let limit = limit(request.limit);
    let ignored = app.sync.ignored(session.user).await?;
    let wanted = |event: &StoredEvent| is_shown(&ignored.users, event) && matches(&filter, &view, event);
    let mut page = app.rooms.history(&view, from, to, direction, limit, wanted).await?;
    // Where the page reaches a gap, what other servers have of it is fetched first.
    for _ in 0..FETCHES_MAX {
        let Some(inbound) = app.inbound.as_ref().filter(|_| direction == Direction::Backward) else { break };
        let floor = page.end.or(to).map_or(0, |end| end.depth);
        if !inbound.fill_history(&view.room, floor..=from.depth).await {
            break;
        }
        page = app.rooms.history(&view, from, to, direction, limit, wanted).await?;
    }
    // Of filtered pages, clients take only an empty one for the last.
    if page.end.is_none() && direction == Direction::Backward && request.filter.url_filter.is_some() {
        page.end = (!page.events.is_empty()).then_some(PaginationToken::START);
    }
    let state = lazy_state(&app, &view, &request.filter, &page.events).await?;
    respond(&Page {
        event: None,
        events_before: None,
        events_after: None,
        chunk: Some(bundled(&app, &view, &page.events).await?),
        state,
        start: page.start.to_string(),
        end: page.end.map(|end| end.to_string()),
    })
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
async fn get_context(app: App, session: Guest, request: context::Request) -> Result<Response> {
    let not_found = || Error::not_found("There is no such event, or you may not see it");
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let filter = EventFilter::from(&request.filter);
    let ignored = app.sync.ignored(session.user).await?;
    let wanted = |event: &StoredEvent| is_shown(&ignored.users, event) && matches(&filter, &view, event);
    let limit = limit(request.limit);
    let mut found = app.rooms.context(&view, &request.event_id, limit, wanted).await?;
    if found.is_none() && is_fetched(&app, &view, &request.event_id).await {
        found = app.rooms.context(&view, &request.event_id, limit, wanted).await?;
    }
    let found = found.ok_or_else(not_found)?;
    let last = found.after.last().unwrap_or(&found.event);
    let state = if request.filter.lazy_load_options == LazyLoadOptions::Disabled {
        let events = app.rooms.state_events_at(&view, last.record.state_after, None).await?;
        rendered(&app, &view, &events).await?
    } else {
        let around: Vec<_> = found.before.iter().chain([&found.event]).chain(&found.after).cloned().collect();
        lazy_state(&app, &view, &request.filter, &around).await?
    };
    let event = bundled(&app, &view, std::slice::from_ref(&found.event)).await?.pop();
    respond(&Page {
        event,
        events_before: Some(bundled(&app, &view, &found.before).await?),
        events_after: Some(bundled(&app, &view, &found.after).await?),
        chunk: None,
        state,
        start: found.start.to_string(),
        end: Some(found.end.to_string()),
    })
}

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
async fn get_room_event(app: App, session: Guest, request: event::Request) -> Result<Response> {
    let not_found = || Error::not_found("There is no such event, or you may not see it");
    let view = match app.rooms.view(&request.room_id, &caller(&session)).await {
        Ok(view) => view,
        Err(AccessError::Forbidden) => return Err(not_found()),
        Err(AccessError::Storage(error)) => return Err(error.into()),
    };
    let mut event = app.rooms.visible_event(&view, &request.event_id).await?;
    if event.is_none() && is_fetched(&app, &view, &request.event_id).await {
        event = app.rooms.visible_event(&view, &request.event_id).await?;
    }
    let event = event.ok_or_else(not_found)?;
    let ignored = app.sync.ignored(view.caller.user).await?;
    let rendered = app.rooms.render_bundled(&view, &[event], true, &ignored.users).await?;
    Ok(json_bytes(rendered.into_iter().next().ok_or_else(not_found)?))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
async fn get_state_events(app: App, session: Guest, request: state::Request) -> Result<Response> {
    app.rooms.wait_whole(&request.room_id).await?;
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let events = app.rooms.state_events(&view, None).await?;
    Ok(json_bytes(array(&app.rooms.render(&view, &events, true).await?)))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
async fn get_state_event_for_key(
    app: App,
    session: Guest,
    request: state_event::Request,
) -> Result<Response> {
    let not_found = || Error::not_found("The room has no such state");
    let kind = request.event_type.to_string();
    let caller = caller(&session);
    let (view, event) =
        app.rooms.whole_state_event(&request.room_id, &caller, &kind, &request.state_key).await?;
    let event = event.ok_or_else(not_found)?;
    if request.format == StateEventFormat::Event {
        let json = app.rooms.render(&view, &[event], true).await?.pop().ok_or_else(not_found)?;
        return Ok(json_bytes(json));
    }
    let pdu = event.pdu(&view.room)?;
    Ok(json_bytes(pdu.content.get().to_owned()))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
async fn get_member_events(app: App, session: Guest, request: members::Request) -> Result<Response> {
    app.rooms.wait_whole(&request.room_id).await?;
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let root = match &request.at {
        Some(at) => {
            let point = token(&app, &view, at).await?;
            app.rooms.root_before(&view, point).await?
        }
        None => view.root,
    };
    let wanted = |membership: Membership| {
        let is = |state: &MembershipState| state.as_str() == membership.as_str();
        match (&request.membership, &request.not_membership) {
            (None, None) => true,
            (Some(only), None) => is(only),
            (None, Some(not)) => !is(not),
            // The specification combines the two by "or".
            (Some(only), Some(not)) => is(only) || !is(not),
        }
    };
    let events = app.rooms.member_events(&view, root, wanted).await?;
    let mut body = b"{\"chunk\":".to_vec();
    body.extend(array(&app.rooms.render(&view, &events, true).await?));
    body.push(b'}');
    Ok(json_bytes(body))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
///
/// Who shows no name or avatar has `null` there: clients look for the fields.
async fn joined_members(app: App, session: Guest, request: joined_members::Request) -> Result<Response> {
    app.rooms.wait_whole(&request.room_id).await?;
    let view = app.rooms.joined_view(&request.room_id, &caller(&session)).await?;
    let events =
        app.rooms.member_events(&view, view.root, |membership| membership == Membership::Join).await?;
    let mut joined = BTreeMap::new();
    for event in &events {
        let Some(user_id) = &event.record.state_key else { continue };
        let profile: Profile = event.pdu(&view.room)?.content_as().unwrap_or_default();
        joined.insert(user_id, profile);
    }
    Ok(json_response(StatusCode::OK, &serde_json::json!({ "joined": joined })))
}

#[derive(Default, serde::Deserialize, Serialize)]
struct Profile {
    #[serde(rename(serialize = "display_name"))]
    displayname: Option<String>,
    avatar_url: Option<String>,
}

/// A point in the room that a token of `/messages` or `/sync` names.
pub(crate) async fn token(app: &App, view: &View, text: &str) -> Result<PaginationToken> {
    let bad = || Error::invalid_param("The token is not one of this server");
    if let Ok(point) = text.parse::<PaginationToken>() {
        return Ok(point);
    }
    let token: SyncToken = text.parse().map_err(|_| bad())?;
    Ok(app.rooms.point_at(view, token.position).await?)
}

/// Whether an event that is not here came from another server.
async fn is_fetched(app: &App, view: &View, event_id: &EventId) -> bool {
    match &app.inbound {
        // Whoever has left sees nothing that came later, and others ask for nothing.
        Some(inbound) if view.membership == Some(Membership::Join) => {
            inbound.fetch_event(&view.room, event_id).await
        }
        _ => false,
    }
}

fn limit(asked: UInt) -> usize {
    usize::try_from(u64::from(asked)).unwrap_or(EVENTS_MAX).min(EVENTS_MAX)
}

/// Whether nobody whom the user ignores sent it; what they do to the room's state is shown all the same.
fn is_shown(ignored: &HashSet<UserNumber>, event: &StoredEvent) -> bool {
    event.record.state_key.is_some() || !ignored.contains(&event.record.sender)
}

/// What a filter says of relations, which ruma leaves out. One that does not parse was refused before.
fn relation_filter(filter: Option<&str>) -> RelationFilter {
    filter.and_then(|filter| serde_json::from_str(filter).ok()).unwrap_or_default()
}

fn matches(filter: &EventFilter, view: &View, event: &StoredEvent) -> bool {
    filter.is_open() || event.pdu(&view.room).is_ok_and(|pdu| filter.matches(&pdu))
}

/// The member events of those who sent the events, if the filter asks for them.
async fn lazy_state(
    app: &App,
    view: &View,
    filter: &RoomEventFilter,
    events: &[Arc<StoredEvent>],
) -> Result<Vec<Box<RawValue>>> {
    if filter.lazy_load_options == LazyLoadOptions::Disabled {
        return Ok(Vec::new());
    }
    let mut senders = BTreeSet::new();
    for event in events {
        senders.insert(event.pdu(&view.room)?.sender.to_string());
    }
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(app.rooms.state_event(view, "m.room.member", &sender).await?);
    }
    rendered(app, view, &members).await
}

async fn rendered(app: &App, view: &View, events: &[Arc<StoredEvent>]) -> Result<Vec<Box<RawValue>>> {
    to_raw(app.rooms.render(view, events, true).await?)
}

/// The events with what relates to them.
pub(crate) async fn bundled(
    app: &App,
    view: &View,
    events: &[Arc<StoredEvent>],
) -> Result<Vec<Box<RawValue>>> {
    let ignored = app.sync.ignored(view.caller.user).await?;
    to_raw(app.rooms.render_bundled(view, events, true, &ignored.users).await?)
}

fn to_raw(rendered: Vec<Vec<u8>>) -> Result<Vec<Box<RawValue>>> {
    let raw = rendered.into_iter().map(|json| {
        let text = String::from_utf8(json).map_err(Error::internal)?;
        RawValue::from_string(text).map_err(Error::internal)
    });
    raw.collect()
}

fn array(events: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![b'['];
    body.extend(events.join(&b','));
    body.push(b']');
    body
}

fn respond(page: &Page) -> Result<Response> {
    Ok(json_bytes(serde_json::to_vec(page).map_err(Error::internal)?))
}

impl From<AccessError> for Error {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Forbidden => Self::forbidden("You are not in this room"),
            AccessError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
