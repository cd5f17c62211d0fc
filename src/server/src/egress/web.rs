//! Gets what URLs name: pages for previews, files that servers keep elsewhere.
//!
//! One request an answer: whoever follows a redirect asks anew, and so passes the gate again.

use http::{HeaderValue, Method, header};
use reqwest::Url;

use super::{Answer, Bounds, Destination, Egress, EgressError, Outbound, Purpose, trust};

/// A client for URLs. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Web {
    gate: Egress,
    purpose: Purpose,
    secure: Connections,
    /// None where only TLS will do.
    plain: Option<Connections>,
}

/// Addresses without a port are pinned apart from those with one: they would be taken for each other's.
#[derive(Clone, Debug)]
struct Connections {
    usual: Outbound,
    to_ports: Outbound,
}

impl Egress {
    /// A client for URLs; `plain`: also for those without TLS.
    pub fn web(&self, purpose: Purpose, plain: bool) -> Result<Web, EgressError> {
        self.permit(purpose)?;
        let tls = trust::load(&self.config.get().federation.certificate_authorities)?;
        let connections = |secure| {
            let outbound = || Outbound::new(self.clone(), purpose, tls.clone(), secure);
            Ok::<_, EgressError>(Connections { usual: outbound()?, to_ports: outbound()? })
        };
        let plain = if plain { Some(connections(false)?) } else { None };
        Ok(Web { gate: self.clone(), purpose, secure: connections(true)?, plain })
    }
}

impl Web {
    /// Asks for what is at a URL; returns when the headers of the answer are there.
    pub async fn get(&self, url: &Url, accept: &'static str, bounds: Bounds) -> Result<Answer, EgressError> {
        let malformed = || EgressError::Malformed("no address on the web".to_owned());
        let connections = match url.scheme() {
            "https" => &self.secure,
            "http" => self.plain.as_ref().ok_or_else(malformed)?,
            _ => return Err(malformed()),
        };
        let host = url.host_str().ok_or_else(malformed)?;
        let port = url.port_or_known_default().ok_or_else(malformed)?;
        let addresses = self.gate.addresses(self.purpose, host, port).await?;
        let (outbound, authority) = match url.port() {
            Some(port) => (&connections.to_ports, format!("{host}:{port}")),
            None => (&connections.usual, host.to_owned()),
        };
        let destination = Destination { authority, host_header: None, addresses };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut prepared = outbound.prepare(&destination, Method::GET, &path, None)?;
        prepared.set_header(header::ACCEPT, HeaderValue::from_static(accept));
        outbound.send(prepared, bounds).await
    }
}
