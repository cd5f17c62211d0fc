//! Which files events name or carry, written with the events, so that files go with them.

use allod_matrix::event::pdu::Pdu;

use super::Writer;
use crate::{
    database::{Error, Range, Write},
    log::Happened,
    named_media::{ATTACHED, NAMED, NAMED_MAX, named_in},
    numbers::{EventNumber, Hash128, RoomNumber, UserNumber},
    rooms::event::StoredEvent,
    tables::{
        Stamped,
        media::{
            EventMedia, EventMediaRow, LooseMedia, MediaReference, MediaRestriction, MediaSender, Restriction,
        },
    },
};

impl Writer {
    /// Notes the files that an event names that is shown from now on.
    pub(super) fn put_media(&self, pdu: &Pdu, sender: UserNumber, number: EventNumber, write: &mut Write) {
        let (database, room) = (&self.core.database, self.room.number);
        let own = self.core.identity.server_name();
        for named in named_in(pdu.content.get(), NAMED_MAX) {
            let is_own = named.server == own.as_str();
            // Pictures of other servers' people come with every join, and can be fetched anew.
            if pdu.kind == "m.room.member" && !is_own {
                continue;
            }
            let key = named.key(database);
            write.put::<MediaReference>(&(key, room, number), &());
            write.put::<EventMedia>(&(room, number, key), &EventMediaRow { attached: false });
            // Whoever is about to delete it hears of this by the row that is gone.
            write.delete::<LooseMedia>(&(key, NAMED));
            if is_own && self.core.identity.is_ours(&pdu.sender) {
                write.put::<MediaSender>(&(key, sender), &());
            }
        }
    }

    /// Attaches files to an event that is built: each must be attached to nothing until then.
    pub(super) fn attach(&self, attached: &[Hash128], pdu: &Pdu, number: EventNumber, write: &mut Write) {
        let room = self.room.number;
        for key in attached {
            let event_id = pdu.event_id.to_string();
            write.equals::<MediaRestriction>(key, &Restriction::Unattached);
            write.put::<MediaRestriction>(key, &Restriction::Event { room: Some(room), event_id });
            write.put::<EventMedia>(&(room, number, *key), &EventMediaRow { attached: true });
        }
    }

    /// Takes away what a redacted event named and carried; what is loose then is looked at behind the commit.
    pub(super) async fn forget_media(&self, target: &StoredEvent, write: &mut Write) -> Result<(), Error> {
        let event = (self.room.number, target.number);
        let rows = self.core.database.scan_all(Range::<EventMedia>::prefix(&event)).await?;
        let now_ms = self.core.clock.now_ms();
        for (key, row) in &rows {
            loosen(*key, *row, now_ms, write);
        }
        if !rows.is_empty() {
            write.log(Happened::LooseMedia);
        }
        Ok(())
    }
}

/// Forgets that an event names or carries a file, and has somebody look at the file.
pub(in crate::rooms) fn loosen(
    key: (RoomNumber, EventNumber, Hash128),
    row: EventMediaRow,
    now_ms: u64,
    write: &mut Write,
) {
    let (room, event, file) = key;
    write.delete::<EventMedia>(&key);
    write.delete::<MediaReference>(&(file, room, event));
    let kind = if row.attached { ATTACHED } else { NAMED };
    write.put::<LooseMedia>(&(file, kind), &Stamped::pending(now_ms));
}
