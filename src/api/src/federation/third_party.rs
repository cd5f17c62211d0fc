//! Invitations by address.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use allod_server::federation::membership::Bound;
use ruma::{
    api::federation::thirdparty::{
        bind_callback::v1 as bind_callback, exchange_invite::v1 as exchange_invite,
    },
    events::StateEventType,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    app::App,
    auth::Origin,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(exchange_third_party_invite).endpoint(bind_callback)
}

/// What counts of the content of a member event.
#[derive(Deserialize)]
struct Content {
    third_party_invite: ThirdPartyInvite,
}

#[derive(Deserialize)]
struct ThirdPartyInvite {
    signed: Map<String, Value>,
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
async fn exchange_third_party_invite(
    app: App,
    origin: Origin,
    request: exchange_invite::Request,
) -> Result<exchange_invite::Response> {
    if request.kind != StateEventType::RoomMember {
        return Err(Error::invalid_param("The event is no membership"));
    }
    let content: Content = serde_json::from_str(request.content.json().get())
        .map_err(|_| Error::bad_json("The event has nothing that an identity server signed"))?;
    let signed = content.third_party_invite.signed;
    app.memberships.exchange(&origin, &request.room_id, &request.state_key, &signed).await?;
    Ok(exchange_invite::Response::new())
}

/// `PUT /_matrix/federation/v1/3pid/onbind`
async fn bind_callback(app: App, (): (), request: bind_callback::Request) -> Result<bind_callback::Response> {
    let invitations = request.invites.into_iter().filter(|invite| invite.mxid == request.mxid);
    let invitations = invitations.filter_map(|invite| {
        let signed = serde_json::from_str(invite.signed.json().get()).ok()?;
        Some(Bound { room_id: invite.room_id, sender: invite.sender, signed })
    });
    app.memberships.on_bind(&request.mxid, invitations.collect()).await?;
    Ok(bind_callback::Response::new())
}
