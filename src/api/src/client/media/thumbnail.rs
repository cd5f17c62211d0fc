//! Fetching thumbnails.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#thumbnails>

use allod_server::media::{Method, ThumbnailError, ThumbnailWanted, Wanted};
use ruma::{
    UInt,
    api::client::{
        authenticated_media::get_content_thumbnail::v1 as content,
        media::get_content_thumbnail::v3 as old_content,
    },
    media::Method as WantedMethod,
};

use super::serve::serve;
use crate::{
    app::App,
    auth::Guest,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
    response::Response,
    wrapped::WithHeaders,
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(get_content_thumbnail).raw_endpoint(get_content_thumbnail_without_account)
}

/// `GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}`
async fn get_content_thumbnail(
    app: App,
    session: Guest,
    call: WithHeaders<content::Request>,
) -> Result<Response> {
    let (caller, request) = (caller(&session), &call.request);
    let wanted = Wanted::by_account(&caller, &request.server_name, &request.media_id, request.timeout_ms);
    let size = size(request.width, request.height, request.method.as_ref(), request.animated);
    let content = app.media.thumbnail(wanted, size).await?;
    serve(&app.media, call.head(), content, None).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
#[expect(deprecated, reason = "older clients and servers ask there")]
async fn get_content_thumbnail_without_account(
    app: App,
    (): (),
    call: WithHeaders<old_content::Request>,
) -> Result<Response> {
    let request = &call.request;
    let (server, media_id) = (&request.server_name, &request.media_id);
    let wanted = Wanted::by_anyone(server, media_id, request.timeout_ms, request.allow_remote);
    let size = size(request.width, request.height, request.method.as_ref(), request.animated);
    let content = app.media.thumbnail(wanted, size).await?;
    serve(&app.media, call.head(), content, None).await
}

/// What ruma says about a thumbnail, as the service takes it.
pub(crate) fn size(
    width: UInt,
    height: UInt,
    method: Option<&WantedMethod>,
    animated: Option<bool>,
) -> ThumbnailWanted {
    ThumbnailWanted {
        width: width.into(),
        height: height.into(),
        method: if method == Some(&WantedMethod::Crop) { Method::Crop } else { Method::Scale },
        animated: animated == Some(true),
    }
}

impl From<ThumbnailError> for Error {
    fn from(error: ThumbnailError) -> Self {
        match error {
            ThumbnailError::Content(error) => error.into(),
            ThumbnailError::NoSize => Self::invalid_param(error.to_string()),
            ThumbnailError::NoPicture => Self::unknown(error.to_string()),
            ThumbnailError::TooLarge => Self::too_large(error.to_string()),
        }
    }
}
