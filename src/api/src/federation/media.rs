//! Files of this server for other servers: two parts, of which the second is the file.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#content-repository>

use std::time::Duration;

use allod_server::{
    config::Refusable,
    media::{Content, Wanted},
};
use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use ruma::api::federation::authenticated_media::{
    get_content::v1 as content, get_content_thumbnail::v1 as thumbnail,
};

use crate::{
    app::App,
    auth::Origin,
    client::media::{serve, thumbnail as thumbnails},
    endpoint::Routes,
    error::{Error, Result},
    federation::permit,
    response::Response,
};

/// Letters of a boundary: enough that no file holds it.
const BOUNDARY_LETTERS: usize = 40;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(get_content).raw_endpoint(get_content_thumbnail)
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
async fn get_content(app: App, origin: Origin, request: content::Request) -> Result<Response> {
    permit(&app, &origin, Refusable::Media)?;
    let content = app.media.content(own(&app, &origin, &request.media_id, request.timeout_ms)).await?;
    in_parts(&app, content).await
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
async fn get_content_thumbnail(app: App, origin: Origin, request: thumbnail::Request) -> Result<Response> {
    permit(&app, &origin, Refusable::Media)?;
    let wanted = own(&app, &origin, &request.media_id, request.timeout_ms);
    let size = thumbnails::size(request.width, request.height, request.method.as_ref(), request.animated);
    let content = app.media.thumbnail(wanted, size).await?;
    in_parts(&app, content).await
}

/// A file of this server's: others are asked of the server that has them.
fn own<'a>(app: &'a App, origin: &'a Origin, media_id: &'a str, wait: Duration) -> Wanted<'a> {
    Wanted::by_server(origin, app.users.server_name(), media_id, wait)
}

async fn in_parts(app: &App, content: Content) -> Result<Response> {
    let boundary = app.media.boundary(BOUNDARY_LETTERS);
    let restrictions = &content.restrictions;
    let json_part = format!("Content-Type: application/json\r\n\r\n{restrictions}");
    let mut head = format!("--{boundary}\r\n{json_part}\r\n--{boundary}\r\n").into_bytes();
    let mut described = http::HeaderMap::new();
    serve::describe(&mut described, &content, None);
    for (name, value) in &described {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let reader = app.media.read(&content, 0, content.bytes).await?;
    let file = serve::pieces(reader);
    let whole = stream::iter([Ok(Bytes::from(head))]).chain(file).chain(stream::iter([Ok(tail)]));
    let mut response = Response::new(Body::from_stream(whole));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type).map_err(Error::internal)?;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use allod_server::{config::FederationMode, media::Description};
    use http::Method;

    use crate::{
        federation::testing::{Peer, send},
        testing::{TestApp, config},
    };

    #[tokio::test]
    async fn other_servers_get_files_in_two_parts() {
        let mut config = config();
        config.federation.mode = FederationMode::Open;
        let server = TestApp::with(config, crate::router::build).await;
        let peer = Peer::of(&server, "peer.example").await;
        let mut upload = server.app.media.upload(allod_server::numbers::UserNumber(1), 0).await.unwrap();
        upload.write(b"hello").await.unwrap();
        let description =
            Description { content_type: Some("text/plain".into()), file_name: Some("\u{1f414}".into()) };
        let uri = upload.finish(description).await.unwrap();
        let media_id = uri.parts().unwrap().1;
        let path = format!("/_matrix/federation/v1/media/download/{media_id}");
        let answer = peer.call(&server, Method::GET, &path, "").await;
        assert_eq!(answer.status, 200);
        let content_type = answer.headers["content-type"].to_str().unwrap();
        let boundary = content_type.strip_prefix("multipart/mixed; boundary=").unwrap();
        let expected = format!(
            "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
             content-type: text/plain\r\ncontent-disposition: inline; filename*=utf-8''%F0%9F%90%94\r\n\r\n\
             hello\r\n--{boundary}--\r\n"
        );
        assert_eq!(answer.text, expected);
        assert_eq!(send(&server, Method::GET, &path, "", &[]).await.status, 401);
        let path = "/_matrix/federation/v1/media/download/unknown";
        assert_eq!(peer.call(&server, Method::GET, path, "").await.error(), (404, "M_NOT_FOUND".into()));
        let path = format!("/_matrix/federation/v1/media/thumbnail/{media_id}?width=32&height=32");
        assert_eq!(peer.call(&server, Method::GET, &path, "").await.error(), (400, "M_UNKNOWN".into()));
    }
}
