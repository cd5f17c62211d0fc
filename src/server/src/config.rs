//! The configuration: one TOML file, a section a module, read strictly.
//!
//! Owns what options there are, their defaults and their checks; it starts nothing and holds no service. An option that
//! is not known, a value that does not parse and a combination that makes no sense are [`Problem`]s that name file, line
//! and option: nothing is ignored. Secrets are in files of their own ([`SecretFile`]).

use serde::{Deserialize, Serialize};

pub mod accounts;
mod appservices;
mod backup;
mod calls;
mod egress;
mod ephemeral;
mod example;
mod federation;
mod limits;
mod listeners;
mod logging;
mod mail;
mod media;
mod notices;
mod option;
mod page;
mod push;
mod read;
mod reload;
mod rooms;
mod scan;
mod secret;
mod server;
mod storage;
mod value;

pub use self::{
    accounts::{Accounts, Registration},
    appservices::Appservices,
    backup::Backup,
    calls::Calls,
    egress::Egress,
    ephemeral::Ephemeral,
    example::{Filled, Preset, example, short},
    federation::{Federation, FederationMode, PartnerRule, Refusable},
    limits::Limits,
    listeners::Listeners,
    logging::{LogFormat, Logging},
    mail::{Mail, MailTls},
    media::Media,
    notices::Notices,
    option::{Note, OptionInfo, Section, SectionInfo},
    page::options_page,
    push::Push,
    read::{Overrides, Problem, Problems, load, parse},
    reload::{Change, Live},
    rooms::{Encrypt, ROOM_VERSIONS, Rooms, Who},
    scan::{IcapAddress, SCAN_FILE, Scanner},
    secret::{Secret, SecretError, SecretFile},
    server::Server,
    storage::{Storage, available_bytes},
    value::{ByteSize, Interval, ListenAddress, Network, Period, Rate},
};

/// Lists the sections once, in the order of the file.
macro_rules! sections {
    ($($field:ident: $section:ty,)*) => {
        /// All that can be configured.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(
                #[doc = concat!("The `[", stringify!($field), "]` section.")]
                pub $field: $section,
            )*
        }

        /// The facts of all sections.
        pub const SECTIONS: &[SectionInfo] = &[$(<$section as Section>::INFO),*];

        impl Config {
            /// What is wrong with the values taken together: section, option, and what to say about it.
            fn problems(&self) -> Vec<(&'static str, &'static str, String)> {
                let mut problems = Vec::new();
                $(problems.extend(
                    self.$field.problems().into_iter().map(|(key, text)| (<$section as Section>::INFO.key, key, text)),
                );)*
                problems
            }
        }
    };
}

sections! {
    server: Server,
    listeners: Listeners,
    storage: Storage,
    backup: Backup,
    accounts: Accounts,
    rooms: Rooms,
    federation: Federation,
    egress: Egress,
    ephemeral: Ephemeral,
    media: Media,
    push: Push,
    mail: Mail,
    appservices: Appservices,
    calls: Calls,
    notices: Notices,
    limits: Limits,
    logging: Logging,
}

impl Config {
    /// Lets a server over a copy of the data keep to itself: it sends nothing to other servers, push gateways,
    /// application services and mail servers, and makes no backups.
    pub fn keep_to_itself(&mut self) {
        self.federation.mode = FederationMode::Off;
        self.push.enabled = false;
        self.mail.host = None;
        self.appservices.registrations.clear();
        self.media.previews.clear();
        self.backup.folder = None;
    }
}
