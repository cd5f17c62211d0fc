//! Room tagging.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#room-tagging>

use allod_server::tags::TagError;
use ruma::api::client::tag::{create_tag::v3 as create, delete_tag::v3 as delete, get_tags::v3 as get};

use crate::{
    app::App,
    auth::Session,
    client::access::{known_room, own},
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_tags).endpoint(create_tag).endpoint(delete_tag)
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
async fn get_tags(app: App, caller: Session, request: get::Request) -> Result<get::Response> {
    own(&caller, &request.user_id)?;
    let room = known_room(&app, &request.room_id).await?;
    Ok(get::Response::new(app.tags.get(caller.user, room).await?))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
async fn create_tag(app: App, caller: Session, request: create::Request) -> Result<create::Response> {
    own(&caller, &request.user_id)?;
    let room = known_room(&app, &request.room_id).await?;
    app.tags.set(caller.user, room, &request.tag, &request.tag_info).await?;
    Ok(create::Response::new())
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
async fn delete_tag(app: App, caller: Session, request: delete::Request) -> Result<delete::Response> {
    own(&caller, &request.user_id)?;
    let room = known_room(&app, &request.room_id).await?;
    app.tags.remove(caller.user, room, &request.tag).await?;
    Ok(delete::Response::new())
}

impl From<TagError> for Error {
    fn from(error: TagError) -> Self {
        match error {
            TagError::TooLong => Self::invalid_param("The tag is longer than 255 bytes"),
            TagError::TooMany => Self::forbidden("The room has too many tags"),
            TagError::AccountData(error) => error.into(),
        }
    }
}
