//! What this server is.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#server-implementation>

use ruma::api::federation::discovery::get_server_version::v1 as get_server_version;

use crate::{app::App, endpoint::Routes, error::Result};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_server_version)
}

/// `GET /_matrix/federation/v1/version`
async fn get_server_version(
    _: App,
    (): (),
    _: get_server_version::Request,
) -> Result<get_server_version::Response> {
    let mut server = get_server_version::Server::new();
    server.name = Some("allod".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::Response::new();
    response.server = Some(server);
    Ok(response)
}
