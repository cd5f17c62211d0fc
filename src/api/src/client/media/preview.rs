//! Previews of links.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>

use allod_server::media::PreviewError;
use http::StatusCode;
use ruma::api::{
    client::{
        authenticated_media::get_media_preview::v1 as preview, media::get_media_preview::v3 as old_preview,
    },
    error::ErrorKind,
};

use crate::{
    app::App,
    auth::Session,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_media_preview).endpoint(get_media_preview_before)
}

/// `GET /_matrix/client/v1/media/preview_url`
async fn get_media_preview(app: App, _: Session, request: preview::Request) -> Result<preview::Response> {
    let said = app.previews.preview(&request.url).await?;
    preview::Response::from_serialize(&*said).map_err(Error::internal)
}

/// `GET /_matrix/media/v3/preview_url`
#[expect(deprecated, reason = "older clients ask there")]
async fn get_media_preview_before(
    app: App,
    _: Session,
    request: old_preview::Request,
) -> Result<old_preview::Response> {
    let said = app.previews.preview(&request.url).await?;
    old_preview::Response::from_serialize(&*said).map_err(Error::internal)
}

impl From<PreviewError> for Error {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::Off => Self::unrecognized(),
            PreviewError::NotAUrl => Self::invalid_param(error.to_string()),
            PreviewError::Refused => Self::forbidden(error.to_string()),
            PreviewError::Failed => Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, error.to_string()),
        }
    }
}
