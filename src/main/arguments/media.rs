//! The arguments of `allod media`.

use clap::{Args, Subcommand};

use super::Socket;

/// What `allod media` is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Media {
    /// Says what is known of a file.
    Show {
        /// Its address: mxc://SERVER/ID.
        file: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists files.
    List {
        #[command(flatten)]
        filter: MediaFilter,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Deletes a file, or all that the options say but those that are protected.
    Delete {
        /// Its address: mxc://SERVER/ID.
        #[arg(conflicts_with_all = ["user", "room", "ours", "others", "older_than", "unused_for", "larger_than"])]
        file: Option<String>,
        #[command(flatten)]
        filter: MediaFilter,
        /// Only list what would be deleted.
        #[arg(long, conflicts_with = "file")]
        dry_run: bool,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Takes a file out of circulation: nobody can fetch it. A copy of another server's file is not fetched again.
    Quarantine {
        /// Its address: mxc://SERVER/ID.
        file: String,
        /// Let it back in.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Protects a file from quarantine, retention and from going with an event.
    Protect {
        /// Its address: mxc://SERVER/ID.
        file: String,
        /// No longer protect it.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        socket: Socket,
    },
}

/// Which files.
#[derive(Debug, Args)]
pub(crate) struct MediaFilter {
    /// Those that this user uploaded.
    #[arg(long, value_name = "USER", conflicts_with_all = ["room", "ours", "others"])]
    pub(crate) user: Option<String>,
    /// Those that events of this room name or carry, as far as the server can see.
    #[arg(long, value_name = "ROOM", conflicts_with_all = ["ours", "others"])]
    pub(crate) room: Option<String>,
    /// Those of this server.
    #[arg(long, conflicts_with = "others")]
    pub(crate) ours: bool,
    /// Copies of other servers' files.
    #[arg(long)]
    pub(crate) others: bool,
    /// Those that were made longer ago than this, such as "30 d".
    #[arg(long, value_name = "TIME")]
    pub(crate) older_than: Option<String>,
    /// Those that nobody has fetched for so long, such as "30 d".
    #[arg(long, value_name = "TIME")]
    pub(crate) unused_for: Option<String>,
    /// Those that are larger than this, such as "10 MiB".
    #[arg(long, value_name = "SIZE")]
    pub(crate) larger_than: Option<String>,
}
