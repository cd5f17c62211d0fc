//! The machine: memory, limits, the clock.

use std::fs;

use allod_server::{
    clock::Clock,
    config::{Config, available_bytes},
};

use super::Findings;

/// Open files and connections that a server of some hundred people needs.
const FILES_MIN: u64 = 4096;
/// Before this program was made, in milliseconds since the Unix epoch: 1 November 2026.
const PAST_MS: u64 = 1_793_491_200_000;
/// What the server takes besides its database.
const OTHER_MEMORY_BYTES: u64 = 128 << 20;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    files(findings);
    memory(config, findings);
    clock(findings);
}

fn files(findings: &mut Findings) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    match hard {
        Some(hard) if hard < FILES_MIN => findings.doubtful(
            "open files",
            format!("this user may open {hard} files and connections at a time"),
            "Set LimitNOFILE=65536 in the unit (`systemctl edit allod`), or raise `ulimit -n`.",
        ),
        Some(hard) => findings.good("open files", format!("up to {hard} files and connections")),
        // No limit, or none that can be read.
        None => {}
    }
}

fn memory(config: &Config, findings: &mut Findings) {
    let Some(all) = available_bytes() else { return };
    let wanted = config.storage.memory_bytes().saturating_add(OTHER_MEMORY_BYTES);
    let (all_says, wanted_says) = (crate::backup::size(all), crate::backup::size(wanted));
    if wanted > all / 4 * 3 {
        findings.doubtful(
            "memory",
            format!("the server may take {wanted_says} of {all_says}"),
            "Set storage.memory lower, or give the machine more.",
        );
    } else {
        findings.good("memory", format!("the server takes up to {wanted_says} of {all_says}"));
    }
}

fn clock(findings: &mut Findings) {
    if Clock::system().now_ms() < PAST_MS {
        return findings.wrong(
            "clock",
            "the machine's clock is in the past",
            "Set it, and keep it right: `timedatectl set-ntp true`.",
        );
    }
    let keeps_time = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.pid",
        "/run/chronyd.pid",
        "/run/ntpd.pid",
    ];
    if keeps_time.iter().any(|file| fs::exists(file).unwrap_or(false)) {
        findings.good("clock", "kept right by the network");
    } else {
        findings.doubtful(
            "clock",
            "nothing that keeps the clock right was found",
            "Other servers refuse keys and messages of a server whose clock is wrong: `timedatectl set-ntp true`.",
        );
    }
}
