//! What the system says of this process.

use std::{fs, time::Duration};

/// What the process takes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// The most that was resident so far, in bytes.
    pub resident_bytes_max: u64,
    /// Threads.
    pub threads: u64,
    /// Open files and connections.
    pub open_files: u64,
    /// How many of these it may have.
    pub open_files_max: Option<u64>,
    /// Processor time, of all threads.
    pub cpu: Duration,
}

/// Ticks of the processor time in /proc a second: a constant of Linux's interface, whatever the kernel counts by.
const TICKS_PER_SECOND: u64 = 100;

impl Process {
    /// Asks the system; what it does not tell is zero.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            resident_bytes: field(&status, "VmRSS:").saturating_mul(1024),
            resident_bytes_max: field(&status, "VmHWM:").saturating_mul(1024),
            threads: field(&status, "Threads:"),
            open_files: u64::try_from(open).unwrap_or(u64::MAX),
            open_files_max: limits.lines().find_map(|line| {
                line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok()
            }),
            cpu: cpu(&stat),
        }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// User and system time: the 14th and 15th fields; the second is a name in brackets, which may have spaces.
fn cpu(stat: &str) -> Duration {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    let ticks = ticks.fold(0_u64, u64::saturating_add);
    Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let process = Process::now();
        assert!(process.resident_bytes > 1 << 20 && process.resident_bytes_max >= process.resident_bytes);
        assert!(process.threads >= 1 && process.open_files >= 3);
        assert!(process.open_files_max.is_none_or(|most| most >= process.open_files));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu(stat), Duration::from_secs(2));
        assert_eq!(cpu(""), Duration::ZERO);
    }
}
