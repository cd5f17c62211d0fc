//! From names to addresses: the hosts file, then the system's DNS servers.
//!
//! Answers are kept a short time whatever their lifetime says, and forgotten when a connection fails: elsewhere, stale
//! ones kept servers apart long after their administrators had mended them. Nothing is read or asked before the first
//! look-up.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::NetError,
    proto::rr::{RData, RecordType},
};

/// How long an answer is kept at most.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(120);
/// How long it is remembered at most that there is no such name.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(20);
/// How long a DNS server may take, and how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;
/// Answers kept.
const CACHED_MAX: u64 = 10_000;

/// A place that a service is at, as an SRV record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a name was not resolved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NameError {
    /// There is no such name, or it has no address.
    #[error("there is no address for {0}")]
    NotFound(String),
    /// The DNS servers did not answer, or wrongly.
    #[error("looking up {0} failed: {1}")]
    Failed(String, String),
}

/// Looks names up. Cheap to clone.
#[derive(Clone)]
pub struct Names(Source);

#[derive(Clone)]
enum Source {
    System(Arc<OnceLock<Result<TokioResolver, String>>>),
    Table(Arc<Mutex<Table>>),
}

/// Names of a test.
#[derive(Default)]
struct Table {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Vec<Service>>,
    asked: Vec<String>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    /// The system's hosts file and DNS servers.
    pub fn system() -> Self {
        Self(Source::System(Arc::default()))
    }

    /// Fixed names, of which the questions are recorded; for tests.
    pub fn table(addresses: &[(&str, &[&str])], services: &[(&str, &[(&str, u16)])]) -> Self {
        let addresses = addresses.iter().map(|(name, list)| {
            ((*name).to_owned(), list.iter().filter_map(|address| address.parse().ok()).collect())
        });
        let services = services.iter().map(|(name, list)| {
            let of_name = list.iter().map(|(host, port)| Service { host: (*host).to_owned(), port: *port });
            ((*name).to_owned(), of_name.collect())
        });
        let table = Table { addresses: addresses.collect(), services: services.collect(), asked: Vec::new() };
        Self(Source::Table(Arc::new(Mutex::new(table))))
    }

    /// What a table was asked for so far, in order.
    pub fn asked(&self) -> Vec<String> {
        match &self.0 {
            Source::System(_) => Vec::new(),
            Source::Table(table) => table.lock().unwrap_or_else(PoisonError::into_inner).asked.clone(),
        }
    }

    /// The addresses of a name, at least one.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NameError> {
        let found = match &self.0 {
            Source::System(resolver) => match system(resolver, name)?.lookup_ip(absolute(name)).await {
                Ok(found) => found.iter().collect(),
                Err(error) => return Err(failure(name, &error)),
            },
            Source::Table(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                table.asked.push(name.to_owned());
                table.addresses.get(name).cloned().unwrap_or_default()
            }
        };
        if found.is_empty() { Err(NameError::NotFound(name.to_owned())) } else { Ok(found) }
    }

    /// Where a service is, in the order in which to try; empty if no record says so.
    pub(super) async fn services(&self, name: &str) -> Result<Vec<Service>, NameError> {
        let resolver = match &self.0 {
            Source::System(resolver) => system(resolver, name)?,
            Source::Table(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                table.asked.push(name.to_owned());
                return Ok(table.services.get(name).cloned().unwrap_or_default());
            }
        };
        let found = match resolver.srv_lookup(absolute(name)).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(failure(name, &error)),
        };
        let mut services: Vec<_> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(record) => Some((record.priority, Reverse(record.weight), service(record)?)),
                _ => None,
            })
            .collect();
        services.sort();
        Ok(services.into_iter().map(|(_, _, service)| service).collect())
    }

    /// Forgets what is known of a name: it led nowhere.
    pub(super) fn forget(&self, name: &str) {
        if let Source::System(resolver) = &self.0
            && let Some(Ok(resolver)) = resolver.get()
        {
            for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
                resolver.clear_lookup_cache(absolute(name), kind);
            }
        }
    }
}

/// A root as its target says that there is no such service (RFC 2782).
fn service(record: &hickory_resolver::proto::rr::rdata::SRV) -> Option<Service> {
    let host = record.target.to_utf8();
    let host = host.trim_end_matches('.');
    (!host.is_empty()).then(|| Service { host: host.to_owned(), port: record.port })
}

/// The name as it stands: no search domain of this machine is tried.
fn absolute(name: &str) -> String {
    // A name without a dot may be one of the hosts file, or of a network that searches for it.
    if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() }
}

fn failure(name: &str, error: &NetError) -> NameError {
    if error.is_no_records_found() {
        NameError::NotFound(name.to_owned())
    } else {
        NameError::Failed(name.to_owned(), error.to_string())
    }
}

fn system<'a>(
    resolver: &'a OnceLock<Result<TokioResolver, String>>,
    name: &str,
) -> Result<&'a TokioResolver, NameError> {
    let resolver = resolver.get_or_init(|| open().map_err(|error| error.to_string()));
    resolver.as_ref().map_err(|error| NameError::Failed(name.to_owned(), error.clone()))
}

fn open() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.use_hosts_file = ResolveHosts::Always;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.cache_size = CACHED_MAX;
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    builder.build()
}
