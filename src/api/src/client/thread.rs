//! The threads of a room.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#querying-threads-in-a-room>

use allod_server::rooms::{pagination::PaginationToken, threads::ThreadWish};
use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    app::App,
    auth::Session,
    client::{history::bundled, relation::limit_of, room::caller},
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(get_threads)
}

/// Threads in one answer where the client names no number.
const THREADS_DEFAULT: usize = 20;
/// Most threads in one answer.
const THREADS_MAX: usize = 100;

#[derive(Serialize)]
struct Page {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
async fn get_threads(app: App, session: Session, request: Request) -> Result<Response> {
    let view = app.rooms.view(&request.room_id, &caller(&session)).await?;
    let wish = match request.include {
        IncludeThreads::All => ThreadWish::All,
        IncludeThreads::Participated => ThreadWish::Participated,
        _ => return Err(Error::invalid_param("`include` is neither \"all\" nor \"participated\"")),
    };
    let from = request.from.as_deref().map(str::parse::<PaginationToken>).transpose();
    let from = from.map_err(|_| Error::invalid_param("The token is not one of this server"))?;
    let limit = limit_of(request.limit, THREADS_DEFAULT, THREADS_MAX);
    let ignored = app.sync.ignored(session.user).await?;
    let page = app.rooms.threads(&view, wish, from, limit, &ignored.users).await?;
    let body = Page {
        chunk: bundled(&app, &view, &page.events).await?,
        next_batch: page.end.map(|end| end.to_string()),
    };
    Ok(json_bytes(serde_json::to_vec(&body).map_err(Error::internal)?))
}
