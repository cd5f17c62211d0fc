//! The threads of a room, the one with the latest event first.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#threading>

use std::{collections::HashSet, sync::Arc};

use allod_matrix::event::redact::redact;

use super::{
    Rooms,
    access::View,
    event::StoredEvent,
    pagination::PaginationToken,
    read::{EXAMINED_MAX, HistoryPage},
};
use crate::{
    database::{Corrupt, Error, Range},
    numbers::UserNumber,
    tables::rooms::ThreadByLatest,
};

/// Which threads are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadWish {
    /// All of them.
    All,
    /// Those whose root or any other event is the viewer's.
    Participated,
}

impl Rooms {
    /// A page of the roots of threads. That of an ignored user is shown redacted.
    pub async fn threads(
        &self,
        view: &View,
        wish: ThreadWish,
        from: Option<PaginationToken>,
        limit: usize,
        ignored: &HashSet<UserNumber>,
    ) -> Result<HistoryPage, Error> {
        let mut cursor = from.unwrap_or(PaginationToken::END);
        let mut page = HistoryPage { events: Vec::new(), start: cursor, end: None };
        let mut examined = 0_usize;
        let room = view.room.number;
        loop {
            let missing = limit.saturating_sub(page.events.len());
            let chunk = missing.saturating_add(8).min(allod_storage::SCAN_ROWS_MAX);
            let range = Range::<ThreadByLatest>::between(&room, &(room, cursor.depth, cursor.number));
            let rows = self.core.database.scan(&range.reversed().limit(chunk)).await?;
            let numbers: Vec<_> = rows.rows.iter().map(|((.., root), ())| *root).collect();
            let roots = self.core.events.load_many(room, &numbers).await?;
            let visible = self.visible(view, &roots).await?;
            let aggregates = self.aggregates(view, &roots).await?;
            let threads = self.thread_views(view, &roots, &aggregates, ignored).await?;
            for (((key, ()), root), visible) in rows.rows.iter().zip(roots).zip(visible) {
                if page.events.len() >= limit {
                    page.end = Some(cursor);
                    return Ok(page);
                }
                cursor = PaginationToken::before(key.1, key.2);
                examined = examined.saturating_add(1);
                let Some(thread) = threads.get(&root.number).filter(|_| visible) else { continue };
                if wish == ThreadWish::All || thread.participated {
                    page.events.push(shown_root(view, root, ignored)?);
                }
            }
            if !rows.more {
                return Ok(page);
            }
            if page.events.len() >= limit || examined >= EXAMINED_MAX {
                page.end = Some(cursor);
                return Ok(page);
            }
        }
    }
}

/// The root as it is, or redacted if the viewer ignores who sent it.
fn shown_root(
    view: &View,
    root: Arc<StoredEvent>,
    ignored: &HashSet<UserNumber>,
) -> Result<Arc<StoredEvent>, Error> {
    if !ignored.contains(&root.record.sender) {
        return Ok(root);
    }
    let redacted = redact(&root.json, &view.room.rules.redaction, None)
        .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not parse")))?;
    Ok(Arc::new(StoredEvent::new(root.number, root.position, root.record.clone(), redacted.into())))
}
