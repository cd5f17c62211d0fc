//! Searching rooms.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

use std::collections::{BTreeMap, BTreeSet};

use allod_server::{
    rooms::{
        EventFilter, event::StoredEvent, pagination::PaginationToken, read::Direction, words::SearchField,
    },
    search::{Match, SearchPage, SearchToken, Wanted},
};
use http::StatusCode;
use ruma::{
    OwnedRoomId,
    api::client::search::search_events::v3::{
        Criteria, EventContext, GroupingKey, OrderBy, Request, SearchKeys,
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    app::App,
    auth::Session,
    client::{history::bundled, room::caller},
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes, json_response},
};

/// Matches of a page, if the client does not say.
const PAGE_DEFAULT: usize = 10;
/// Most matches of a page.
const PAGE_MAX: usize = 100;
/// Most events around a match, each way.
const AROUND_MAX: usize = 50;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(search_events)
}

#[derive(Serialize)]
struct Answer {
    search_categories: Categories,
}

#[derive(Serialize)]
struct Categories {
    room_events: RoomEvents,
}

/// What was found. Not ruma's answer, which leaves out an empty list of results, that clients read.
#[derive(Serialize)]
struct RoomEvents {
    count: usize,
    highlights: Vec<String>,
    results: Vec<Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    state: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    groups: Map<String, Value>,
}

#[derive(Serialize)]
struct Found {
    rank: f64,
    result: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Around>,
}

#[derive(Serialize)]
struct Around {
    start: String,
    end: String,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    profile_info: Map<String, Value>,
}

