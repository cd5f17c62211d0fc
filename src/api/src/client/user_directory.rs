//! Finding users.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#user-directory>

use ruma::api::client::user_directory::search_users::v3::{self as search, User};

use crate::{app::App, auth::Session, client::room::caller, endpoint::Routes, error::Result};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(search_users)
}

/// `POST /_matrix/client/v3/user_directory/search`
async fn search_users(app: App, session: Session, request: search::Request) -> Result<search::Response> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let found = app.user_directory.search(&caller(&session), &request.search_term, limit).await?;
    let results = found.users.into_iter().map(|found| {
        let mut user = User::new(found.user_id);
        user.display_name = found.profile.displayname;
        user.avatar_url = found.profile.avatar_url.map(Into::into);
        user
    });
    Ok(search::Response::new(results.collect(), found.limited))
}

#[cfg(test)]
mod tests;
