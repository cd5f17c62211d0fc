//! Room aliases and the room directory.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-aliases>,
//! <https://spec.matrix.org/v1.19/client-server-api/#published-room-directory>

use allod_server::{
    federation::Federation,
    rooms::{alias::AliasError, directory::DirectoryQuery},
};
use http::StatusCode;
use ruma::{
    RoomAliasId, ServerName, UInt,
    api::{
        client::{
            alias::{create_alias::v3 as create, delete_alias::v3 as delete, get_alias::v3 as get},
            directory::{
                get_public_rooms::v3 as public_rooms, get_public_rooms_filtered::v3 as filtered,
                get_room_visibility::v3 as get_visibility, set_room_visibility::v3 as set_visibility,
            },
            room::{Visibility, aliases::v3 as aliases},
        },
        error::ErrorKind,
        federation::directory::get_public_rooms_filtered::v1 as remote,
    },
    directory::{Filter, PublicRoomsChunk},
};

use serde_json::{Map, Value};

use crate::{
    app::App,
    auth::{Active, Session},
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_alias)
        .endpoint(create_alias)
        .endpoint(delete_alias)
        .endpoint(room_aliases)
        .endpoint(get_room_visibility)
        .endpoint(set_room_visibility)
        .raw_endpoint(get_public_rooms)
        .raw_endpoint(get_public_rooms_filtered)
}

