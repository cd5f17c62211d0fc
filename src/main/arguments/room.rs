//! The arguments of `allod room`.

use clap::{Args, Subcommand};
use ruma::OwnedRoomId;

use super::Socket;

#[derive(Debug, Subcommand)]
pub(crate) enum Room {
    /// Lists the rooms.
    List {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Shows a room: its members, its servers, how many events it has.
    Show {
        /// The room's id.
        room: OwnedRoomId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Deletes a room: everybody of this server leaves it, and all that is stored of it goes, messages and files.
    Delete(DeleteRoom),
    /// Lists the rooms that were deleted, or are being deleted.
    Deletions {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lets nobody of this server enter a room, whether it is known here or not. Who is in it stays.
    Block {
        /// The room's id.
        room: OwnedRoomId,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lets people enter a room again that was blocked.
    Unblock {
        /// The room's id.
        room: OwnedRoomId,
        #[command(flatten)]
        socket: Socket,
    },
}

/// How `allod room delete` is asked to do it.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[derive(Debug, Args)]
pub(crate) struct DeleteRoom {
    /// The room's id.
    pub(crate) room: OwnedRoomId,
    /// Let nobody of this server enter the room again.
    #[arg(long)]
    pub(crate) block: bool,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not wait until it is done.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Print JSON, an object for each step.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: Socket,
}
