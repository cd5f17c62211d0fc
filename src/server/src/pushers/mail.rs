//! Pushers of mail: what waits for one goes as one mail, once it has waited long enough.
//!
//! What a mail tells of is written down before it is sent: sent again after a crash it has the same Message-ID, by which mail
//! servers and readers tell that it is the same. The rows go when the mail server has taken it.

use allod_storage::Position;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Inner,
    book::Outcome,
    deliver::REFUSALS_MAX,
    digest::{Digest, LINES_MAX, RoomDigest},
};
use crate::{
    consumer::ROWS_MAX,
    database::{Error, Range, Write},
    mail::{Mail, MailFailure},
    numbers::{RoomNumber, UserNumber},
    rooms::{Room, event::StoredEvent, send::Caller},
    tables::push::{MailDigest, MailDigestRow, PusherKey, QueuedPush, QueuedPushRow},
};

/// What no mail server took for this long is given up.
const USEFUL_MS: u64 = 3 * 24 * 3_600_000;
/// Notifications that are looked at for one mail: of what lies behind, the next tells.
const NOTIFICATIONS_MAX: usize = 1_000;

/// What waits, in order.
type Waiting = Vec<(Position, QueuedPushRow)>;

impl Inner {
    /// Sends a mail about what waits for a pusher of mail, if it is time.
    pub(super) async fn deliver_mail(&self, key: &PusherKey, address: &str) -> Result<Outcome, Error> {
        if !self.sources.addresses.has(key.0, address).await? {
            tracing::info!("an address is none of an account any more; the pusher of mail is removed");
            self.remove(key).await?;
            return Ok(Outcome::Done);
        }
        let database = &self.sources.database;
        let known = database.get::<MailDigest>(key).await?.unwrap_or_default();
        // Of what a mail was taken that the server could not write down any more.
        let taken = known.taken_ms.map(|_| Position::new(known.upto));
        let Some(waiting) = self.waiting(key, taken).await? else { return Ok(Outcome::Done) };
        let begun = known.upto > 0 && known.taken_ms.is_none();
        let now_ms = self.sources.clock.now_ms();
        let due_ms = self.due_ms(&waiting, known);
        if !begun && due_ms > now_ms {
            return Ok(Outcome::Later(due_ms));
        }
        let useful: Waiting = waiting
            .into_iter()
            .filter(|(at, _)| !begun || at.get() <= known.upto)
            .take(NOTIFICATIONS_MAX)
            .collect();
        let Some(upto) = useful.last().map(|(at, _)| *at) else {
            // What the mail that was begun told of is gone.
            return self.end_digest(key, known, known.taken_ms.unwrap_or(known.before_ms), &[]).await;
        };
        let fresh: Vec<_> =
            useful.iter().filter(|(_, row)| row.at_ms.saturating_add(USEFUL_MS) >= now_ms).copied().collect();
        let digest = self.digest(key.0, &fresh).await?;
        let rows: Vec<Position> = useful.iter().map(|(at, _)| *at).collect();
        if digest.rooms.is_empty() {
            // All has been read: nothing is said, and nothing is waited for.
            let last_ms = known.taken_ms.unwrap_or(known.before_ms);
            return self.end_digest(key, known, last_ms, &rows).await;
        }
        let last_ms = known.taken_ms.unwrap_or(known.before_ms);
        let row = MailDigestRow { upto: upto.get(), taken_ms: None, before_ms: last_ms };
        self.put_digest(key, &row).await?;
        let mail = self.mail(key, address, upto, &digest);
        match self.sources.mailer.send(mail).await {
            Ok(()) => self.end_digest(key, row, now_ms, &rows).await,
            Err(failure) => self.mail_refused(key, row, &failure, &rows).await,
        }
    }

    /// When there may be a mail: what waits has waited, and the last one is long enough ago.
    fn due_ms(&self, waiting: &[(Position, QueuedPushRow)], known: MailDigestRow) -> u64 {
        let config = self.sources.config.get();
        let oldest_ms = waiting.first().map_or(0, |(_, row)| row.at_ms);
        let last_ms = known.taken_ms.unwrap_or(known.before_ms);
        let after_last = if last_ms == 0 { 0 } else { last_ms.saturating_add(config.mail.pause.as_ms()) };
        oldest_ms.saturating_add(config.mail.delay.as_ms()).max(after_last)
    }

    /// What waits for a pusher; none if nothing does. What a mail told of already goes.
    async fn waiting(&self, key: &PusherKey, taken: Option<Position>) -> Result<Option<Waiting>, Error> {
        let rows = self.sources.database.scan_all(Range::<QueuedPush>::prefix(key)).await?;
        let rows = rows.into_iter().map(|((.., at), row)| (at, row));
        let (told, waiting): (Waiting, Waiting) =
            rows.partition(|(at, _)| taken.is_some_and(|upto| *at <= upto));
        self.forget_rows(key, &told.into_iter().map(|(at, _)| at).collect::<Vec<_>>()).await?;
        Ok(Some(waiting).filter(|waiting| !waiting.is_empty()))
    }

