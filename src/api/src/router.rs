//! The table of contents: every chapter of the API, and the way from a path to an endpoint.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    middleware,
    routing::any,
};
use http::{HeaderValue, Method, header, request::Parts};
use tokio::time::timeout;

use crate::{
    address::{Client, Peer},
    admin,
    app::App,
    client,
    endpoint::{Call, Endpoint, Routes},
    envelope::{self, RequestId, Served},
    error::{Error, Result},
    federation,
    limits::Patience,
    response::Response,
};

/// Every chapter that clients see.
pub(crate) fn routes() -> Routes {
    let routes = Routes::default();
    let routes = client::versions::routes(routes);
    let routes = client::capabilities::routes(routes);
    let routes = client::register::routes(routes);
    let routes = client::login::routes(routes);
    let routes = client::logout::routes(routes);
    let routes = client::uiaa::routes(routes);
    let routes = client::account::routes(routes);
    let routes = client::contact::routes(routes);
    let routes = client::device::routes(routes);
    let routes = client::moderation::routes(routes);
    let routes = admin::register::routes(routes);
    let routes = admin::server_notice::routes(routes);
    let routes = admin::room::synapse_routes(routes);
    let routes = client::account_data::routes(routes);
    let routes = client::delayed_event::routes(routes);
    let routes = client::thread_subscription::routes(routes);
    let routes = client::tag::routes(routes);
    let routes = client::filter::routes(routes);
    let routes = client::push_rule::routes(routes);
    let routes = client::push::routes(routes);
    let routes = client::receipt::routes(routes);
    let routes = client::read_marker::routes(routes);
    let routes = client::typing::routes(routes);
    let routes = client::presence::routes(routes);
    let routes = client::to_device::routes(routes);
    let routes = client::keys::routes(routes);
    let routes = client::dehydrated_device::routes(routes);
    let routes = client::backup::routes(routes);
    let routes = client::room::routes(routes);
    let routes = client::membership::routes(routes);
    let routes = client::message::routes(routes);
    let routes = client::history::routes(routes);
    let routes = client::relation::routes(routes);
    let routes = client::thread::routes(routes);
    let routes = client::profile::routes(routes);
    let routes = client::directory::routes(routes);
    let routes = client::room_summary::routes(routes);
    let routes = client::search::routes(routes);
    let routes = client::space::routes(routes);
    let routes = client::timestamp::routes(routes);
    let routes = client::report::routes(routes);
    let routes = client::mutual_rooms::routes(routes);
    let routes = client::user_directory::routes(routes);
    let routes = client::appservice::routes(routes);
    let routes = client::calls::routes(routes);
    let routes = client::room_upgrade::routes(routes);
    let routes = client::media::routes(routes);
    let routes = admin::media::synapse::routes(routes);
    let routes = client::sync::routes(routes);
    client::discovery::routes(routes)
}

/// Every chapter that other servers see.
pub(crate) fn federation_routes(routes: Routes) -> Routes {
    let routes = federation::server_keys::routes(routes);
    let routes = federation::version::routes(routes);
    let routes = federation::query::routes(routes);
    let routes = federation::public_rooms::routes(routes);
    let routes = federation::openid::routes(routes);
    let routes = federation::user::routes(routes);
    let routes = federation::transaction::routes(routes);
    let routes = federation::event::routes(routes);
    let routes = federation::hierarchy::routes(routes);
    let routes = federation::invite::routes(routes);
    let routes = federation::media::routes(routes);
    let routes = federation::third_party::routes(routes);
    federation::membership::routes(routes)
}

/// The router of the client listeners: other servers are served there too, unless federation is off.
pub fn build(app: App) -> Router {
    let mut all = routes();
    if app.federation.is_some() {
        all = federation_routes(all);
    } else if app.config.get().calls.livekit_url.is_some() {
        // The service beside LiveKit asks there whose token it was given, whether other servers are spoken to or not.
        all = federation::openid::routes(all);
    }
    build_from(app, all)
}

