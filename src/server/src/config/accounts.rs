//! The `[accounts]` section.

use serde::{Deserialize, Serialize};

use super::{
    option::section,
    secret::SecretFile,
    value::{ByteSize, Interval},
};

/// Who may make an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Nobody but administrators.
    #[default]
    Closed,
    /// Whoever has a registration token.
    Token,
    /// Anyone who can reach the server.
    Open,
}

section! {
    /// Accounts, passwords and sessions.
    Accounts = "accounts" {
        /// Who may make an account. "closed": only administrators make them; "token": whoever has a registration token;
        /// "open": anyone who can reach the server.
        registration: Registration = Registration::Closed;
        /// Whether guests may come in without an account.
        guests: bool = false;
        /// File with a secret that allows programs to make accounts, also administrators', at
        /// /_synapse/admin/v1/register.
        registration_secret: Option<SecretFile> = None => "/etc/allod/registration.secret";
        /// Whether users sign in by password.
        passwords: bool = true;
        /// Fewest letters of a new password.
        password_length: u32 = 8;
        /// Memory that checking a password takes. This and the two options below make guessing slow, on purpose.
        password_memory: ByteSize = ByteSize::mib(19);
        /// How often that memory is gone through.
        password_iterations: u32 = 2;
        /// Passwords checked at the same time.
        password_threads: u32 = 2;
        /// How long an access token is valid whose client can refresh it.
        access_token: Interval = Interval::seconds(300);
        /// How long a client may stay away and still refresh its access token; without this, for ever.
        refresh_token: Option<Interval> = None => "90 d";
        /// How long an access token is valid whose client cannot refresh it; without this, until it signs out. Clients
        /// then sign in again and keep their keys.
        lasting_access_token: Option<Interval> = None => "90 d";
        /// Devices that one user may have.
        devices: u32 = 1000;
        /// Whether users see when and from which network (never from which address) each of their devices was last
        /// used. Kept to the hour, for 28 days.
        last_seen: bool = true;
    }
    check check_accounts;
}

impl Accounts {
    /// The lowest costs of passwords there are: for tests only.
    #[must_use]
    pub fn with_cheap_passwords(mut self) -> Self {
        self.password_memory = ByteSize::kib(8);
        self.password_iterations = 1;
        self
    }
}

fn check_accounts(accounts: &Accounts) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    for (key, value) in [
        ("password_length", accounts.password_length),
        ("password_iterations", accounts.password_iterations),
        ("password_threads", accounts.password_threads),
        ("devices", accounts.devices),
    ] {
        if value == 0 {
            problems.push((key, "must be at least 1".to_owned()));
        }
    }
    if accounts.password_memory < ByteSize::kib(8) || accounts.password_memory > ByteSize::mib(1024) {
        problems.push(("password_memory", "must lie between 8 KiB and 1 GiB".to_owned()));
    }
    problems
}
