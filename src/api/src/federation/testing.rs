//! A partner server for tests: it has a key that the server under test knows, and signs requests.

use allod_server::{federation::own_keys::OwnKeys, identity::Identity, random::Random};
use axum::body::Body;
use http::{Method, Request, header};
use ruma::{
    OwnedServerName, ServerName,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
};

use crate::testing::{Answer, TestApp};

/// The partner.
pub(crate) struct Peer {
    pub(crate) identity: Identity,
}

impl Peer {
    /// A server whose key is unknown.
    pub(crate) fn stranger(name: &str) -> Self {
        let name = OwnedServerName::try_from(name).unwrap();
        Self { identity: Identity::ephemeral(name, &Random::seeded(77)).unwrap() }
    }

    /// A server whose key `server` knows.
    pub(crate) async fn of(server: &TestApp, name: &str) -> Self {
        let peer = Self::stranger(name);
        let document = OwnKeys::new(peer.identity.clone(), server.clock.clone()).document().unwrap();
        let keys = &server.app.federation.as_ref().unwrap().keys;
        keys.learn(peer.identity.server_name(), document.get()).await.unwrap();
        peer
    }

    /// The header of a request.
    pub(crate) fn sign(&self, destination: &ServerName, method: &Method, path: &str, body: &str) -> String {
        let request = Request::builder().method(method).uri(path).body(body.as_bytes()).unwrap();
        let name = self.identity.server_name().to_owned();
        let input = XMatrixSigningInput::new(name, destination.to_owned(), self.identity.key());
        XMatrix::sign_http_request(&request, input).unwrap().to_string()
    }

    /// Sends a signed request.
    pub(crate) async fn call(&self, server: &TestApp, method: Method, path: &str, body: &str) -> Answer {
        let header = self.sign(server.app.users.server_name(), &method, path, body);
        send(server, method, path, body, &[&header]).await
    }
}

/// Sends a request with these `Authorization` headers.
pub(crate) async fn send(
    server: &TestApp,
    method: Method,
    path: &str,
    body: &str,
    headers: &[&str],
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for value in headers {
        request = request.header(header::AUTHORIZATION, *value);
    }
    server.send(request.body(Body::from(body.to_owned())).unwrap()).await
}
