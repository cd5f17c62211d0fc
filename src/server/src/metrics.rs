//! What the server counts about itself, as Prometheus reads it.
//!
//! **No label names a person**: no user, room, device, address or token. Other servers are named only where the
//! configuration names them; what concerns the rest is counted together. Everything is in one registry that is passed
//! around; nothing is global. What services know already is asked of them when the page is read (`metrics/gauges.rs`).

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use self::gauges::Gauges;

mod gauges;
mod process;

pub use self::{gauges::Observed, process::Process};

/// The type of the page's text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper bounds of the durations of requests, in seconds. Those of long polls fall into the last.
const DURATIONS_SECONDS: [f64; 13] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    endpoint: String,
    status: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    method: String,
    endpoint: String,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Endpoint, Histogram, fn() -> Histogram>,
    slow: Counter,
    observed: Observed,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Counts from now on.
    pub fn new(version: &str, observed: Observed) -> Self {
        let mut registry = Registry::with_prefix("allod");
        let info = Info::new([("version".to_owned(), version.to_owned())]);
        registry.register("build", "The version of the program", info);
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let durations: Family<Endpoint, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATIONS_SECONDS));
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's headers to its answer's, long polls included",
            Unit::Seconds,
            durations.clone(),
        );
        let slow = Counter::default();
        registry.register(
            "http_slow_requests",
            "Requests that took longer than logging.slow_requests",
            slow.clone(),
        );
        registry.register_collector(Box::new(Gauges(observed.clone())));
        Self(Arc::new(Inner { registry, requests, durations, slow, observed }))
    }

    /// Counts a request; `endpoint` is the template of its path, never the path itself.
    pub fn answered(&self, method: &str, endpoint: &str, status: u16, time: Duration) {
        let labels = Endpoint { method: method.to_owned(), endpoint: endpoint.to_owned() };
        self.0.durations.get_or_create(&labels).observe(time.as_secs_f64());
        let Endpoint { method, endpoint } = labels;
        self.0.requests.get_or_create(&Answered { method, endpoint, status }).inc();
    }

    /// Counts a slow request.
    pub fn slow(&self) {
        self.0.slow.inc();
    }

    /// What services know.
    pub fn observed(&self) -> &Observed {
        &self.0.observed
    }

    /// The page. Empty only if a metric cannot be written, which is a mistake in it.
    pub fn page(&self) -> String {
        let mut page = String::new();
        match prometheus_text::encode(&mut page, &self.0.registry) {
            Ok(()) => page,
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                String::new()
            }
        }
    }
}