/// Servers that are told of as knowing a room.
const SERVERS_MAX: usize = 100;
/// Rooms on one page of the directory where the client does not say.
const PAGE_ROOMS: usize = 100;

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
async fn get_alias(app: App, (): (), request: get::Request) -> Result<get::Response> {
    let ours = request.room_alias.server_name() == app.users.server_name();
    if let (false, Some(federation)) = (ours, &app.federation) {
        let found = federation.client.resolve_alias(&request.room_alias).await?;
        return Ok(get::Response::new(found.room_id, found.servers));
    }
    let number = app.rooms.resolve_alias(request.room_alias.as_str()).await?;
    let number = number.ok_or(AliasError::NotFound)?;
    let room_id = app.rooms.get(number).await?.room_id.clone();
    let own = app.users.server_name().to_owned();
    let mut servers = vec![own.clone()];
    if let Some(outbox) = &app.outbox {
        let others = outbox.servers_of(number).await?;
        servers.extend(others.iter().filter(|server| **server != own).take(SERVERS_MAX).cloned());
    }
    Ok(get::Response::new(room_id, servers))
}

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
async fn create_alias(app: App, session: Active, request: create::Request) -> Result<create::Response> {
    check_ours(&app, &request.room_alias)?;
    let room = app.rooms.known(&request.room_id).await?;
    app.rooms.create_alias(&request.room_alias, &room, &caller(&session)).await?;
    Ok(create::Response::new())
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
async fn delete_alias(app: App, session: Active, request: delete::Request) -> Result<delete::Response> {
    app.rooms.delete_alias(&request.room_alias, &caller(&session), session.admin).await?;
    Ok(delete::Response::new())
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`
async fn room_aliases(app: App, session: Session, request: aliases::Request) -> Result<aliases::Response> {
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let aliases = app.rooms.aliases(view.room.number).await?;
    Ok(aliases::Response::new(aliases.into_iter().filter_map(|alias| alias.try_into().ok()).collect()))
}

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
async fn get_room_visibility(
    app: App,
    (): (),
    request: get_visibility::Request,
) -> Result<get_visibility::Response> {
    let room = app.rooms.known(&request.room_id).await?;
    let published = app.rooms.is_published(room.number).await?;
    Ok(get_visibility::Response::new(if published { Visibility::Public } else { Visibility::Private }))
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
async fn set_room_visibility(
    app: App,
    session: Active,
    request: set_visibility::Request,
) -> Result<set_visibility::Response> {
    let room = app.rooms.known(&request.room_id).await?;
    let published = request.visibility == Visibility::Public;
    app.rooms.set_published(&room, &caller(&session), session.admin, published).await?;
    Ok(set_visibility::Response::new())
}

/// `GET /_matrix/client/v3/publicRooms`
async fn get_public_rooms(
    app: App,
    session: Option<Session>,
    request: public_rooms::Request,
) -> Result<Response> {
    if session.is_none() && !app.config.get().rooms.directory_without_account {
        return Err(Error::missing_token());
    }
    let mut question = remote::Request::new();
    question.limit = request.limit;
    question.since = request.since;
    let page = page_of(&app, request.server.as_deref(), question).await?;
    page.respond()
}

/// `POST /_matrix/client/v3/publicRooms`
async fn get_public_rooms_filtered(app: App, _: Session, request: filtered::Request) -> Result<Response> {
    let mut question = remote::Request::new();
    question.limit = request.limit;
    question.since = request.since;
    question.filter = request.filter;
    question.room_network = request.room_network;
    let page = page_of(&app, request.server.as_deref(), question).await?;
    page.respond()
}

/// A page of the directory.
pub(crate) struct Page {
    pub(crate) chunk: Vec<PublicRoomsChunk>,
    pub(crate) next_batch: Option<String>,
    pub(crate) prev_batch: Option<String>,
    pub(crate) total: Option<UInt>,
}

impl Page {
    /// The page as clients get it: with the join rule of every room, which ruma leaves out where the rule is the usual one.
    fn respond(self) -> Result<Response> {
        let rooms: Result<Vec<Value>, _> = self.chunk.iter().map(serde_json::to_value).collect();
        let mut rooms = rooms.map_err(Error::internal)?;
        for room in rooms.iter_mut().filter_map(Value::as_object_mut) {
            room.entry("join_rule").or_insert_with(|| "public".into());
        }
        let mut body = Map::new();
        body.insert("chunk".to_owned(), rooms.into());
        for (name, token) in [("next_batch", self.next_batch), ("prev_batch", self.prev_batch)] {
            if let Some(token) = token {
                body.insert(name.to_owned(), token.into());
            }
        }
        if let Some(total) = self.total {
            body.insert("total_room_count_estimate".to_owned(), u64::from(total).into());
        }
        Ok(json_bytes(Value::Object(body).to_string()))
    }
}

/// A page of the directory of a server, this one or another.
async fn page_of(app: &App, server: Option<&ServerName>, question: remote::Request) -> Result<Page> {
    let Some((federation, server)) = elsewhere(app, server)? else {
        return page(app, question.limit, question.since.as_deref(), &question.filter).await;
    };
    let page = federation.client.public_rooms(server, question).await?;
    Ok(Page {
        chunk: page.chunk,
        next_batch: page.next_batch,
        prev_batch: page.prev_batch,
        total: page.total_room_count_estimate,
    })
}

/// A page of this server's directory.
pub(crate) async fn page(
    app: &App,
    limit: Option<UInt>,
    since: Option<&str>,
    filter: &Filter,
) -> Result<Page> {
    let bad = |_| Error::invalid_param("since is not a token of this server");
    let offset: usize = since.map(str::parse).transpose().map_err(bad)?.unwrap_or(0);
    let limit = limit.map_or(PAGE_ROOMS, |limit| usize::try_from(u64::from(limit)).unwrap_or(PAGE_ROOMS));
    let query = DirectoryQuery {
        term: filter.generic_search_term.as_deref(),
        room_types: &filter.room_types,
        offset,
        limit: limit.clamp(1, 500),
    };
    let found = app.rooms.directory(&query).await?;
    let end = offset.saturating_add(found.rooms.len());
    Ok(Page {
        next_batch: (end < found.total).then(|| end.to_string()),
        prev_batch: (offset > 0).then(|| offset.saturating_sub(query.limit).to_string()),
        total: UInt::try_from(found.total).ok(),
        chunk: found.rooms,
    })
}

/// Whom to ask for a directory that is not this server's.
fn elsewhere<'a>(
    app: &'a App,
    server: Option<&'a ServerName>,
) -> Result<Option<(&'a Federation, &'a ServerName)>> {
    match server {
        Some(server) if server != app.users.server_name() => match &app.federation {
            Some(federation) => Ok(Some((federation, server))),
            None => Err(Error::not_found("This server talks to no other")),
        },
        _ => Ok(None),
    }
}

fn check_ours(app: &App, alias: &RoomAliasId) -> Result<()> {
    if alias.server_name() == app.users.server_name() {
        Ok(())
    } else {
        Err(Error::invalid_param("The room alias belongs to another server"))
    }
}

impl From<AliasError> for Error {
    fn from(error: AliasError) -> Self {
        match error {
            AliasError::NotFound => Self::not_found("There is no such room alias"),
            AliasError::InUse => {
                Self::new(StatusCode::CONFLICT, ErrorKind::Unknown, "The room alias is taken already")
            }
            AliasError::NotOurs => Self::invalid_param("The room alias belongs to another server"),
            AliasError::Forbidden => Self::forbidden("You may not change this"),
            AliasError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
