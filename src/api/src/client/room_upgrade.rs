//! Upgrading rooms.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-upgrades>

use allod_server::{
    config::Who,
    rooms::upgrade::{Upgrade, UpgradeError},
};
use ruma::api::client::room::upgrade_room::v3 as upgrade;

use crate::{
    app::App,
    auth::Active,
    client::room::caller,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(upgrade_room)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
async fn upgrade_room(app: App, session: Active, request: upgrade::Request) -> Result<upgrade::Response> {
    if app.config.get().rooms.create == Who::Admins && !session.admin {
        return Err(Error::forbidden("Only administrators may create rooms on this server"));
    }
    let caller = caller(&session);
    let wanted = Upgrade { version: &request.new_version, additional_creators: &request.additional_creators };
    let room = app.rooms.upgrade(&request.room_id, &caller, &wanted).await?;
    app.succession.joined(&caller, &room).await?;
    Ok(upgrade::Response::new(room.room_id.clone()))
}

impl From<UpgradeError> for Error {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::UnknownRoom => Self::not_found("This server does not know the room"),
            UpgradeError::Forbidden => Self::forbidden("You may not upgrade this room"),
            UpgradeError::Create(error) => error.into(),
            UpgradeError::Append(error) => error.into(),
            UpgradeError::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
