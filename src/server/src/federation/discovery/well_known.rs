//! `/.well-known/matrix/server` of other servers: fetched, checked and kept.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver>

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, header};
use quick_cache::sync::Cache;
use reqwest::Url;
use ruma::OwnedServerName;
use serde::Deserialize;

use crate::{
    clock::Clock,
    egress::{Bounds, Destination, Egress, EgressError, Outbound, Purpose},
};

/// The document's size and how long all of it may take.
const BOUNDS: Bounds = Bounds::bytes(64 << 10).within(Duration::from_secs(20));
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 2;
/// How long a document is kept whose headers do not say, and how long at most and at least.
const KEPT: Duration = Duration::from_secs(24 * 3600);
const KEPT_MAX: Duration = Duration::from_secs(48 * 3600);
const KEPT_MIN: Duration = Duration::from_secs(300);
/// How long it is remembered that there is none.
const MISSING_KEPT: Duration = Duration::from_secs(3600);
/// How long it is remembered that the host did not answer.
const UNREACHABLE_KEPT: Duration = Duration::from_secs(60);
/// Documents kept.
const DOCUMENTS_MAX: usize = 10_000;

/// What a host's document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WellKnown {
    /// The server is elsewhere.
    Delegated(OwnedServerName),
    /// There is no valid document.
    None,
}

/// The document.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

/// The documents of hosts.
#[derive(Clone, Debug)]
pub(super) struct WellKnowns {
    egress: Egress,
    clock: Clock,
    outbound: Outbound,
    kept: Arc<Cache<String, (u64, WellKnown)>>,
}

impl WellKnowns {
    pub(super) fn new(egress: Egress, clock: Clock) -> Result<Self, EgressError> {
        let outbound = egress.outbound(Purpose::Federation)?;
        Ok(Self { egress, clock, outbound, kept: Arc::new(Cache::new(DOCUMENTS_MAX)) })
    }

    /// What the host says; whatever goes wrong counts as nothing, as the specification wants it.
    pub(super) async fn get(&self, host: &str) -> WellKnown {
        let now_ms = self.clock.now_ms();
        let kept = self.kept.get(host);
        if let Some((until_ms, found)) = &kept
            && now_ms < *until_ms
        {
            return found.clone();
        }
        let (found, time) = match self.fetch(host).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(host, %error, "no well-known document");
                // A host that is down has not moved: what it said before stands.
                let before = kept.map_or(WellKnown::None, |(_, found)| found);
                (before, UNREACHABLE_KEPT)
            }
        };
        self.keep(host, found.clone(), time, now_ms);
        found
    }

    pub(super) fn keep(&self, host: &str, found: WellKnown, time: Duration, now_ms: u64) {
        let until_ms = now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(0));
        self.kept.insert(host.to_owned(), (until_ms, found));
    }

    async fn fetch(&self, host: &str) -> Result<(WellKnown, Duration), EgressError> {
        let mut url = parse(&format!("https://{host}/.well-known/matrix/server"))?;
        for _ in 0..=REDIRECTS_MAX {
            let answer = {
                let to = self.destination(&url).await?;
                let path = match url.query() {
                    Some(query) => format!("{}?{query}", url.path()),
                    None => url.path().to_owned(),
                };
                let request = self.outbound.prepare(&to, Method::GET, &path, None)?;
                self.outbound.send(request, BOUNDS).await?
            };
            if answer.status().is_redirection() {
                let place = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                let Some(place) = place else { return Ok((WellKnown::None, MISSING_KEPT)) };
                url = url.join(place).map_err(|error| EgressError::Malformed(error.to_string()))?;
                continue;
            }
            if answer.status().is_server_error() {
                return Err(EgressError::Unreachable(format!("it answered {}", answer.status())));
            }
            if !answer.status().is_success() {
                return Ok((WellKnown::None, MISSING_KEPT));
            }
            let time = kept_for(answer.headers());
            let body = answer.whole().await?;
            return Ok(match serde_json::from_slice::<Document>(&body) {
                Ok(document) => (WellKnown::Delegated(document.server), time),
                Err(_) => (WellKnown::None, MISSING_KEPT),
            });
        }
        Ok((WellKnown::None, MISSING_KEPT))
    }

    /// Every redirect is looked up and checked as the first address was.
    async fn destination(&self, url: &Url) -> Result<Destination, EgressError> {
        let malformed = |what: &str| EgressError::Malformed(what.to_owned());
        if url.scheme() != "https" {
            return Err(malformed("it leads away from https"));
        }
        let host = url.host_str().ok_or_else(|| malformed("there is no host"))?;
        let port = url.port().unwrap_or(443);
        let addresses = self.egress.addresses(Purpose::Federation, host, port).await?;
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Destination { authority, host_header: None, addresses })
    }
}

fn parse(url: &str) -> Result<Url, EgressError> {
    Url::parse(url).map_err(|error| EgressError::Malformed(error.to_string()))
}

/// How long the headers let a document be kept.
fn kept_for(headers: &HeaderMap) -> Duration {
    let control =
        headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let directives = control.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    let mut time = KEPT;
    for directive in directives {
        if directive == "no-store" || directive == "no-cache" {
            return KEPT_MIN;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            time = Duration::from_secs(seconds.trim_matches('"').parse().unwrap_or(KEPT.as_secs()));
        }
    }
    time.clamp(KEPT_MIN, KEPT_MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn documents_are_kept_as_long_as_they_say_within_bounds() {
        for (control, seconds) in [
            ("", 86_400),
            ("max-age=7200", 7_200),
            ("public, MAX-AGE=600", 600),
            ("max-age=1", 300),
            ("max-age=99999999", 172_800),
            ("no-store", 300),
            ("max-age=soon", 86_400),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
            assert_eq!(kept_for(&headers).as_secs(), seconds, "{control}");
        }
    }
}
