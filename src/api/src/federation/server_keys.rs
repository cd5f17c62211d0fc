//! Signing keys: this server's own, and as a notary those of others.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

use allod_server::federation::{Federation, own_keys::SigningFailed};
use futures_util::{StreamExt, stream};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys::v2 as get_one,
        get_remote_server_keys_batch::v2 as get_many, get_server_keys::v2 as get_own,
    },
    serde::Raw,
};

use super::federation;
use crate::{
    app::App,
    endpoint::Routes,
    error::{Error, Result},
};

/// Servers that one request may ask for.
const SERVERS_MAX: usize = 100;
/// Servers that are asked at the same time for one request.
const SERVERS_AT_ONCE: usize = 10;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_server_keys).endpoint(get_remote_server_keys).endpoint(get_remote_server_keys_batch)
}

/// `GET /_matrix/key/v2/server`
async fn get_server_keys(app: App, (): (), _: get_own::Request) -> Result<get_own::Response> {
    let document = federation(&app)?.own_keys.document()?;
    Ok(get_own::Response::new(Raw::from_json(document)))
}

/// `GET /_matrix/key/v2/query/{serverName}`
async fn get_remote_server_keys(app: App, (): (), request: get_one::Request) -> Result<get_one::Response> {
    let valid_until = Some(request.minimum_valid_until_ts);
    let document = witnessed(&app, federation(&app)?, request.server_name, valid_until).await?;
    Ok(get_one::Response::new(document.into_iter().collect()))
}

/// `POST /_matrix/key/v2/query`
async fn get_remote_server_keys_batch(
    app: App,
    (): (),
    request: get_many::Request,
) -> Result<get_many::Response> {
    if request.server_keys.len() > SERVERS_MAX {
        return Err(Error::invalid_param(format!("More than {SERVERS_MAX} servers at once")));
    }
    let federation = federation(&app)?;
    let asked = request.server_keys.into_iter().map(|(server, keys)| {
        let valid_until = keys.values().filter_map(|wanted| wanted.minimum_valid_until_ts).max();
        witnessed(&app, federation, server, valid_until)
    });
    let mut documents = Vec::new();
    let mut found = stream::iter(asked).buffered(SERVERS_AT_ONCE);
    while let Some(document) = found.next().await {
        documents.extend(document?);
    }
    Ok(get_many::Response::new(documents))
}

/// A server's document with this server's signature under it; none if there is none to be had.
async fn witnessed(
    app: &App,
    federation: &Federation,
    server: OwnedServerName,
    valid_until: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<Option<Raw<ServerSigningKeys>>> {
    if server == app.users.server_name() {
        return Ok(Some(Raw::from_json(federation.own_keys.document()?)));
    }
    let valid_until_ms = valid_until.map_or_else(|| app.clock.now_ms(), |until| until.get().into());
    let Some(document) = federation.keys.document(&server, valid_until_ms).await? else { return Ok(None) };
    Ok(Some(Raw::from_json(federation.own_keys.witness(&document)?)))
}

impl From<SigningFailed> for Error {
    fn from(error: SigningFailed) -> Self {
        match error {
            SigningFailed => Self::internal(error),
        }
    }
}
