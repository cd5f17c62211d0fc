//! What administrators see and do of accounts (§Server Administration).

use allod_server::{audit::Actor, numbers::UserNumber, tables::accounts::AccountRow};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt, UserId,
    api::client::admin::{
        get_user_info::{
            self,
            v3::{ConnectionInfo, DeviceInfo, SessionInfo},
        },
        is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};

use crate::{
    app::App,
    auth::{Admin, Session},
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_user_info)
        .endpoint(is_user_locked)
        .endpoint(lock_user)
        .endpoint(is_user_suspended)
        .endpoint(suspend_user)
}

/// `GET /_matrix/client/v3/admin/whois/{userId}`
async fn get_user_info(
    app: App,
    caller: Session,
    request: get_user_info::v3::Request,
) -> Result<get_user_info::v3::Response> {
    if !caller.admin && caller.user_id != request.user_id {
        return Err(Error::forbidden("You are not a server administrator"));
    }
    let (user, _) = local_account(&app, &request.user_id).await?;
    let seen = app.devices.last_seen(user).await?;
    let mut response = get_user_info::v3::Response::new();
    response.user_id = Some(request.user_id);
    for device in app.devices.list(user).await?.iter() {
        let mut session = SessionInfo::new();
        if let Some((_, seen)) = seen.iter().find(|(number, _)| *number == device.number) {
            let mut connection = ConnectionInfo::new();
            connection.ip.clone_from(&seen.network);
            connection.last_seen = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(seen.seen_ms)));
            session.connections.push(connection);
        }
        let mut info = DeviceInfo::new();
        info.sessions.push(session);
        response.devices.insert(device.id.to_string(), info);
    }
    Ok(response)
}

/// `GET /_matrix/client/v1/admin/lock/{userId}`
async fn is_user_locked(
    app: App,
    _: Admin,
    request: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response> {
    let (_, account) = active_account(&app, &request.user_id).await?;
    Ok(is_user_locked::v1::Response::new(account.locked))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
async fn lock_user(
    app: App,
    caller: Admin,
    request: lock_user::v1::Request,
) -> Result<lock_user::v1::Response> {
    let user = moderated(&app, &caller, &request.user_id).await?;
    app.accounts.set_locked(Actor::User(caller.user), user, request.locked).await?;
    Ok(lock_user::v1::Response::new(request.locked))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
async fn is_user_suspended(
    app: App,
    _: Admin,
    request: is_user_suspended::v1::Request,
) -> Result<is_user_suspended::v1::Response> {
    let (_, account) = active_account(&app, &request.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(account.suspended))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
async fn suspend_user(
    app: App,
    caller: Admin,
    request: suspend_user::v1::Request,
) -> Result<suspend_user::v1::Response> {
    let user = moderated(&app, &caller, &request.user_id).await?;
    app.accounts.set_suspended(Actor::User(caller.user), user, request.suspended).await?;
    Ok(suspend_user::v1::Response::new(request.suspended))
}

/// An account of this server: 400 for another server's user, 404 where there is none.
async fn local_account(app: &App, user_id: &UserId) -> Result<(UserNumber, AccountRow)> {
    if !app.users.is_local(user_id) {
        return Err(Error::invalid_param("This is not a user of this server"));
    }
    let unknown = || Error::not_found("No such account");
    let user = app.users.number(user_id).await?.ok_or_else(unknown)?;
    let account = app.users.account(user).await?.ok_or_else(unknown)?;
    Ok((user, account))
}

/// As [`local_account`]; 404 also for one that is deactivated.
async fn active_account(app: &App, user_id: &UserId) -> Result<(UserNumber, AccountRow)> {
    let (user, account) = local_account(app, user_id).await?;
    if account.deactivated_ms.is_some() {
        return Err(Error::not_found("No such account"));
    }
    Ok((user, account))
}

/// An account that this administrator may lock or suspend: 403 for their own and other administrators'.
async fn moderated(app: &App, caller: &Admin, user_id: &UserId) -> Result<UserNumber> {
    let (user, account) = active_account(app, user_id).await?;
    if user == caller.user || account.admin {
        return Err(Error::forbidden("Administrators cannot be locked or suspended"));
    }
    Ok(user)
}

#[cfg(test)]
mod tests;
