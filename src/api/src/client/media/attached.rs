//! Files that are attached to events (MSC3911): uploaded for their uploader alone, and then for whoever may read the event.
//!
//! Attaching is a parameter of sending the event. <https://github.com/matrix-org/matrix-spec-proposals/pull/3911>

use std::time::Duration;

use allod_server::media::{AttachError, CopyError, Description, Wanted};
use http::{Method, header};
use ruma::ServerName;
use serde_json::json;

use super::{created, receive};
use crate::{
    app::App,
    auth::Active,
    body::Upload,
    client::room::caller,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, from_ruma, json_response},
};

const UPLOAD: &str = "/_matrix/client/unstable/org.matrix.msc3911/media/upload";
const CREATE: &str = "/_matrix/client/unstable/org.matrix.msc3911/media/create";
const COPY: &str = "/_matrix/client/unstable/org.matrix.msc3911/media/copy/{server_name}/{media_id}";
/// How long a copy waits for a file that is not uploaded yet.
const WAIT: Duration = Duration::from_secs(20);

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .upload_route(&Method::POST, UPLOAD, create_content)
        .route(&Method::POST, CREATE, create_mxc_uri)
        .route(&Method::POST, COPY, copy_content)
}

/// `POST /_matrix/client/unstable/org.matrix.msc3911/media/upload`
async fn create_content(app: App, session: Active, request: PlainRequest, body: Upload) -> Result<Response> {
    let query = request.parts.uri.query().unwrap_or_default();
    let file_name = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "filename");
    let content_type = request.parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let description = Description {
        content_type: content_type.map(str::to_owned),
        file_name: file_name.map(|(_, name)| name.into_owned()),
    };
    let media = app.media.upload_restricted(session.user, body.announced_bytes()).await?;
    let content_uri = receive(media, body, description).await?;
    Ok(json_response(http::StatusCode::OK, &json!({ "content_uri": content_uri })))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3911/media/create`
async fn create_mxc_uri(app: App, session: Active, request: PlainRequest) -> Result<Response> {
    // Nothing in it is asked for, but a body must be an object.
    request.json::<serde_json::Map<String, serde_json::Value>>()?;
    let (content_uri, expires_ms) = app.media.create_restricted(session.user).await?;
    from_ruma(created(content_uri, expires_ms))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3911/media/copy/{serverName}/{mediaId}`
async fn copy_content(app: App, session: Active, request: PlainRequest) -> Result<Response> {
    request.json::<serde_json::Map<String, serde_json::Value>>()?;
    let [server, media_id] = request.args.as_slice() else { return Err(Error::unrecognized()) };
    let server =
        ServerName::parse(server.as_str()).map_err(|_| Error::invalid_param("This is no server's name"))?;
    let caller = caller(&session);
    let wanted = Wanted::by_account(&caller, &server, media_id, WAIT);
    let content_uri = app.media.copy(session.user, wanted).await?;
    Ok(json_response(http::StatusCode::OK, &json!({ "content_uri": content_uri })))
}

impl From<AttachError> for Error {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::NotAttachable(_) | AttachError::Attached(_) | AttachError::TooMany => {
                Self::invalid_param(error.to_string())
            }
            AttachError::Storage(error) => error.into(),
        }
    }
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Content(error) => error.into(),
            CopyError::Upload(error) => error.into(),
        }
    }
}
