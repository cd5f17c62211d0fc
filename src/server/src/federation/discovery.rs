//! Where a server is: from its name to the addresses to connect to, the name that its certificate must have, and the
//! `Host` header.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>

mod well_known;

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};

use self::well_known::{WellKnown, WellKnowns};
use crate::{
    clock::Clock,
    egress::{Destination, Egress, EgressError, Purpose},
};

/// The port of a server that names none.
const PORT: u16 = 8448;
/// The names of the service in DNS: the present one, and the one that came before.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// Places of one service that are tried.
const PLACES_MAX: usize = 8;
/// How long a route is kept. Addresses are checked again after that.
const ROUTE_TIME: Duration = Duration::from_secs(60);
/// Routes kept.
const ROUTES_MAX: usize = 10_000;

/// Which of the specification's steps led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A literal address (1, 3.1).
    Literal,
    /// A port in the name (2, 3.2).
    Port,
    /// An SRV record (3.3, 3.4, 4, 5).
    Service,
    /// Nothing but the name (3.5, 6).
    Name,
}

/// The way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What to connect to, and as what.
    pub destination: Destination,
    /// How it was found.
    pub step: Step,
    /// Where the server's well-known document sends others, if it has one.
    pub delegated: Option<OwnedServerName>,
}

/// Finds servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Discovery {
    egress: Egress,
    clock: Clock,
    well_knowns: WellKnowns,
    /// Routes, with the time until which they are used.
    routes: Arc<Cache<OwnedServerName, (u64, Arc<Route>)>>,
}

impl Discovery {
    /// A finder that has found nothing yet.
    pub fn new(egress: Egress, clock: Clock) -> Result<Self, EgressError> {
        let well_knowns = WellKnowns::new(egress.clone(), clock.clone())?;
        Ok(Self { egress, clock, well_knowns, routes: Arc::new(Cache::new(ROUTES_MAX)) })
    }

    /// The way to a server.
    pub async fn route(&self, server: &ServerName) -> Result<Arc<Route>, EgressError> {
        let now_ms = self.clock.now_ms();
        if let Some((until_ms, route)) = self.routes.get(server)
            && now_ms < until_ms
        {
            return Ok(route);
        }
        let route = Arc::new(self.find(server).await?);
        let time_ms = u64::try_from(ROUTE_TIME.as_millis()).unwrap_or(0);
        self.routes.insert(server.to_owned(), (now_ms.saturating_add(time_ms), Arc::clone(&route)));
        Ok(route)
    }

    /// Forgets the way: it led nowhere. The well-known document is kept for as long as it said.
    pub fn forget(&self, server: &ServerName) {
        self.routes.remove(server);
    }

    async fn find(&self, server: &ServerName) -> Result<Route, EgressError> {
        if let Some(route) = self.explicit(server).await? {
            return Ok(route);
        }
        match self.well_knowns.get(server.host()).await {
            WellKnown::Delegated(delegated) => {
                let route = match self.explicit(&delegated).await? {
                    Some(route) => route,
                    None => self.by_name(delegated.host()).await?,
                };
                Ok(Route { delegated: Some(delegated), ..route })
            }
            WellKnown::None => self.by_name(server.host()).await,
        }
    }

    /// The way to a name that leaves nothing open.
    async fn explicit(&self, name: &ServerName) -> Result<Option<Route>, EgressError> {
        let step = match name.port() {
            _ if name.is_ip_literal() => Step::Literal,
            Some(_) => Step::Port,
            None => return Ok(None),
        };
        let port = name.port().unwrap_or(PORT);
        let addresses = self.egress.addresses(Purpose::Federation, name.host(), port).await?;
        // A literal address takes no port from a list of addresses.
        let (authority, host_header) = match name.port() {
            Some(_) => (name.to_string(), None),
            None => (format!("{name}:{port}"), Some(name.to_string())),
        };
        let destination = Destination { authority, host_header, addresses };
        Ok(Some(Route { destination, step, delegated: None }))
    }

    /// The way to a name without a port: by SRV record, or else at the usual port.
    async fn by_name(&self, host: &str) -> Result<Route, EgressError> {
        let destination =
            |addresses| Destination { authority: host.to_owned(), host_header: None, addresses };
        for service in SERVICES {
            // A failed look-up is not "there is none": going on would lead to the wrong place.
            let places = self.egress.services(Purpose::Federation, &format!("{service}.{host}")).await?;
            if places.is_empty() {
                continue;
            }
            let (mut all, mut last) = (None, None);
            for place in places.iter().take(PLACES_MAX) {
                match self.egress.addresses(Purpose::Federation, &place.host, place.port).await {
                    Ok(found) => {
                        all = Some(match all.take() {
                            Some(before) => crate::egress::Checked::followed_by(&before, &found),
                            None => found,
                        });
                    }
                    Err(error) => last = Some(error),
                }
            }
            return match (all, last) {
                (Some(addresses), _) => {
                    Ok(Route { destination: destination(addresses), step: Step::Service, delegated: None })
                }
                (None, Some(error)) => Err(error),
                (None, None) => continue,
            };
        }
        let addresses = self.egress.addresses(Purpose::Federation, host, PORT).await?;
        Ok(Route { destination: destination(addresses), step: Step::Name, delegated: None })
    }
}

#[cfg(test)]
mod tests;
