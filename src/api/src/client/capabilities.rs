//! What clients may expect of this server and this account (§Capabilities negotiation).

use std::collections::BTreeMap;

use allod_server::config::ROOM_VERSIONS;
use http::StatusCode;
use ruma::api::client::discovery::get_capabilities::v3::{
    AccountModerationCapability, Capabilities, ProfileFieldsCapability, Request, RoomVersionStability,
    RoomVersionsCapability, ThirdPartyIdChangesCapability,
};

use serde_json::json;

use crate::{
    app::App,
    auth::Guest,
    endpoint::Routes,
    error::{Error, Result},
    response::{Response, json_response},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.raw_endpoint(get_capabilities)
}

/// `GET /_matrix/client/v3/capabilities`
///
/// What is left out means something: no room versions means only version 1, no `m.3pid_changes` means allowed. ruma
/// leaves out what is as clients would guess; those that they look for are put back.
async fn get_capabilities(app: App, caller: Guest, _: Request) -> Result<Response> {
    let config = app.config.get();
    let mut capabilities = Capabilities::new();
    let versions = ROOM_VERSIONS.map(|version| (version, RoomVersionStability::Stable));
    let default = config.rooms.default_version.clone();
    capabilities.room_versions = RoomVersionsCapability::new(default, BTreeMap::from(versions));
    capabilities.thirdparty_id_changes = ThirdPartyIdChangesCapability::new(false);
    capabilities.profile_fields = Some(ProfileFieldsCapability::new(true));
    capabilities.account_moderation = AccountModerationCapability::new(caller.admin, caller.admin);
    let mut capabilities = serde_json::to_value(capabilities).map_err(Error::internal)?;
    let change_password = config.accounts.passwords && !caller.guest;
    for (name, enabled) in [
        ("m.change_password", change_password),
        ("m.set_displayname", true),
        ("m.set_avatar_url", true),
        ("m.get_login_token", false),
    ] {
        if let Some(all) = capabilities.as_object_mut() {
            all.insert(name.to_owned(), json!({ "enabled": enabled }));
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "capabilities": capabilities })))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use crate::testing::TestApp;

    const PATH: &str = "/_matrix/client/v3/capabilities";

    #[tokio::test]
    async fn what_clients_guess_wrongly_is_said() {
        let server = TestApp::new().await;
        let token = server.sign_in("@user:example.org", |_| {}).await;
        let capabilities = server.call_as(&token, Method::GET, PATH, "").await.json()["capabilities"].clone();
        assert_eq!(capabilities["m.room_versions"]["default"], "12");
        assert_eq!(capabilities["m.room_versions"]["available"]["6"], "stable");
        assert_eq!(capabilities["m.3pid_changes"], json!({ "enabled": false }));
        assert_eq!(capabilities["m.profile_fields"], json!({ "enabled": true }));
        assert!(capabilities.get("m.account_moderation").is_none());
        let answer = server.call(Method::GET, PATH, "").await;
        assert_eq!(answer.error(), (401, "M_MISSING_TOKEN".into()));
    }

    #[tokio::test]
    async fn administrators_may_lock_and_suspend() {
        let server = TestApp::new().await;
        let token = server.sign_in("@admin:example.org", |account| account.admin = true).await;
        let answer = server.call_as(&token, Method::GET, PATH, "").await.json();
        let moderation = json!({ "suspend": true, "lock": true });
        assert_eq!(answer["capabilities"]["m.account_moderation"], moderation);
    }
}
