//! The `[mail]` section.

use std::time::Duration;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::{option::section, secret::SecretFile, value::Interval};

/// How long a notification waits for others before a mail tells of them, unless configured otherwise.
const DELAY: Duration = Duration::from_secs(600);
/// How long at least lies between two mails to a person, unless configured otherwise.
const PAUSE: Duration = Duration::from_secs(3600);

section! {
    /// Mail: digests of what people have not read, for those who ask their application for it. It goes to addresses that an
    /// administrator has given their accounts (`allod user add-address`).
    Mail = "mail" {
        /// The mail server that takes this server's mail. Not set: no mail is sent.
        host: Option<String> = None => "smtp.example.org", Reloaded;
        /// Its port. Not set: 465 with tls = "always", 587 with "starttls", 25 with "never".
        port: Option<u16> = None => "587", Reloaded;
        /// Whether the connection is encrypted: "always" from the start, "starttls" before anything is said, "never".
        tls: MailTls = MailTls::Always, Reloaded;
        /// Who signs in there, if the mail server asks for it.
        user: Option<String> = None => "chat@example.org", Reloaded;
        /// File with the password.
        password: Option<SecretFile> = None => "/etc/allod/mail.password";
        /// Whom mail comes from.
        from: Option<String> = None => "Chat <chat@example.org>", Reloaded;
        /// Whether mail says who wrote what, and in which room. Otherwise it says only how much is unread. What is
        /// encrypted it never says.
        content: bool = false, Reloaded;
        /// How long something must be unread before a mail tells of it, and of all else that is unread then.
        delay: Interval = Interval(DELAY), Reloaded;
        /// How long at least lies between two mails to a person.
        pause: Interval = Interval(PAUSE), Reloaded;
        /// Where people read their messages: an address that mail names.
        link: Option<String> = None => "https://chat.example.org", Reloaded;
    }
    check |mail| {
        let mut problems = Vec::new();
        if mail.host.is_some() && mail.from.is_none() {
            problems.push(("from", "must be set with host".to_owned()));
        }
        if let Some(from) = &mail.from && from.parse::<Mailbox>().is_err() {
            problems.push(("from", format!("{from:?} is no mail address; write it like \"Chat <chat@example.org>\"")));
        }
        if mail.user.is_some() != mail.password.is_some() {
            problems.push(("password", "user and password are set together".to_owned()));
        }
        if mail.password.is_some() && mail.tls == MailTls::Never {
            problems.push(("tls", "\"never\" would send the password for all to read".to_owned()));
        }
        if let Some(link) = &mail.link && !(link.starts_with("https://") || link.starts_with("http://")) {
            problems.push(("link", format!("{link:?} must begin with https:// (or http://, for tests)")));
        }
        problems
    };
}

/// Whether the connection to the mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    /// From its first byte.
    Always,
    /// After a greeting in clear, before anything is said.
    Starttls,
    /// Never.
    Never,
}

impl MailTls {
    /// The port where a mail server listens for it.
    pub const fn port(self) -> u16 {
        match self {
            Self::Always => 465,
            Self::Starttls => 587,
            Self::Never => 25,
        }
    }
}
