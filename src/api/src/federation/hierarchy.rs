//! Spaces, one level at a time.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#spaces>

use ruma::{
    api::federation::space::{SpaceHierarchyParentSummary, get_hierarchy::v1 as hierarchy},
    serde::Raw,
};

use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_hierarchy)
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
async fn get_hierarchy(app: App, origin: Origin, request: hierarchy::Request) -> Result<hierarchy::Response> {
    let served = app.rooms.hierarchy_for(&origin, &request.room_id, request.suggested_only).await?;
    let served = served.ok_or_else(|| Error::not_found("This server does not know the room"))?;
    let children = served.room.children.into_iter().map(Raw::from_json).collect();
    let mut response =
        hierarchy::Response::new(SpaceHierarchyParentSummary::new(served.room.summary, children));
    response.children = served.children;
    response.inaccessible_children = served.inaccessible;
    Ok(response)
}
