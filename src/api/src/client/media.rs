//! Media: uploading, and what may be uploaded (§Content repository). Fetching is in the modules below.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

use std::time::Duration;

use allod_server::media::{CreateError, Description, UploadError};
use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        client::{
            authenticated_media::get_media_config::v1 as config,
            media::{
                create_content::v3 as upload, create_content_async::v3 as upload_to,
                create_mxc_uri::v1 as create, get_media_config::v3 as old_config,
            },
        },
        error::ErrorKind,
    },
};

use crate::{
    app::App,
    auth::{Active, Guest},
    body::Upload,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, from_ruma, json_bytes},
};

mod attached;
mod download;
mod preview;
pub(crate) mod serve;
pub(crate) mod thumbnail;

pub(crate) fn routes(routes: Routes) -> Routes {
    let routes = routes
        .upload_endpoint(create_content)
        .upload_endpoint(create_content_async)
        .endpoint(create_mxc_uri)
        .endpoint(get_media_config)
        .endpoint(get_media_config_before_accounts);
    attached::routes(preview::routes(thumbnail::routes(download::routes(routes))))
}

/// `POST /_matrix/media/v3/upload`
async fn create_content(
    app: App,
    caller: Active,
    request: upload::Request,
    body: Upload,
) -> Result<Response> {
    let media = app.media.upload(caller.user, body.announced_bytes()).await?;
    let description = Description { content_type: request.content_type, file_name: request.filename };
    from_ruma(upload::Response::new(receive(media, body, description).await?))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
async fn create_content_async(
    app: App,
    caller: Active,
    request: upload_to::Request,
    body: Upload,
) -> Result<Response> {
    let announced = body.announced_bytes();
    let media = app.media.upload_to(caller.user, &request.server_name, &request.media_id, announced).await?;
    let description = Description { content_type: request.content_type, file_name: request.filename };
    receive(media, body, description).await?;
    // ruma's response cannot be made outside of it.
    Ok(json_bytes("{}"))
}

/// Passes a body on as it comes.
async fn receive(
    mut media: allod_server::media::Upload,
    mut body: Upload,
    description: Description,
) -> Result<ruma::OwnedMxcUri> {
    while let Some(piece) = body.chunk().await? {
        media.write(&piece).await?;
    }
    Ok(media.finish(description).await?)
}

/// `POST /_matrix/media/v1/create`
async fn create_mxc_uri(app: App, caller: Active, _: create::Request) -> Result<create::Response> {
    let (content_uri, expires_ms) = app.media.create(caller.user).await?;
    Ok(created(content_uri, expires_ms))
}

fn created(content_uri: ruma::OwnedMxcUri, expires_ms: u64) -> create::Response {
    let mut response = create::Response::new(content_uri);
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(expires_ms)));
    response
}

/// `GET /_matrix/client/v1/media/config`
async fn get_media_config(app: App, _: Guest, _: config::Request) -> Result<config::Response> {
    Ok(config::Response::new(UInt::new_saturating(app.media.upload_bytes_max())))
}

/// `GET /_matrix/media/v3/config`
#[expect(deprecated, reason = "older clients ask there")]
async fn get_media_config_before_accounts(
    app: App,
    _: Guest,
    _: old_config::Request,
) -> Result<old_config::Response> {
    Ok(old_config::Response::new(UInt::new_saturating(app.media.upload_bytes_max())))
}

impl From<UploadError> for Error {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge(_) => Self::too_large(error.to_string()),
            UploadError::QuotaExceeded(_) | UploadError::NotYours => Self::forbidden(error.to_string()),
            UploadError::NotFound => Self::not_found(error.to_string()),
            UploadError::AlreadyUploaded => {
                Self::new(StatusCode::CONFLICT, ErrorKind::CannotOverwriteMedia, error.to_string())
            }
            UploadError::NoSpace => Self::read_only(error),
            UploadError::Io(error) => Self::unavailable(error),
            UploadError::Storage(error) => error.into(),
        }
    }
}

impl From<CreateError> for Error {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::TooMany { retry_after_ms } => {
                Self::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            CreateError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
