//! What services know already, asked of them when the page is read.

use std::fmt::Error;

use allod_storage::{Mode, Statistics, Store};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use serde_json::{Value, json};

use super::Process;
use crate::{
    config::Live,
    egress::{Contact, Egress, Purpose},
    inbound::Inbound,
    outbox::{Outbox, ServerState},
    tasks::Tasks,
    wake::Wakes,
};

/// The services that are asked.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The database.
    pub store: Store,
    /// The configuration, which names partners.
    pub config: Live,
    /// Background tasks.
    pub tasks: Tasks,
    /// Long polls.
    pub wakes: Wakes,
    /// Requests to other machines.
    pub egress: Egress,
    /// What is sent to other servers; none where federation is off.
    pub outbox: Option<Outbox>,
    /// What other servers sent; none where federation is off.
    pub inbound: Option<Inbound>,
    /// When the server was started, in milliseconds since the epoch.
    pub started_ms: u64,
}

/// Where servers that the configuration does not name are counted.
const OTHERS: &str = "(others)";

impl Observed {
    /// Why the database takes no writes, if it takes none.
    pub fn trouble(&self) -> Option<String> {
        match self.store.mode() {
            Mode::ReadWrite => None,
            Mode::ReadOnly { reason, .. } => Some(format!("the database takes no writes: {reason}")),
        }
    }

    /// What administrators are told of the database.
    pub fn database(&self) -> Value {
        let now = self.store.statistics();
        let mean =
            now.write_time.checked_div(u32::try_from(now.groups).unwrap_or(u32::MAX)).unwrap_or_default();
        json!({
            "writable": self.store.mode() == Mode::ReadWrite,
            "position": self.store.head().get(),
            "generation": self.store.generation(),
            "commits": now.commits,
            "syncs": now.groups,
            "sync_mean_ms": mean.as_secs_f64() * 1000.0,
            "sync_longest_ms": now.write_time_max.as_secs_f64() * 1000.0,
            "queued_commits": now.queued_commits,
            "queued_bytes": now.queued_bytes,
            "cache_bytes": now.cache_bytes,
            "cache_bytes_max": now.cache_bytes_max,
            "write_buffer_bytes": now.write_buffer_bytes,
            "write_failures": now.write_failures,
            "recoveries": now.recoveries,
        })
    }

    /// How it stands with the servers to which something is sent, those that the configuration names one by one and
    /// first, the others together.
    pub fn servers(&self) -> Vec<ServerState> {
        let Some(outbox) = &self.outbox else { return Vec::new() };
        let named = &self.config.get().federation.allow;
        let mut others = ServerState { name: OTHERS.to_owned(), ..ServerState::default() };
        let mut servers: Vec<ServerState> = named
            .iter()
            .map(|name| ServerState { name: name.to_string(), ..ServerState::default() })
            .collect();
        for state in outbox.states() {
            let place = servers.iter_mut().find(|server| server.name == state.name);
            place.unwrap_or(&mut others).add(&state);
        }
        servers.push(others);
        servers
    }

    /// What went to other machines, by purpose: hosts are not told apart.
    pub fn contacts(&self) -> Vec<(Purpose, Contact)> {
        let mut purposes: Vec<(Purpose, Contact)> =
            Purpose::ALL.into_iter().map(|purpose| (purpose, Contact::default())).collect();
        for (of, _, contact) in self.egress.register().list() {
            let Some((_, sum)) = purposes.iter_mut().find(|(purpose, _)| *purpose == of) else { continue };
            sum.requests = sum.requests.saturating_add(contact.requests);
            sum.refused = sum.refused.saturating_add(contact.refused);
            sum.bytes_received = sum.bytes_received.saturating_add(contact.bytes_received);
            sum.bytes_sent = sum.bytes_sent.saturating_add(contact.bytes_sent);
        }
        purposes
    }
}

/// Asks for all of it.
#[derive(Debug)]
pub(super) struct Gauges(pub(super) Observed);

impl Collector for Gauges {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let Self(observed) = self;
        page.store(&observed.store.statistics(), &observed.store)?;
        page.gauge("sync_waiting", "Syncs that wait for news", number(observed.wakes.waiting()))?;
        page.gauges("tasks", "Background tasks that run", "task", observed.tasks.running())?;
        page.seconds(
            "start_time_seconds",
            "When the server was started, since the epoch",
            observed.started_ms,
        )?;
        page.process(&Process::now())?;
        page.servers(&observed.servers())?;
        let waiting = observed.inbound.as_ref().map_or((0, 0), Inbound::waiting);
        page.gauge("inbound_waiting_events", "Received events that wait for their room", number(waiting.0))?;
        page.gauge("inbound_waiting_rooms", "Rooms that received events wait for", number(waiting.1))?;
        page.contacts(&observed.contacts())
    }
}

/// A count as it is written.
fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What a counter or gauge of one label counts.
type Labelled<'a> = Vec<(&'a str, u64)>;

