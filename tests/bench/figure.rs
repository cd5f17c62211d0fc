//! What is measured of a scenario: rate and latency as the client sees them, processor time and memory of the server as
//! the kernel counts them.

use std::{
    fs,
    time::{Duration, Instant},
};

/// The kernel counts processor time in hundredths of a second, on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u32 = 100;

/// What was measured of one server in one scenario.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What was done.
    pub(crate) scenario: String,
    /// How often.
    pub(crate) operations: usize,
    /// In which time.
    pub(crate) elapsed: Duration,
    /// How long each took, sorted.
    latencies: Vec<Duration>,
    /// The processor time that the server used meanwhile, user's and system's, all threads.
    pub(crate) cpu: Option<Duration>,
    /// What the server held in memory afterwards.
    pub(crate) resident_kib: Option<u64>,
    /// What else is to be said.
    pub(crate) note: String,
}

impl Figure {
    /// A single duration, such as that of a start.
    pub(crate) fn single(scenario: &str, took: Duration, process: Option<u32>) -> Self {
        let scenario = scenario.to_owned();
        let resident_kib = process.and_then(resident_kib);
        let note = String::new();
        Self { scenario, operations: 1, elapsed: took, latencies: vec![took], cpu: None, resident_kib, note }
    }

    /// What a server holds in memory.
    pub(crate) fn memory(scenario: &str, process: Option<u32>) -> Self {
        Meter::start(process).stop(scenario, Vec::new())
    }

    /// The same, of another scenario.
    pub(crate) fn named(self, scenario: &str) -> Self {
        Self { scenario: scenario.to_owned(), ..self }
    }

    /// Operations a second.
    pub(crate) fn rate(&self) -> f64 {
        number(self.operations) / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the operations did not exceed.
    pub(crate) fn percentile(&self, share: usize) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get(last.saturating_mul(share).div_ceil(100)).copied()
    }

    /// Milliseconds of the server's processor time for one operation.
    pub(crate) fn cpu_ms_each(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1000.0 / number(self.operations.max(1)))
    }
}

/// A count as a number to divide by.
pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Measures from its making to its stopping.
#[derive(Debug)]
pub(crate) struct Meter {
    process: Option<u32>,
    cpu: Option<Duration>,
    started: Instant,
}

impl Meter {
    /// Begins to measure the server with this process id, if it is known.
    pub(crate) fn start(process: Option<u32>) -> Self {
        Self { process, cpu: process.and_then(cpu), started: Instant::now() }
    }

    /// How long it has measured.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether it has measured for this long.
    pub(crate) fn is_over(&self, limit: Duration) -> bool {
        self.started.elapsed() >= limit
    }

    /// Ends; every latency is one operation.
    pub(crate) fn stop(self, scenario: impl Into<String>, mut latencies: Vec<Duration>) -> Figure {
        let elapsed = self.started.elapsed();
        let now = self.process.and_then(cpu);
        latencies.sort_unstable();
        Figure {
            scenario: scenario.into(),
            operations: latencies.len(),
            elapsed,
            latencies,
            cpu: now.zip(self.cpu).map(|(now, before)| now.saturating_sub(before)),
            resident_kib: self.process.and_then(resident_kib),
            note: String::new(),
        }
    }
}

/// The processor time that a process has used, with all its threads.
pub(crate) fn cpu(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name is in brackets and may hold anything; the fields after it are numbered from 3 on.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(u64::from(user) + u64::from(system)) / TICKS_PER_SECOND)
}

/// The memory that a process occupies.
pub(crate) fn resident_kib(process: u32) -> Option<u64> {
    of_status(process, "VmRSS:")
}

/// The most memory that a process has occupied.
pub(crate) fn peak_kib(process: u32) -> Option<u64> {
    of_status(process, "VmHWM:")
}

fn of_status(process: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