/// The router of the listeners for other servers; none where federation is off.
pub fn build_federation(app: App) -> Option<Router> {
    app.federation.as_ref()?;
    let routes = client::discovery::server_routes(Routes::default());
    Some(build_from(app, federation_routes(routes)))
}

/// The router of the admin socket. Whoever may open the socket is an administrator.
pub fn build_admin(app: App) -> Router {
    let routes = admin::room::routes(admin::user::routes(admin::device::routes(Routes::default())));
    let routes = admin::registration_token::routes(admin::status::routes(admin::media::routes(routes)));
    build_from(app, admin::federation::routes(admin::backup::routes(routes)))
}

/// What clients and other servers are served: methods, and paths whose parameters are numbered.
pub fn served() -> Vec<(Method, String)> {
    list(&federation_routes(routes()))
}

/// What clients are served, with federation or without.
pub fn served_to_clients() -> Vec<(Method, String)> {
    list(&routes())
}

fn list(routes: &Routes) -> Vec<(Method, String)> {
    let endpoints = routes
        .paths
        .iter()
        .flat_map(|(path, endpoints)| endpoints.iter().map(move |endpoint| (endpoint, path)));
    endpoints.map(|(endpoint, path)| (endpoint.method.clone(), path.clone())).collect()
}

/// A router over the given routes, with everything around it: CORS, request ids, the log, 404 and 405.
pub(crate) fn build_from(app: App, routes: Routes) -> Router {
    for conflict in &routes.conflicts {
        tracing::error!(endpoint = conflict, "registered twice; the first is served");
    }
    let mut paths = Router::new();
    for (path, endpoints) in routes.paths {
        let app = app.clone();
        let endpoints: Arc<[Endpoint]> = endpoints.into();
        let serve = move |args: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            dispatch(app.clone(), Arc::clone(&endpoints), args.ok(), request)
        };
        paths = paths.route(&path, any(serve));
    }
    paths.fallback(not_found).layer(middleware::from_fn_with_state(app, envelope::wrap))
}

async fn not_found(Extension(id): Extension<RequestId>) -> Response {
    Error::unrecognized().into_response(&id.0)
}

/// Finds the endpoint for the method and runs it.
async fn dispatch(
    app: App,
    endpoints: Arc<[Endpoint]>,
    args: Option<RawPathParams>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let id = parts.extensions.get::<RequestId>().cloned().unwrap_or_default();
    let wanted = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.method == *wanted) else {
        return method_not_allowed(&endpoints, &id);
    };
    tracing::Span::current().record("endpoint", &*endpoint.template);
    let served =
        Served { template: Arc::clone(&endpoint.template), waits: endpoint.patience != Patience::Ordinary };
    let mut response =
        run(app, endpoint, parts, args, body).await.unwrap_or_else(|error| error.into_response(&id.0));
    response.extensions_mut().insert(served);
    response
}

/// Runs an endpoint, for as long as it may take.
async fn run(
    app: App,
    endpoint: &Endpoint,
    parts: Parts,
    args: Option<RawPathParams>,
    body: Body,
) -> Result<Response> {
    // None: an argument is not UTF-8 after decoding.
    let Some(args) = args else {
        return Err(Error::invalid_param("The path is not UTF-8"));
    };
    let config = app.config.get();
    let peer = parts.extensions.get::<Peer>().copied();
    let call = Call {
        client: Client::from_request(&config.listeners.trusted_proxies, peer, &parts.headers),
        app,
        args: args.iter().map(|(_, value)| value.to_owned()).collect(),
        parts,
        body,
        class: endpoint.class,
        size: endpoint.size,
    };
    let answer = (endpoint.run)(call);
    match endpoint.patience.time_max(&config.limits) {
        Some(time) => timeout(time, answer).await.unwrap_or_else(|_| Err(Error::timed_out())),
        None => answer.await,
    }
}

fn method_not_allowed(endpoints: &[Endpoint], id: &RequestId) -> Response {
    let mut response = Error::method_not_allowed().into_response(&id.0);
    let methods: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
    if let Ok(allowed) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}
