//! Other servers, for administrators on the admin socket: `allod federation` calls these.

use http::Method;
use ruma::ServerName;
use serde_json::{Value, json};

use crate::{
    app::App,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.route(&Method::GET, "/_allod/admin/v1/federation/refusals", list_refusals).route(
        &Method::POST,
        "/_allod/admin/v1/federation/check/{server}",
        check_server,
    )
}

/// `POST /_allod/admin/v1/federation/check/{server}`
async fn check_server(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let name = request.args.first().map(String::as_str).unwrap_or_default();
    let server =
        ServerName::parse(name).map_err(|_| Error::invalid_param(format!("\"{name}\" is no server name")))?;
    let steps: Vec<Value> = federation(&app)?
        .check(&server)
        .await
        .into_iter()
        .map(|checked| match checked.found {
            Ok(text) => json!({ "step": checked.step, "ok": true, "text": text }),
            Err(trouble) => {
                json!({ "step": checked.step, "ok": false, "text": trouble.what, "advice": trouble.advice })
            }
        })
        .collect();
    Ok(json_bytes(json!({ "server": server, "steps": steps }).to_string()))
}

/// `GET /_allod/admin/v1/federation/refusals`
async fn list_refusals(app: App, (): (), _: PlainRequest) -> Result<Response> {
    let refusals = federation(&app)?.policy.refusals();
    let refusals: Vec<Value> = refusals
        .into_iter()
        .map(|(server, count)| json!({ "server": server, "inbound": count.inbound, "outbound": count.outbound }))
        .collect();
    Ok(json_bytes(json!({ "refusals": refusals }).to_string()))
}

fn federation(app: &App) -> Result<&allod_server::federation::Federation> {
    app.federation
        .as_ref()
        .ok_or_else(|| Error::unknown("Federation is off: see federation.mode in the configuration"))
}
