//! What is left of a room once it is unknown: files that only its events had, and all of its rows.

use crate::{
    database::{Error, Range, Write},
    log::Happened,
    numbers::RoomNumber,
    rooms::{Rooms, writer},
    tables::{
        media::EventMedia,
        outbox::LaggingRoom,
        rooms::{Report, ReportSubject},
    },
};

/// Rows of one page.
const PAGE_ROWS: usize = 500;

impl Rooms {
    /// Lets go of the first files of a room's events; how many that were.
    pub(crate) async fn loosen_files(&self, room: RoomNumber, write: &mut Write) -> Result<u64, Error> {
        let page = self.core.database.scan(&Range::<EventMedia>::prefix(&room).limit(PAGE_ROWS)).await?;
        let now_ms = self.core.clock.now_ms();
        for (key, row) in &page.rows {
            writer::loosen(*key, *row, now_ms, write);
        }
        if !page.rows.is_empty() {
            write.log(Happened::LooseMedia);
        }
        Ok(u64::try_from(page.rows.len()).unwrap_or(u64::MAX))
    }

    /// Deletes all rows of a room that nothing finds any more; the tables that have some still, since somebody was about to
    /// write them.
    pub(crate) async fn delete_rows(&self, room: RoomNumber) -> Result<Vec<&'static str>, Error> {
        let database = &self.core.database;
        let mut write = Write::new();
        write.delete_rows_of_room(room);
        database.commit(write).await?;
        self.core.events.forget_room(room);
        self.delete_pointers(room).await?;
        database.tables_with_rows_of_room(room).await
    }

    /// Rows of the whole server that name the room: where other servers are behind, and what was reported of it.
    async fn delete_pointers(&self, room: RoomNumber) -> Result<(), Error> {
        let database = &self.core.database;
        let mut range = Range::<LaggingRoom>::whole().limit(PAGE_ROWS);
        loop {
            let page = database.scan(&range).await?;
            let mut write = Write::new();
            for (key, _) in page.rows.iter().filter(|((_, lagging), _)| *lagging == room) {
                write.delete::<LaggingRoom>(key);
            }
            if !write.is_empty() {
                database.commit(write).await?;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => break,
            }
        }
        let mut range = Range::<Report>::whole().limit(PAGE_ROWS);
        loop {
            let page = database.scan(&range).await?;
            let mut write = Write::new();
            for (key, report) in &page.rows {
                let of_room = match report.subject {
                    ReportSubject::Event { room: reported, .. } | ReportSubject::Room { room: reported } => {
                        reported == room
                    }
                    ReportSubject::User { .. } => false,
                };
                if of_room {
                    write.delete::<Report>(key);
                    write.erase::<Report>(key);
                }
            }
            if !write.is_empty() {
                database.commit(write).await?;
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Ok(()),
            }
        }
    }
}
