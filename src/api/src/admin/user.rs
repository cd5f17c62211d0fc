//! Accounts, for administrators on the admin socket: `allod user` calls these.

use allod_server::{
    accounts::NewAccount,
    addresses::AddressError,
    audit::Actor,
    numbers::UserNumber,
    tables::accounts::AccountKind,
    users::names::{new_user_id, sign_in_candidates},
};
use http::Method;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

/// Accounts on one page at most.
const PAGE_MAX: usize = 1000;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route(&Method::GET, "/_allod/admin/v1/users", list_users)
        .route(&Method::POST, "/_allod/admin/v1/users", create_user)
        .route(&Method::POST, "/_allod/admin/v1/users/{name}/password", reset_password)
        .route(&Method::GET, "/_allod/admin/v1/users/{name}/addresses", list_addresses)
        .route(&Method::POST, "/_allod/admin/v1/users/{name}/addresses", add_address)
        .route(&Method::DELETE, "/_allod/admin/v1/users/{name}/addresses/{address}", remove_address)
}

/// `GET /_allod/admin/v1/users?limit=…&after=…`
async fn list_users(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let query = request.parts.uri.query().unwrap_or_default();
    let number = |key: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u32>().ok())
    };
    let limit = number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_MAX);
    let (page, more) =
        app.users.list_accounts(number("after").map(UserNumber), limit.clamp(1, PAGE_MAX)).await?;
    let numbers: Vec<UserNumber> = page.iter().map(|(user, _)| *user).collect();
    let ids = app.users.ids(&numbers).await?;
    let users: Vec<Value> = page
        .iter()
        .zip(ids)
        .map(|((_, account), id)| {
            json!({
                "user_id": id,
                "created_ms": account.created_ms,
                "guest": account.kind == AccountKind::Guest,
                "admin": account.admin,
                "locked": account.locked,
                "suspended": account.suspended,
                "deactivated": account.deactivated_ms.is_some(),
            })
        })
        .collect();
    let next = numbers.last().filter(|_| more).map(|number| number.0);
    Ok(json_bytes(json!({ "users": users, "next": next }).to_string()))
}

#[derive(Deserialize)]
struct CreateUser {
    name: String,
    password: String,
    #[serde(default)]
    admin: bool,
}

/// `POST /_allod/admin/v1/users`
async fn create_user(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let body: CreateUser = request.json()?;
    let server_name = app.users.server_name();
    // The whole id is as good as the name.
    let name = body.name.strip_prefix('@').unwrap_or(&body.name);
    let name = name.strip_suffix(&format!(":{server_name}")).unwrap_or(name);
    let account = NewAccount {
        user_id: new_user_id(name, server_name)?,
        kind: AccountKind::User,
        admin: body.admin,
        password_hash: Some(app.accounts.hash_password(body.password).await?),
    };
    app.accounts.create(Actor::Operator, &account).await?;
    Ok(json_bytes(json!({ "user_id": account.user_id }).to_string()))
}

#[derive(Deserialize)]
struct ResetPassword {
    password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

fn yes() -> bool {
    true
}

/// `POST /_allod/admin/v1/users/{name}/password`
async fn reset_password(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let body: ResetPassword = request.json()?;
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let (user_id, user) = find(&app, name).await?;
    app.accounts.set_password(Actor::Operator, user, body.password, body.logout_devices, None).await?;
    Ok(json_bytes(json!({ "user_id": user_id }).to_string()))
}

/// `GET /_allod/admin/v1/users/{name}/addresses`
async fn list_addresses(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let (user_id, user) = find(&app, name).await?;
    let rows = app.addresses.list(user).await?;
    let addresses: Vec<Value> =
        rows.iter().map(|row| json!({ "address": row.address, "added_ms": row.added_ms })).collect();
    Ok(json_bytes(json!({ "user_id": user_id, "addresses": addresses }).to_string()))
}

#[derive(Deserialize)]
struct AddAddress {
    address: String,
}

/// `POST /_allod/admin/v1/users/{name}/addresses`
///
/// Who adds an address vouches for it: the person gets no mail that asks.
async fn add_address(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let body: AddAddress = request.json()?;
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let (user_id, user) = find(&app, name).await?;
    app.addresses.add(Actor::Operator, user, &body.address).await?;
    Ok(json_bytes(json!({ "user_id": user_id }).to_string()))
}

/// `DELETE /_allod/admin/v1/users/{name}/addresses/{address}`
async fn remove_address(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let [name, address] = request.args.as_slice() else {
        return Err(Error::not_found("There is no such account"));
    };
    let (user_id, user) = find(&app, name).await?;
    if !app.addresses.remove(Actor::Operator, user, address).await? {
        return Err(Error::not_found(format!("{user_id} has no such address")));
    }
    Ok(json_bytes(json!({ "user_id": user_id }).to_string()))
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        let message = error.to_string();
        match error {
            AddressError::Malformed => Self::invalid_param(message),
            AddressError::TooMany => Self::forbidden(message),
            AddressError::Storage(error) => error.into(),
        }
    }
}

/// The account of this name or id.
pub(super) async fn find(app: &App, name: &str) -> Result<(OwnedUserId, UserNumber)> {
    for user_id in sign_in_candidates(name, app.users.server_name()) {
        if let Some(user) = app.users.number(&user_id).await?
            && app.users.account(user).await?.is_some()
        {
            return Ok((user_id, user));
        }
    }
    Err(Error::not_found(format!("There is no account \"{name}\" on {}", app.users.server_name())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{router, testing::TestApp};

    async fn call(admin: &TestApp, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let answer = admin.call(method, path, body.to_string()).await;
        (answer.status.as_u16(), answer.json())
    }

    #[tokio::test]
    async fn accounts_are_made_listed_and_given_passwords() {
        let server = TestApp::with(crate::testing::config(), router::build_admin).await;
        let users = "/_allod/admin/v1/users";
        let anna = json!({ "name": "anna", "password": "long enough", "admin": true });
        let made = call(&server, Method::POST, users, &anna).await;
        assert_eq!(made, (200, json!({ "user_id": "@anna:example.org" })));
        let body = json!({ "name": "@bert:example.org", "password": "long enough" });
        assert_eq!(call(&server, Method::POST, users, &body).await.0, 200);
        assert_eq!(call(&server, Method::POST, users, &body).await.1["errcode"], "M_USER_IN_USE");

        let (_, first) = call(&server, Method::GET, "/_allod/admin/v1/users?limit=1", &json!({})).await;
        assert_eq!(first["users"][0]["user_id"], "@anna:example.org");
        assert_eq!(first["users"][0]["admin"], true);
        let path = format!("/_allod/admin/v1/users?limit=1&after={}", first["next"]);
        let (_, second) = call(&server, Method::GET, &path, &json!({})).await;
        assert_eq!(second["users"][0]["user_id"], "@bert:example.org");
        assert_eq!(second["next"], Value::Null);

        let path = "/_allod/admin/v1/users/bert/password";
        let (status, _) = call(&server, Method::POST, path, &json!({ "password": "another one" })).await;
        assert_eq!(status, 200);
        assert!(
            server.app.accounts.check_password("bert", "another one".to_owned()).await.unwrap().is_some()
        );
        let path = "/_allod/admin/v1/users/carl/password";
        assert_eq!(call(&server, Method::POST, path, &json!({ "password": "another one" })).await.0, 404);
    }

    #[tokio::test]
    async fn clients_do_not_reach_them() {
        let server = TestApp::new().await;
        assert_eq!(call(&server, Method::GET, "/_allod/admin/v1/users", &json!({})).await.0, 404);
    }
}
