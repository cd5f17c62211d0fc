//! The documents by which clients and servers find this server and its people (§Server Discovery).

use allod_server::config::FederationMode;
use http::Method;
use ruma::{
    UserId,
    api::client::discovery::{
        discover_homeserver::{self, HomeserverInfo},
        discover_support::{self, Contact, ContactRole},
    },
};
use serde_json::json;

use crate::{
    app::App,
    client::calls::transports,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    server_routes(routes.endpoint(discover_homeserver).endpoint(discover_support))
}

/// What other servers look for.
pub(crate) fn server_routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, "/.well-known/matrix/server", discover_server)
}

/// `GET /.well-known/matrix/client`
async fn discover_homeserver(
    app: App,
    (): (),
    _: discover_homeserver::Request,
) -> Result<discover_homeserver::Response> {
    let base_url = app.config.get().server.public_url.clone().ok_or_else(not_set)?;
    let mut response = discover_homeserver::Response::new(HomeserverInfo::new(base_url));
    response.rtc_foci = transports(&app)?;
    Ok(response)
}

/// `GET /.well-known/matrix/server`
async fn discover_server(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let config = app.config.get();
    if config.federation.mode == FederationMode::Off && config.calls.livekit_url.is_none() {
        return Err(not_set());
    }
    let address = config.server.federation_address.as_ref().ok_or_else(not_set)?;
    Ok(json_bytes(json!({ "m.server": address }).to_string()))
}

/// `GET /.well-known/matrix/support`
///
/// 404 where nobody is named: the document must name a person or a page.
async fn discover_support(
    app: App,
    (): (),
    _: discover_support::Request,
) -> Result<discover_support::Response> {
    let config = app.config.get();
    let contacts: Vec<Contact> = config.server.contact.iter().map(|contact| administrator(contact)).collect();
    let page = config.server.support_page.clone();
    if contacts.is_empty() && page.is_none() {
        return Err(not_set());
    }
    let mut response = discover_support::Response::with_contacts(contacts);
    response.support_page = page;
    Ok(response)
}

/// A Matrix user id or a mail address.
fn administrator(contact: &str) -> Contact {
    match UserId::parse(contact) {
        Ok(user_id) => Contact::with_matrix_id(ContactRole::Admin, user_id),
        Err(_) => Contact::with_email_address(ContactRole::Admin, contact.to_owned()),
    }
}

/// 404 `M_NOT_FOUND`: clients and servers then go by the server's name alone.
fn not_set() -> Error {
    Error::not_found("This server has no such document")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        router,
        testing::{TestApp, config},
    };

    async fn get(server: &TestApp, document: &str) -> (u16, serde_json::Value) {
        let answer = server.call(Method::GET, &format!("/.well-known/matrix/{document}"), "").await;
        (answer.status.as_u16(), answer.json())
    }

    #[tokio::test]
    async fn what_is_not_set_is_not_found() {
        let server = TestApp::new().await;
        for document in ["client", "server", "support"] {
            assert_eq!(get(&server, document).await.0, 404, "{document}");
        }
    }

    #[tokio::test]
    async fn documents_say_what_is_set() {
        let mut config = config();
        config.server.public_url = Some("https://matrix.example.org".to_owned());
        config.server.federation_address = Some("matrix.example.org:443".to_owned());
        config.server.contact = Some("@admin:example.org".to_owned());
        config.federation.mode = FederationMode::Open;
        let server = TestApp::with(config, router::build).await;
        let client = json!({ "m.homeserver": { "base_url": "https://matrix.example.org" } });
        assert_eq!(get(&server, "client").await, (200, client));
        assert_eq!(get(&server, "server").await, (200, json!({ "m.server": "matrix.example.org:443" })));
        let contact = json!({ "role": "m.role.admin", "matrix_id": "@admin:example.org" });
        assert_eq!(get(&server, "support").await, (200, json!({ "contacts": [contact] })));
    }
}
