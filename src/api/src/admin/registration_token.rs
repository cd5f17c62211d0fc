//! Registration tokens, for administrators on the admin socket: `allod registration-token` calls these.

use allod_server::{
    audit::Actor,
    registration_tokens::{Limits, RegistrationTokenError},
    tables::accounts::RegistrationTokenRow,
};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    let path = "/_allod/admin/v1/registration_tokens";
    routes
        .route(&Method::GET, path, list_registration_tokens)
        .route(&Method::POST, path, create_registration_token)
        .route(&Method::DELETE, "/_allod/admin/v1/registration_tokens/{token}", delete_registration_token)
}

impl From<RegistrationTokenError> for Error {
    fn from(error: RegistrationTokenError) -> Self {
        match error {
            RegistrationTokenError::NotFound => Self::not_found("There is no such registration token"),
            RegistrationTokenError::Taken
            | RegistrationTokenError::BadText
            | RegistrationTokenError::Expired => Self::invalid_param(error.to_string()),
            RegistrationTokenError::Storage(error) => error.into(),
        }
    }
}

/// `GET /_allod/admin/v1/registration_tokens`
async fn list_registration_tokens(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let tokens = app.registration_tokens.list().await?;
    let tokens: Vec<Value> = tokens.iter().map(|row| token_json(&app, row)).collect();
    Ok(json_bytes(json!({ "registration_tokens": tokens }).to_string()))
}

#[derive(Deserialize)]
struct CreateRegistrationToken {
    token: Option<String>,
    uses_allowed: Option<u32>,
    /// How long it can be used, from now on.
    valid_ms: Option<u64>,
}

/// `POST /_allod/admin/v1/registration_tokens`
async fn create_registration_token(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let body: CreateRegistrationToken = request.json()?;
    let expires_ms = body.valid_ms.map(|valid| app.clock.now_ms().saturating_add(valid));
    let limits = Limits { uses_allowed: body.uses_allowed, expires_ms };
    let row = app.registration_tokens.create(Actor::Operator, body.token, limits).await?;
    Ok(json_bytes(token_json(&app, &row).to_string()))
}

/// `DELETE /_allod/admin/v1/registration_tokens/{token}`
async fn delete_registration_token(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let token = request.args.first().map(String::as_str).unwrap_or_default();
    app.registration_tokens.delete(Actor::Operator, token).await?;
    Ok(json_bytes("{}"))
}

fn token_json(app: &App, row: &RegistrationTokenRow) -> Value {
    json!({
        "token": row.token,
        "uses": row.uses,
        "uses_allowed": row.uses_allowed,
        "expires_ms": row.expires_ms,
        "usable": app.registration_tokens.is_usable(row),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{router, testing::TestApp};

    #[tokio::test]
    async fn tokens_are_made_listed_and_deleted() {
        let server = TestApp::with(crate::testing::config(), router::build_admin).await;
        let path = "/_allod/admin/v1/registration_tokens";
        let body = json!({ "token": "for-the-team", "uses_allowed": 5, "valid_ms": 60_000 });
        let made = server.call(Method::POST, path, body.to_string()).await.json();
        assert_eq!((&made["uses_allowed"], &made["usable"]), (&json!(5), &json!(true)));
        assert_eq!(server.call(Method::POST, path, body.to_string()).await.error().1, "M_INVALID_PARAM");
        let chosen = server.call(Method::POST, path, "{}").await.json();
        assert_eq!(chosen["expires_ms"], Value::Null);
        server.clock.advance(std::time::Duration::from_secs(61));
        let listed = server.call(Method::GET, path, "").await.json();
        let listed = listed["registration_tokens"].as_array().unwrap().clone();
        let usable =
            |token: &Value| listed.iter().find(|row| row["token"] == *token).unwrap()["usable"].clone();
        assert_eq!((usable(&made["token"]), usable(&chosen["token"])), (json!(false), json!(true)));
        let one = format!("{path}/for-the-team");
        assert_eq!(server.call(Method::DELETE, &one, "").await.status.as_u16(), 200);
        assert_eq!(server.call(Method::DELETE, &one, "").await.status.as_u16(), 404);
    }
}
