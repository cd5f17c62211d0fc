//! Spaces.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#spaces>

use allod_server::spaces::{HierarchyError, HierarchyQuery};
use ruma::{
    api::client::space::{SpaceHierarchyRoomsChunk, get_hierarchy::v1 as hierarchy},
    serde::Raw,
};

use crate::{
    app::App,
    auth::Guest,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_hierarchy)
}

/// Most rooms on a page, and their number where the client does not say.
const PAGE_ROOMS: usize = 50;

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
async fn get_hierarchy(app: App, session: Guest, request: hierarchy::Request) -> Result<hierarchy::Response> {
    let limit = request.limit.and_then(|limit| usize::try_from(u64::from(limit)).ok());
    let query = HierarchyQuery {
        from: request.from,
        limit: limit.unwrap_or(PAGE_ROOMS).clamp(1, PAGE_ROOMS),
        max_depth: request.max_depth.map(u64::from),
        suggested_only: request.suggested_only,
    };
    let page = app.spaces.hierarchy(&caller(&session), &request.room_id, &query).await?;
    let mut response = hierarchy::Response::new();
    response.next_batch = page.next;
    response.rooms = page
        .rooms
        .into_iter()
        .map(|room| {
            let children = room.children.into_iter().map(Raw::from_json).collect();
            SpaceHierarchyRoomsChunk::new(room.summary, children)
        })
        .collect();
    Ok(response)
}

impl From<HierarchyError> for Error {
    fn from(error: HierarchyError) -> Self {
        match error {
            HierarchyError::Forbidden => Self::forbidden("You may not see this room"),
            HierarchyError::BadToken => Self::invalid_param(
                "from is not a token of this server for this max_depth and suggested_only",
            ),
            HierarchyError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