/// `POST /_matrix/client/v3/search`
async fn search_events(app: App, session: Session, request: Request) -> Result<Response> {
    if !app.rooms.is_searchable() {
        return Err(Error::forbidden("Searching is switched off on this server"));
    }
    let Some(criteria) = request.search_categories.room_events else {
        return Ok(json_response(StatusCode::OK, &json!({ "search_categories": {} })));
    };
    let from = request.next_batch.as_deref().map(token).transpose()?;
    let filter = EventFilter::from(&criteria.filter);
    let fields = fields(&criteria);
    let limit =
        criteria.filter.limit.map_or(PAGE_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
    let wanted = Wanted {
        term: &criteria.search_term,
        fields: &fields,
        filter: &filter,
        rooms: criteria.filter.rooms.as_deref(),
        not_rooms: &criteria.filter.not_rooms,
        recent: criteria.order_by == Some(OrderBy::Recent),
        limit: limit.clamp(1, PAGE_MAX),
        from,
    };
    let page = app.search.search(&caller(&session), &wanted).await?;
    let answer = answer(&app, &criteria, page).await?;
    let answer = Answer { search_categories: Categories { room_events: answer } };
    Ok(json_bytes(serde_json::to_vec(&answer).map_err(Error::internal)?))
}

async fn answer(app: &App, criteria: &Criteria, page: SearchPage) -> Result<RoomEvents> {
    let next_batch = page.next.map(|next| format!("s{}_{}", next.upto, next.offset));
    let groups = groups(criteria, &page.matches, next_batch.as_deref())?;
    let state = match criteria.include_state {
        Some(true) => state(app, &page.matches).await?,
        _ => BTreeMap::new(),
    };
    let mut results = Vec::with_capacity(page.matches.len());
    for found in page.matches {
        let result = bundled(app, &found.view, std::slice::from_ref(&found.event)).await?.pop();
        let context = around(app, &criteria.event_context, &found).await?;
        results.extend(result.map(|result| Found { rank: found.rank, result, context: Some(context) }));
    }
    Ok(RoomEvents { count: page.count, highlights: page.words, results, next_batch, state, groups })
}

/// What was said around a match, as far as the user may see it.
async fn around(app: &App, asked: &EventContext, found: &Match) -> Result<Around> {
    let (event, view) = (&found.event, &found.view);
    let (depth, number) = (event.record.depth, event.number);
    let limit = |limit: ruma::UInt| usize::try_from(limit).unwrap_or(AROUND_MAX).min(AROUND_MAX);
    let (at, past) = (PaginationToken::before(depth, number), PaginationToken::behind(depth, number));
    let any = |_: &StoredEvent| true;
    let backward = (limit(asked.before_limit), Direction::Backward);
    let before = app.rooms.history(view, at, None, backward.1, backward.0, any).await?.events;
    let after =
        app.rooms.history(view, past, None, Direction::Forward, limit(asked.after_limit), any).await?.events;
    let place = |event: &StoredEvent| (event.record.depth, event.number);
    let start = before.last().map_or(at, |event| PaginationToken::before(place(event).0, place(event).1));
    let end = after.last().map_or(past, |event| PaginationToken::behind(place(event).0, place(event).1));
    let mut profile_info = Map::new();
    if asked.include_profile {
        let senders = before.iter().chain(&after).chain([event]).map(|event| event.record.sender);
        for sender in app.users.ids(&senders.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()).await?
        {
            let Some(sender) = sender else { continue };
            if let Some(profile) = app.rooms.profile_in(view, &sender).await? {
                profile_info.insert(sender.to_string(), profile);
            }
        }
    }
    Ok(Around {
        start: start.to_string(),
        end: end.to_string(),
        events_before: bundled(app, view, &before).await?,
        events_after: bundled(app, view, &after).await?,
        profile_info,
    })
}

/// The state of each room with a match, as the user may see it.
async fn state(app: &App, matches: &[Match]) -> Result<BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>> {
    let mut states = BTreeMap::new();
    for found in matches {
        let room_id = &found.view.room.room_id;
        if !states.contains_key(room_id) {
            let events = app.rooms.state_events(&found.view, None).await?;
            states.insert(room_id.clone(), bundled(app, &found.view, &events).await?);
        }
    }
    Ok(states)
}

/// The matches of the page by room and sender, as far as the client asks for it.
fn groups(criteria: &Criteria, matches: &[Match], next_batch: Option<&str>) -> Result<Map<String, Value>> {
    let mut groups = Map::new();
    for grouping in &criteria.groupings.group_by {
        let (key, by_room) = match grouping.key {
            Some(GroupingKey::RoomId) => ("room_id", true),
            Some(GroupingKey::Sender) => ("sender", false),
            _ => continue,
        };
        let mut group: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for found in matches {
            let name = if by_room {
                found.view.room.room_id.to_string()
            } else {
                found.event.pdu(&found.view.room).map_err(Error::from)?.sender.to_string()
            };
            group.entry(name).or_default().push(&found.event.record.event_id);
        }
        let group: Map<String, Value> = (0_usize..)
            .zip(group)
            .map(|(order, (name, results))| {
                let mut of = json!({ "order": order, "results": results });
                if let (Some(next), Some(of)) = (next_batch, of.as_object_mut()) {
                    of.insert("next_batch".to_owned(), next.into());
                }
                (name, of)
            })
            .collect();
        groups.insert(key.to_owned(), group.into());
    }
    Ok(groups)
}

fn fields(criteria: &Criteria) -> Vec<SearchField> {
    let Some(keys) = &criteria.keys else { return SearchField::ALL.to_vec() };
    let fields = keys.iter().filter_map(|key| match key {
        SearchKeys::ContentBody => Some(SearchField::Body),
        SearchKeys::ContentName => Some(SearchField::Name),
        SearchKeys::ContentTopic => Some(SearchField::Topic),
        _ => None,
    });
    fields.collect()
}

fn token(text: &str) -> Result<SearchToken> {
    let parts = text.strip_prefix('s').and_then(|rest| rest.split_once('_'));
    let token = parts.and_then(|(upto, offset)| {
        Some(SearchToken { upto: upto.parse().ok()?, offset: offset.parse().ok()? })
    });
    token.ok_or_else(|| Error::invalid_param("next_batch is not of this search"))
}

#[cfg(test)]
mod tests;
