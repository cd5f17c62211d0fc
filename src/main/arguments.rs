//! What can be said on the command line.

use std::path::PathBuf;

use allod_server::config::{self, Config, Interval, Overrides, Preset, Problems};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ruma::{OwnedRoomId, OwnedServerName};

pub(crate) use self::{
    media::{Media, MediaFilter},
    room::{DeleteRoom, Room},
};

#[path = "arguments/media.rs"]
mod media;
#[path = "arguments/room.rs"]
mod room;

/// A Matrix homeserver that a company holds outright.
#[derive(Debug, Parser)]
#[command(name = "allod", version, about, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the server until it is told to stop (SIGTERM or Ctrl-C).
    Serve(Serve),
    /// Says what is wrong with a configuration, and where.
    CheckConfig(ConfigFile),
    /// Looks at the configuration and this machine for what will make trouble, and says what to do about it.
    Check(Check),
    /// Prints a configuration to begin with, every option explained.
    GenerateConfig(GenerateConfig),
    /// Checks that all of the database agrees with the events in it; on a running server or a stopped one.
    Fsck(Fsck),
    /// Makes backups of a running server or a stopped one, lists and checks them.
    #[command(subcommand)]
    Backup(Backup),
    /// Brings a backup back, on a machine without data.
    Restore(Restore),
    /// Looks at what is between this server and others, and changes the key that it signs with.
    #[command(subcommand)]
    Federation(Federation),
    /// Looks at files that people uploaded, deletes them, or takes them out of circulation.
    #[command(subcommand)]
    Media(Media),
    /// Makes and changes accounts of the running server.
    #[command(subcommand)]
    User(User),
    /// Says how the running server is: database, queues, servers that are not reached, memory.
    Status(Status),
    /// Lists what the running server does by itself.
    #[command(subcommand)]
    Task(Task),
    /// Looks at the rooms of the running server, not at what is said in them; deletes and blocks them.
    #[command(subcommand)]
    Room(Room),
    /// Makes tokens with which people make accounts themselves, where accounts.registration is "token".
    #[command(subcommand)]
    RegistrationToken(RegistrationToken),
    /// Writes what documents this program, for those who package it.
    #[command(subcommand, hide = true)]
    Document(Document),
}

/// What `allod document` is asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Document {
    /// Writes a manual page for every command into a folder.
    ManPages {
        /// The folder, which must be there.
        folder: PathBuf,
    },
    /// Prints what a shell completes the commands by.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Prints all commands in Markdown.
    Commands,
    /// Prints all options of the configuration in Markdown.
    Options,
}

/// Where the configuration is.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigFile {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "ALLOD_CONFIG", default_value = "/etc/allod/allod.toml")]
    pub(crate) config: PathBuf,
    /// The server's name, for a configuration that does not say it.
    #[arg(long, value_name = "NAME", env = "SERVER_NAME")]
    pub(crate) server_name: Option<OwnedServerName>,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file [default: /etc/allod/allod.toml; with --dev: none].
    #[arg(long, short, value_name = "FILE", env = "ALLOD_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The server's name, for a configuration that does not say it.
    #[arg(long, value_name = "NAME", env = "SERVER_NAME")]
    pub(crate) server_name: Option<OwnedServerName>,
    /// For building and testing clients, on this machine only: anyone may register, nothing is limited, everyone may
    /// publish rooms.
    #[arg(long)]
    pub(crate) dev: bool,
    /// The port on the loopback address [default: 8008].
    #[arg(long, requires = "dev")]
    pub(crate) port: Option<u16>,
    /// Where data is kept [default: nowhere; all is forgotten at the end].
    #[arg(long, value_name = "FOLDER", requires = "dev")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The secret of /_synapse/admin/v1/register.
    #[arg(long, value_name = "SECRET", requires = "dev")]
    pub(crate) registration_shared_secret: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateConfig {
    /// What the server is for.
    #[arg(long, value_enum, default_value = "internal")]
    pub(crate) preset: PresetName,
    /// The server's name, the part behind the colon in user ids.
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<OwnedServerName>,
    /// The folder for the database.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A server that preset "partners" talks to; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) partner: Vec<OwnedServerName>,
    /// Leave out the options that keep their defaults.
    #[arg(long)]
    pub(crate) short: bool,
}

/// The presets, as arguments.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PresetName {
    /// Talks to no other server.
    Internal,
    /// Talks to the servers of named partners.
    Partners,
    /// Talks to all servers.
    Open,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Internal => Self::Internal,
            PresetName::Partners => Self::Partners,
            PresetName::Open => Self::Open,
        }
    }
}

/// What `allod check` is asked to do.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print JSON, an object a line.
    #[arg(long)]
    pub(crate) json: bool,
    /// Fail also if something is merely doubtful.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

impl ConfigFile {
    /// Reads it.
    pub(crate) fn load(&self) -> Result<Config, Problems> {
        config::load(&self.config, &Overrides { server_name: self.server_name.clone() })
    }
}

