//! The index of words, written with the events: an event that is shown is found, and one that is redacted no longer.

use allod_matrix::event::pdu::Pdu;

use super::Writer;
use crate::{
    database::{Error, Write},
    numbers::EventNumber,
    rooms::{event::StoredEvent, words},
    tables::search::SearchPosting,
};

impl Writer {
    /// Adds the words of an event that is shown from now on. A room that becomes encrypted is forgotten as a whole.
    pub(super) fn put_words(&self, pdu: &Pdu, depth: u64, number: EventNumber, write: &mut Write) {
        if !self.core.options.search {
            return;
        }
        if pdu.kind == "m.room.encryption" && pdu.state_key.as_deref() == Some("") {
            write.delete_prefix::<SearchPosting>(&self.room.number);
            write.erase::<SearchPosting>(&self.room.number);
            return;
        }
        if pdu.kind == "m.room.message" && self.current("m.room.encryption", "").is_some() {
            return;
        }
        for (key, row) in words::postings(&self.core.database, &self.room, pdu, (depth, number)) {
            write.put::<SearchPosting>(&key, &row);
        }
    }

    /// Takes away the words of an event that is redacted; its JSON is still whole.
    pub(super) fn forget_words(&self, target: &StoredEvent, write: &mut Write) -> Result<(), Error> {
        if target.redacted_by.is_none() {
            let place = (target.record.depth, target.number);
            words::forget(&self.core.database, &self.room, &*target.pdu(&self.room)?, place, write);
        }
        Ok(())
    }
}
