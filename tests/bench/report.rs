//! The report: facts about the machine, a table of figures, a table of ratios; as Markdown.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{figure::Figure, scenarios::Measured};

/// How often the disk is asked to make a page durable.
const SYNCS: usize = 50;

/// What the figures were measured on.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    memory_gib: u64,
    load_before: String,
    fsync: Duration,
}

impl Machine {
    /// Looks at this machine, and at the disk that holds `folder`.
    pub(crate) fn look(folder: &Path) -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: memory_kib.div_ceil(1 << 20),
            load_before: load(),
            fsync: fsync(folder)?,
        })
    }
}

/// How busy the machine was in the last minute.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// How long the disk typically takes to make a page durable.
fn fsync(folder: &Path) -> anyhow::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took.get(SYNCS / 2).copied().context("no syncs")
}

/// The whole report.
pub(crate) fn render(machine: &Machine, measured: &[Measured]) -> anyhow::Result<String> {
    let mut text = String::new();
    let Machine { cores, cpu, kernel, memory_gib, load_before, fsync } = machine;
    writeln!(text, "{cores} cores ({cpu}), {memory_gib} GiB, Linux {kernel}.")?;
    writeln!(
        text,
        "Median fdatasync of 4 KiB: {} ms. Load before: {load_before}, after: {}.\n",
        ms(*fsync),
        load()
    )?;
    text.push_str(
        "| scenario | server | operations | a second | p50 ms | p99 ms | CPU ms each | resident MiB | |\n",
    );
    text.push_str("|---|---|---:|---:|---:|---:|---:|---:|---|\n");
    for scenario in scenarios(measured) {
        for (server, figure) in of(measured, scenario) {
            writeln!(text, "{}", row(server, figure))?;
        }
    }
    if let Some((base, others)) = measured.split_first()
        && !others.is_empty()
    {
        text.push('\n');
        text.push_str(&ratios(base, others)?);
    }
    Ok(text)
}

/// Every scenario, in the order of the server that went through it first.
fn scenarios(measured: &[Measured]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in measured.iter().flat_map(|measured| &measured.figures) {
        if !names.contains(&figure.scenario.as_str()) {
            names.push(&figure.scenario);
        }
    }
    names
}

fn of<'a>(measured: &'a [Measured], scenario: &'a str) -> impl Iterator<Item = (&'a str, &'a Figure)> {
    measured.iter().filter_map(move |measured| {
        let figure = measured.figures.iter().find(|figure| figure.scenario == scenario)?;
        Some((measured.server.as_str(), figure))
    })
}

fn row(server: &str, figure: &Figure) -> String {
    let rate = if figure.operations > 1 { format!("{:.1}", figure.rate()) } else { String::new() };
    let latency = |share| figure.percentile(share).map(ms).unwrap_or_default();
    let cpu = figure.cpu_ms_each().filter(|_| figure.operations > 0);
    let cpu = cpu.map(|cpu| format!("{cpu:.3}")).unwrap_or_default();
    let resident = figure.resident_kib.map(|kib| (kib / 1024).to_string()).unwrap_or_default();
    format!(
        "| {} | {server} | {} | {rate} | {} | {} | {cpu} | {resident} | {} |",
        figure.scenario,
        figure.operations,
        latency(50),
        latency(99),
        figure.note,
    )
}

/// How many times as much the others take as the first.
fn ratios(base: &Measured, others: &[Measured]) -> anyhow::Result<String> {
    let mut text = format!("How many times what {} takes or holds, by scenario:\n\n", base.server);
    text.push_str("| scenario | server | time (p50) | CPU each | resident |\n|---|---|---:|---:|---:|\n");
    for figure in &base.figures {
        for (server, other) in of(others, &figure.scenario) {
            let times = |base: Option<f64>, other: Option<f64>| {
                let ratio = base.zip(other).filter(|(base, _)| *base > 0.0).map(|(base, other)| other / base);
                ratio.map(|ratio| format!("{ratio:.1}")).unwrap_or_default()
            };
            let p50 = |figure: &Figure| figure.percentile(50).map(|took| took.as_secs_f64());
            let resident = |figure: &Figure| Some(f64::from(u32::try_from(figure.resident_kib?).ok()?));
            writeln!(
                text,
                "| {} | {server} | {} | {} | {} |",
                figure.scenario,
                times(p50(figure), p50(other)),
                times(figure.cpu_ms_each(), other.cpu_ms_each()),
                times(resident(figure), resident(other)),
            )?;
        }
    }
    Ok(text)
}

/// Milliseconds, with as many digits as mean something.
pub(crate) fn ms(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// Prints the report, and writes it to a file if one is named.
pub(crate) fn publish(report: &str, file: Option<&Path>) -> anyhow::Result<()> {
    io::stdout().write_all(report.as_bytes())?;
    match file {
        Some(file) => fs::write(file, report).with_context(|| format!("cannot write {}", file.display())),
        None => Ok(()),
    }
}
