//! Filtering.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use std::sync::Arc;

use allod_server::filters::FilterError;
use ruma::api::client::filter::{create_filter::v3 as create, get_filter::v3 as get};

use crate::{
    app::App,
    auth::Session,
    client::access::own,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(create_filter).endpoint(get_filter)
}

/// `POST /_matrix/client/v3/user/{userId}/filter`
async fn create_filter(app: App, caller: Session, request: create::Request) -> Result<create::Response> {
    own(&caller, &request.user_id)?;
    Ok(create::Response::new(app.filters.create(caller.user, &request.filter).await?))
}

/// `GET /_matrix/client/v3/user/{userId}/filter/{filterId}`
async fn get_filter(app: App, caller: Session, request: get::Request) -> Result<get::Response> {
    own(&caller, &request.user_id)?;
    let filter = app.filters.get(caller.user, &request.filter_id).await?;
    let filter = filter.ok_or_else(|| Error::not_found("There is no such filter"))?;
    Ok(get::Response::new(Arc::unwrap_or_clone(filter)))
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        match error {
            FilterError::TooLarge => Self::too_large("This filter is too large"),
            FilterError::TooMany => Self::forbidden("You have too many filters"),
            FilterError::Database(error) => error.into(),
        }
    }
}
