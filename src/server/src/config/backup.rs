//! The `[backup]` section.

use std::path::PathBuf;

use super::{option::section, value::Interval};

/// The shortest time between two backups.
const EVERY_MIN: Interval = Interval::seconds(60);

section! {
    /// Backups that the server makes by itself, of everything: database, media, signing key and this file. Each costs
    /// what changed since the one before. `allod backup` makes, lists and checks them too, and `allod restore` brings one
    /// back.
    Backup = "backup" {
        /// The folder of the backups: on another disk, best on another machine's. It is as secret as the
        /// server itself. Not set: the server makes none.
        folder: Option<PathBuf> = None => "/var/backups/allod", Reloaded;
        /// How often one is made.
        every: Interval = Interval::seconds(24 * 3600), Reloaded;
        /// How many are kept; older ones go.
        keep: u32 = 14, Reloaded;
    }
    check |backup| {
        let mut problems = Vec::new();
        if backup.every < EVERY_MIN {
            problems.push(("every", format!("{} is too short; give it at least {EVERY_MIN}", backup.every)));
        }
        if backup.keep == 0 {
            problems.push(("keep", "no backup would be left; keep at least one".to_owned()));
        }
        problems
    };
}