impl Socket {
    /// The configuration, and where the server's admin socket is.
    pub(crate) fn load(&self) -> Result<(Config, PathBuf), Problems> {
        let config = self.file.load()?;
        let named = self.socket.clone();
        let socket = named.unwrap_or_else(|| config.listeners.admin_socket(&config.server.data_dir));
        Ok((config, socket))
    }
}

/// What `allod fsck` is asked to do.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Only this room, by its id.
    #[arg(long, value_name = "ROOM")]
    pub(crate) room: Option<OwnedRoomId>,
    /// Put right what can be computed from the events.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print JSON, an object a room and line.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

/// What `allod backup` is asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Backup {
    /// Makes a backup of everything: database, media, signing key and configuration.
    Create {
        /// The folder of the backups; it is made if it is not there. A later backup in it costs what changed.
        folder: PathBuf,
        /// Remove all but this many of the newest.
        #[arg(long, value_name = "COUNT")]
        keep: Option<usize>,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists the backups in a folder, the oldest first.
    List {
        /// The folder of the backups.
        folder: PathBuf,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
    },
    /// Proves that a backup can be restored: brings it back in a scratch folder and checks all of its database.
    Verify {
        /// The folder of the backups.
        folder: PathBuf,
        /// Which one, as `allod backup list` calls it [default: the newest].
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
        /// Where there is room for it, for as long as this takes [default: the system's folder for temporary files].
        #[arg(long, value_name = "FOLDER")]
        scratch: Option<PathBuf>,
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// What `allod restore` is asked to do.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The folder of the backups.
    pub(crate) folder: PathBuf,
    /// Which one, as `allod backup list` calls it [default: the newest].
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Federation {
    /// Walks the way to another server: policy, discovery, TLS, keys, a signed request. Says what is wrong, and what to do.
    Check {
        /// The server's name.
        server: OwnedServerName,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists how often the configuration kept this server from talking to others, since it was started.
    Refusals {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists what other servers were given: of one server, one room, or one user.
    Ledger {
        /// What a server was given (`partner.example`), or who was given what of a room (`!...`) or of a user (`@...`).
        subject: String,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists the other machines that this server has spoken to, and what for.
    Contacts {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Makes a new signing key; the one before is kept for verifying what it signed. Restart the server after it.
    RotateKey {
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Makes an account and prints its password.
    Create {
        /// The name: the part before the colon, or the whole id.
        name: String,
        /// Make it an administrator of the server.
        #[arg(long)]
        admin: bool,
        /// Read the password from the first line of standard input instead of making one up.
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists the accounts.
    List {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists a person's devices: their keys that are left, and what waits for them or was refused; and the servers that did
    /// not answer within the last 30 days when they were asked for keys.
    Devices {
        /// The name: the part before the colon, or the whole id.
        name: String,
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists an account's mail addresses, which its person may have mail sent to.
    Addresses {
        /// The name: the part before the colon, or the whole id.
        name: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Gives an account a mail address, without asking its person: make sure that it is theirs.
    AddAddress {
        /// The name: the part before the colon, or the whole id.
        name: String,
        /// The mail address.
        address: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Takes a mail address away from an account. No more mail goes there.
    RemoveAddress {
        /// The name: the part before the colon, or the whole id.
        name: String,
        /// The mail address.
        address: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Gives an account a new password and signs its devices out.
    ResetPassword {
        /// The name: the part before the colon, or the whole id.
        name: String,
        /// Read the password from the first line of standard input instead of making one up.
        #[arg(long)]
        password_stdin: bool,
        /// Leave the account's devices signed in.
        #[arg(long)]
        keep_devices: bool,
        #[command(flatten)]
        socket: Socket,
    },
}

/// What `allod status` is asked to do.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: Socket,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Lists the tasks that run, by name.
    List {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegistrationToken {
    /// Makes a token and prints it.
    Create {
        /// The token: letters, digits and . _ ~ - [default: one is made up].
        #[arg(long)]
        token: Option<String>,
        /// How many accounts may be made with it [default: any number].
        #[arg(long, value_name = "COUNT")]
        uses: Option<u32>,
        /// For how long, such as "7 d" or "2 h" [default: for ever].
        #[arg(long, value_name = "TIME")]
        valid: Option<Interval>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Lists the tokens.
    List {
        /// Print JSON, an object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        socket: Socket,
    },
    /// Deletes a token; accounts made with it stay.
    Delete {
        /// The token.
        token: String,
        #[command(flatten)]
        socket: Socket,
    },
}

/// How the running server is reached.
#[derive(Clone, Debug, Args)]
pub(crate) struct Socket {
    #[command(flatten)]
    pub(crate) file: ConfigFile,
    /// The server's admin socket [default: as the configuration says].
    #[arg(long, value_name = "PATH", env = "ALLOD_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}