    async fn put_digest(&self, key: &PusherKey, row: &MailDigestRow) -> Result<(), Error> {
        let mut write = Write::new();
        write.put::<MailDigest>(key, row);
        self.sources.database.commit(write).await?;
        Ok(())
    }

    /// A mail was taken, or is not wanted any more: what it tells of is done with.
    async fn end_digest(
        &self,
        key: &PusherKey,
        row: MailDigestRow,
        taken_ms: u64,
        rows: &[Position],
    ) -> Result<Outcome, Error> {
        self.put_digest(key, &MailDigestRow { taken_ms: Some(taken_ms), ..row }).await?;
        self.forget_rows(key, rows).await?;
        // More may wait than one mail tells of.
        match self.waiting(key, Some(Position::new(row.upto))).await? {
            Some(waiting) => {
                let known = MailDigestRow { taken_ms: Some(taken_ms), ..row };
                Ok(Outcome::Later(self.due_ms(&waiting, known)))
            }
            None => Ok(Outcome::Done),
        }
    }

    async fn forget_rows(&self, key: &PusherKey, rows: &[Position]) -> Result<(), Error> {
        for part in rows.chunks(ROWS_MAX) {
            let mut write = Write::new();
            for at in part {
                write.delete::<QueuedPush>(&(key.0, key.1, key.2, *at));
            }
            self.sources.database.commit(write).await?;
        }
        Ok(())
    }

    async fn mail_refused(
        &self,
        key: &PusherKey,
        row: MailDigestRow,
        failure: &MailFailure,
        rows: &[Position],
    ) -> Result<Outcome, Error> {
        let failures = self.book().failures(key);
        if failures == 0 {
            tracing::warn!(%failure, "the mail server took no mail; trying again later");
        }
        match failure {
            MailFailure::Refused(_) if failures >= REFUSALS_MAX => {
                tracing::warn!(%failure, "a mail is given up");
                self.end_digest(key, row, row.before_ms, rows).await
            }
            MailFailure::Refused(_) | MailFailure::Unreachable(_) => Ok(Outcome::Failed),
        }
    }

    fn mail(&self, key: &PusherKey, address: &str, upto: Position, digest: &Digest) -> Mail {
        let database = &self.sources.database;
        let of = format!("{}\0{}\0{:?}\0{}", key.0.0, key.1.0, key.2.0, upto.get());
        let id = database.hash("mail", of).0;
        Mail {
            to: address.to_owned(),
            id: URL_SAFE_NO_PAD.encode(id),
            subject: digest.subject(),
            text: digest.text(),
            html: digest.html(),
        }
    }

    /// What is unread of what waits, by room, in the order in which it came.
    async fn digest(&self, user: UserNumber, waiting: &[(Position, QueuedPushRow)]) -> Result<Digest, Error> {
        let config = self.sources.config.get();
        let server = self.sources.users.server_name().to_string();
        let mut digest = Digest { server, rooms: Vec::new(), link: config.mail.link.clone() };
        let Some(user_id) = self.sources.users.id(user).await? else { return Ok(digest) };
        let caller = Caller { user_id, user, device: None };
        let tells = config.mail.content && !config.push.event_id_only;
        let mut places: Vec<RoomNumber> = Vec::new();
        for (at, row) in waiting {
            let Some(event) = self.sources.rooms.events().get(row.room, row.event).await? else { continue };
            let room = self.sources.rooms.get(row.room).await?;
            if !row.invites && !self.is_news(&room, &caller, *at, &event).await? {
                continue;
            }
            let place = places.iter().position(|known| *known == row.room).unwrap_or(places.len());
            if place == places.len() {
                places.push(row.room);
                let name = if tells { Some(self.room_name(&room).await?) } else { None };
                digest.rooms.push(RoomDigest { name, ..RoomDigest::default() });
            }
            let Some(shown) = digest.rooms.get_mut(place) else { continue };
            shown.unread = shown.unread.saturating_add(1);
            if tells && shown.lines.len() < LINES_MAX {
                shown.lines.push(self.line(&room, &event).await?);
            }
        }
        Ok(digest)
    }

    async fn room_name(&self, room: &Room) -> Result<String, Error> {
        for (kind, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
            if let Some(name) = self.current_text(room, kind, "", field).await? {
                return Ok(name);
            }
        }
        Ok("A conversation".to_owned())
    }

    /// Who said something, and what.
    async fn line(&self, room: &Room, event: &StoredEvent) -> Result<(String, String), Error> {
        let pdu = event.pdu(room)?;
        let name = self.current_text(room, "m.room.member", pdu.sender.as_str(), "displayname").await?;
        let who = name.unwrap_or_else(|| pdu.sender.localpart().to_owned());
        let body = pdu
            .content_as::<serde_json::Value>()
            .and_then(|content| Some(content.get("body")?.as_str()?.to_owned()));
        let what = match pdu.kind.as_str() {
            "m.room.encrypted" => "an encrypted message".to_owned(),
            "m.room.member" => "an invitation".to_owned(),
            _ => body.unwrap_or_else(|| "something".to_owned()),
        };
        Ok((who, what))
    }
}