/// Writes metrics.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    /// A gauge in seconds.
    fn seconds(&mut self, name: &str, help: &str, value_ms: u64) -> Result<(), Error> {
        let value = std::time::Duration::from_millis(value_ms).as_secs_f64();
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn seconds_counter(&mut self, name: &str, help: &str, time: std::time::Duration) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(time.as_secs_f64()).encode(encoder)
    }

    fn gauges(&mut self, name: &str, help: &str, label: &str, values: Labelled<'_>) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&[(label, of)])?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: Labelled<'_>) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values {
            ConstCounter::new(value).encode(encoder.encode_family(&[(label, of)])?)?;
        }
        Ok(())
    }

    fn store(&mut self, now: &Statistics, store: &Store) -> Result<(), Error> {
        let writable = u64::from(store.mode() == Mode::ReadWrite);
        self.gauge("store_writable", "1 while the database takes writes, 0 after one failed", writable)?;
        self.gauge("store_position", "The number of the last commit", store.head().get())?;
        self.counter("store_commits", "Batches committed", now.commits)?;
        self.counter("store_conflicts", "Batches refused because a check failed", now.conflicts)?;
        self.counter("store_syncs", "Groups of batches written, each with one fsync", now.groups)?;
        self.counter("store_committed_bytes", "Bytes of the committed batches", now.committed_bytes)?;
        self.seconds_counter(
            "store_sync_seconds",
            "Time spent on writing and syncing groups",
            now.write_time,
        )?;
        let longest = u64::try_from(now.write_time_max.as_millis()).unwrap_or(u64::MAX);
        self.seconds("store_sync_longest_seconds", "Longest time for one group since the start", longest)?;
        let reads = vec![("memory", now.reads_inline), ("disk", now.reads_pooled)];
        self.counters("store_reads", "Reads, by where they were answered from", "from", reads)?;
        self.gauge("store_queued_commits", "Batches that wait to be committed", now.queued_commits)?;
        self.gauge("store_queued_bytes", "Bytes of the batches that wait", now.queued_bytes)?;
        self.gauge("store_cache_bytes", "Bytes in the database's cache", now.cache_bytes)?;
        self.gauge("store_cache_limit_bytes", "Limit of the database's cache", now.cache_bytes_max)?;
        self.gauge(
            "store_write_buffer_bytes",
            "Bytes in the database's write buffers",
            now.write_buffer_bytes,
        )?;
        self.counter("store_write_failures", "Times that a write failed", now.write_failures)?;
        self.counter("store_recoveries", "Times that the database was opened anew after it", now.recoveries)
    }

    fn process(&mut self, now: &Process) -> Result<(), Error> {
        self.gauge("resident_memory_bytes", "Memory that is resident", now.resident_bytes)?;
        self.gauge("resident_memory_max_bytes", "The most memory that was resident", now.resident_bytes_max)?;
        self.gauge("threads", "Threads", now.threads)?;
        self.gauge("open_files", "Open files and connections", now.open_files)?;
        self.gauge("open_files_limit", "How many of these are allowed", now.open_files_max.unwrap_or(0))?;
        self.seconds_counter("cpu_seconds", "Processor time, of all threads", now.cpu)
    }

    fn servers(&mut self, servers: &[ServerState]) -> Result<(), Error> {
        let of = |value: fn(&ServerState) -> usize| -> Labelled<'_> {
            servers.iter().map(|server| (server.name.as_str(), number(value(server)))).collect()
        };
        let label = "server";
        let help = "Events that wait for a server that is reached";
        self.gauges("federation_queue_events", help, label, of(|server| server.waiting_events))?;
        let help = "Rooms of which a server is behind";
        self.gauges("federation_behind_rooms", help, label, of(|server| server.behind_rooms))?;
        let help = "Servers with something to be sent, or that were not reached";
        self.gauges("federation_servers", help, label, of(|server| server.servers))?;
        let help = "Servers that were not reached when last tried";
        self.gauges("federation_unreached_servers", help, label, of(|server| server.unreached))
    }

    fn contacts(&mut self, contacts: &[(Purpose, Contact)]) -> Result<(), Error> {
        let of = |value: fn(&Contact) -> u64| -> Labelled<'_> {
            contacts.iter().map(|(purpose, contact)| (purpose.name(), value(contact))).collect()
        };
        let label = "purpose";
        self.counters(
            "egress_requests",
            "Requests to other machines",
            label,
            of(|contact| contact.requests),
        )?;
        let help = "Requests to other machines that were refused before anything was sent";
        self.counters("egress_refused_requests", help, label, of(|contact| contact.refused))?;
        let help = "Bytes of bodies sent to other machines";
        self.counters("egress_sent_bytes", help, label, of(|contact| contact.bytes_sent))?;
        let help = "Bytes of bodies received from other machines";
        self.counters("egress_received_bytes", help, label, of(|contact| contact.bytes_received))
    }
}
