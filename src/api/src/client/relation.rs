//! Events that relate to another one.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#relationships-api>

use allod_server::rooms::{
    read::Direction,
    relations::{HOPS_MAX, PageWish, RelationWish},
};
use ruma::{
    OwnedRoomId, UInt,
    api::{
        Direction as RumaDirection,
        client::relations::{
            get_relating_events::v1 as all, get_relating_events_with_rel_type::v1 as of_type,
            get_relating_events_with_rel_type_and_event_type::v1 as of_types,
        },
    },
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Session,
    client::{
        history::{bundled, token},
        room::caller,
    },
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .raw_endpoint(get_relating_events)
        .raw_endpoint(get_relating_events_with_rel_type)
        .raw_endpoint(get_relating_events_with_rel_type_and_event_type)
}

/// Events in one answer where the client names no number.
const EVENTS_DEFAULT: usize = 50;
/// Most events in one answer.
const EVENTS_MAX: usize = 500;

/// What the three endpoints have in common.
struct Asked {
    room_id: OwnedRoomId,
    wish: RelationWish,
    from: Option<String>,
    to: Option<String>,
    dir: RumaDirection,
    limit: Option<UInt>,
}

#[derive(Serialize)]
struct Page {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u8>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
async fn get_relating_events(app: App, session: Session, request: all::Request) -> Result<Response> {
    let all::Request { room_id, event_id, from, dir, to, limit, recurse, .. } = request;
    let wish = RelationWish { parent: event_id, rel_type: None, kind: None, recurse };
    respond(&app, &session, Asked { room_id, wish, from, to, dir, limit }).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
async fn get_relating_events_with_rel_type(
    app: App,
    session: Session,
    request: of_type::Request,
) -> Result<Response> {
    let of_type::Request { room_id, event_id, rel_type, from, dir, to, limit, recurse, .. } = request;
    let rel_type = Some(rel_type.to_string());
    let wish = RelationWish { parent: event_id, rel_type, kind: None, recurse };
    respond(&app, &session, Asked { room_id, wish, from, to, dir, limit }).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
async fn get_relating_events_with_rel_type_and_event_type(
    app: App,
    session: Session,
    request: of_types::Request,
) -> Result<Response> {
    let of_types::Request { room_id, event_id, rel_type, event_type, from, dir, to, limit, recurse, .. } =
        request;
    let (rel_type, kind) = (Some(rel_type.to_string()), Some(event_type.to_string()));
    let wish = RelationWish { parent: event_id, rel_type, kind, recurse };
    respond(&app, &session, Asked { room_id, wish, from, to, dir, limit }).await
}

async fn respond(app: &App, session: &Session, asked: Asked) -> Result<Response> {
    let Asked { room_id, wish, from, to, dir, limit } = asked;
    let view = app.rooms.view(&room_id, &caller(session)).await?;
    let page_wish = PageWish {
        from: match &from {
            Some(from) => Some(token(app, &view, from).await?),
            None => None,
        },
        to: match &to {
            Some(to) => Some(token(app, &view, to).await?),
            None => None,
        },
        direction: match dir {
            RumaDirection::Backward => Direction::Backward,
            RumaDirection::Forward => Direction::Forward,
        },
        limit: limit_of(limit, EVENTS_DEFAULT, EVENTS_MAX),
    };
    let ignored = app.sync.ignored(session.user).await?;
    let page = app.rooms.relations(&view, &wish, page_wish, &ignored.users).await?;
    let page = page.ok_or_else(|| Error::not_found("There is no such event, or you may not see it"))?;
    let body = Page {
        chunk: bundled(app, &view, &page.events).await?,
        next_batch: page.end.map(|end| end.to_string()),
        prev_batch: from.map(|_| page.start.to_string()),
        recursion_depth: wish.recurse.then_some(HOPS_MAX),
    };
    Ok(json_bytes(serde_json::to_vec(&body).map_err(Error::internal)?))
}

/// How many events to answer with: at least one, so that every page gets on.
pub(crate) fn limit_of(asked: Option<UInt>, default: usize, max: usize) -> usize {
    let asked = asked.map(|asked| usize::try_from(u64::from(asked)).unwrap_or(max));
    asked.unwrap_or(default).clamp(1, max)
}

#[cfg(test)]
mod tests;
