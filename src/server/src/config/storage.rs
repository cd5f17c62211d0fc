//! The `[storage]` section.

use super::{
    option::section,
    value::{ByteSize, Interval},
};

/// The shortest time within which bytes can be erased: rewriting them takes time too.
const ERASE_WITHIN_MIN: Interval = Interval::seconds(600);

section! {
    /// The database.
    Storage = "storage" {
        /// How much memory the database may use for its caches and buffers. Not set: a sixteenth of
        /// the memory of the machine or its container, at least 32 MiB and at most 1 GiB.
        memory: Option<ByteSize> = None => "256 MiB";
        /// Within what time the bytes of redacted events, and of what else was erased, are gone from the disk. Nobody can
        /// read them through the server from the moment of the redaction; this is about the files. The shorter, the more
        /// often parts of the database are rewritten.
        erase_within: Interval = Interval::seconds(24 * 3600);
    }
    check check_storage;
}

fn check_storage(storage: &Storage) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    if let Some(memory) = storage.memory
        && memory < ByteSize::mib(16)
    {
        problems.push(("memory", format!("{memory} is too little; give it at least 16 MiB")));
    }
    if storage.erase_within < ERASE_WITHIN_MIN {
        let text = format!("{} is too short; give it at least {ERASE_WITHIN_MIN}", storage.erase_within);
        problems.push(("erase_within", text));
    }
    problems
}

impl Storage {
    /// The memory to use on this machine.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.unwrap_or_else(|| ByteSize(default_memory_bytes(available_bytes()))).0
    }
}

fn default_memory_bytes(available: Option<u64>) -> u64 {
    let share = available.map_or(ByteSize::mib(128).0, |available| available / 16);
    share.clamp(ByteSize::mib(32).0, ByteSize::mib(1024).0)
}

/// The memory of this machine, or of the control group that we are in if that has less.
pub fn available_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total_kib =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())?;
    let machine = total_kib.parse::<u64>().ok()?.checked_mul(1024)?;
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_share_within_bounds() {
        assert_eq!(default_memory_bytes(Some(16 << 30)), 1 << 30);
        assert_eq!(default_memory_bytes(Some(4 << 30)), 256 << 20);
        assert_eq!(default_memory_bytes(Some(256 << 20)), 32 << 20);
        assert_eq!(default_memory_bytes(None), 128 << 20);
    }
}
