//! Mail that this server sends: what a mail is, and the way to the mail server that the configuration names.
//!
//! A port, so that who sends mail can be tested without a network. What is sent and to whom is decided elsewhere.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};

use crate::{
    clock::Clock,
    config::{Live, MailTls, Secret, SecretError, SecretFile},
    egress::{Egress, EgressError, Purpose},
};

/// How long a mail server may take to answer each command.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// A mail to one person.
#[derive(Clone, PartialEq, Eq)]
pub struct Mail {
    /// Whom it is for: an address.
    pub to: String,
    /// Tells it apart from all others: the part before the `@` of its Message-ID. A mail that is sent again has the same.
    pub id: String,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same in HTML.
    pub html: String,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Mail").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a mail was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailFailure {
    /// The mail server will not take it, now or later.
    #[error("{0}")]
    Refused(String),
    /// The mail server was not reached, or is in trouble.
    #[error("{0}")]
    Unreachable(String),
}

/// Sends mail.
pub trait Mailer: Send + Sync {
    /// Hands a mail over to the mail server.
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), MailFailure>>;
}

impl std::fmt::Debug for dyn Mailer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Mailer")
    }
}

/// Whether a text is the address of somebody who can be sent mail.
pub fn is_address(text: &str) -> bool {
    text.parse::<Address>().is_ok()
}

/// Sends it through the gate, by SMTP.
#[derive(Debug)]
pub struct SmtpMailer {
    egress: Egress,
    config: Live,
    clock: Clock,
    password: Option<Secret>,
}

impl SmtpMailer {
    /// Over a gate, with the password that the configuration names.
    pub fn open(egress: Egress, config: Live, clock: Clock) -> Result<Arc<Self>, SecretError> {
        let password = config.get().mail.password.as_ref().map(SecretFile::read).transpose()?;
        Ok(Arc::new(Self { egress, config, clock, password }))
    }

    async fn hand_over(&self, mail: &Mail) -> Result<(), MailFailure> {
        let config = self.config.get();
        let off = || MailFailure::Unreachable(EgressError::Off("mail").to_string());
        let host = config.mail.host.clone().ok_or_else(off)?;
        let from: Mailbox = config.mail.from.as_deref().and_then(|from| from.parse().ok()).ok_or_else(off)?;
        let message = self.message(mail, from)?;
        let port = config.mail.port.unwrap_or(config.mail.tls.port());
        let checked = self
            .egress
            .addresses(Purpose::Mail, &host, port)
            .await
            .map_err(|error| MailFailure::Unreachable(error.to_string()))?;
        let bytes = message.formatted().len();
        let mut failure = off();
        for address in checked.addresses() {
            self.egress.sent(Purpose::Mail, &host, bytes);
            let transport = self.transport(&host, *address).map_err(MailFailure::Unreachable)?;
            match transport.send(message.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_permanent() => return Err(MailFailure::Refused(said(&error))),
                Err(error) => failure = MailFailure::Unreachable(said(&error)),
            }
        }
        Err(failure)
    }

    fn message(&self, mail: &Mail, from: Mailbox) -> Result<Message, MailFailure> {
        let refused = |error: &dyn std::fmt::Display| MailFailure::Refused(error.to_string());
        let to: Address = mail.to.parse().map_err(|error| refused(&error))?;
        let domain = from.email.domain().to_owned();
        // Answering machines leave it unanswered.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(from)
            .to(Mailbox::new(None, to))
            .date(self.clock.now().to_system_time().unwrap_or(std::time::UNIX_EPOCH))
            .message_id(Some(format!("<{}@{domain}>", mail.id)))
            .subject(mail.subject.clone())
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|error| refused(&error))
    }

    /// The way to one address of the mail server, whose certificate must have the host's name.
    fn transport(
        &self,
        host: &str,
        address: std::net::SocketAddr,
    ) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let config = self.config.get();
        let tls = match config.mail.tls {
            MailTls::Always => Tls::Wrapper(self.tls(host)?),
            MailTls::Starttls => Tls::Required(self.tls(host)?),
            MailTls::Never => Tls::None,
        };
        // The name was resolved by the gate; a literal address is not resolved again.
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
            .port(address.port())
            .tls(tls)
            .timeout(Some(COMMAND_TIME_MAX));
        if let (Some(user), Some(password)) = (&config.mail.user, &self.password) {
            builder = builder.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(builder.build())
    }

    fn tls(&self, host: &str) -> Result<TlsParameters, String> {
        let mut builder = TlsParameters::builder(host.to_owned());
        for file in &self.config.get().federation.certificate_authorities {
            let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let certificate = Certificate::from_pem(&text).map_err(|error| chain(&error))?;
            builder = builder.add_root_certificate(certificate);
        }
        builder.build().map_err(|error| chain(&error))
    }
}

impl Mailer for SmtpMailer {
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), MailFailure>> {
        Box::pin(async move { self.hand_over(&mail).await })
    }
}

/// What a mail server answered, as a number alone: its words may hold the address.
fn said(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => format!("the mail server answered {code}"),
        None => chain(error),
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
