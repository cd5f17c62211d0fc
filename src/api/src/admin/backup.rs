//! Copies of the database for `allod backup`, on the admin socket.

use http::Method;
use serde_json::json;

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::Result,
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::POST, "/_allod/admin/v1/backup/checkpoint", make_checkpoint)
}

/// `POST /_allod/admin/v1/backup/checkpoint`: who calls it has locked the staging folder, where the copy comes.
async fn make_checkpoint(app: App, (): (), _request: PlainRequest) -> Result<Response> {
    let checkpoint = app.checkpoints.make().await?;
    Ok(json_bytes(
        json!({
            "creation_id": format!("{:032x}", checkpoint.creation_id),
            "generation": checkpoint.generation,
            "position": checkpoint.position,
        })
        .to_string(),
    ))
}
