//! Changes that are too large for one batch: what nobody looks at yet is stored ahead, and one small batch makes it count.
//!
//! State nodes are named by their content and the flat state stands under an epoch that the head does not name yet, so
//! that what a crash leaves behind means nothing. Memberships of other servers' users are written ahead too: until the
//! head follows they are told earlier than the state, and handing the same events in again makes them right.

use std::sync::Arc;

use allod_matrix::state::{Difference, Root, Selection, scan};
use bytes::Bytes;

use super::{Writer, state::CHUNK_CHANGES};
use crate::{
    database::{Error, Write},
    numbers::{EventNumber, Hash128},
    tables::rooms::{FlatState, StateRoot},
};

/// More changes of the current state than this are stored ahead of the batch.
pub(super) const CHANGES_MAX: usize = 1_000;
/// More bytes of state nodes than this are stored ahead of the batch.
const NODE_BYTES_MAX: usize = 256 << 10;
/// Rows of a batch of flat state.
const CHUNK_ROWS: usize = 4_000;

impl Writer {
    /// Stores state nodes: in the batch, or ahead of it.
    pub(super) async fn put_nodes(
        &self,
        rows: Vec<(Hash128, Bytes)>,
        write: &mut Write,
    ) -> Result<(), Error> {
        let bytes_of = |rows: &[(Hash128, Bytes)]| rows.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        if bytes_of(&rows) <= NODE_BYTES_MAX {
            for row in &rows {
                self.put_node(row, write);
            }
            return Ok(());
        }
        let mut ahead = Write::new();
        let mut bytes = 0_usize;
        for row in rows {
            bytes = bytes.saturating_add(row.1.len());
            self.put_node(&row, &mut ahead);
            if bytes > NODE_BYTES_MAX {
                self.core.database.commit(std::mem::take(&mut ahead)).await?;
                bytes = 0;
            }
        }
        if !ahead.is_empty() {
            self.core.database.commit(ahead).await?;
        }
        Ok(())
    }

    /// What follows from a large change of the current state, under a new epoch.
    pub(super) async fn apply_in_bulk(
        &mut self,
        root: StateRoot,
        changes: &[Difference],
        write: &mut Write,
    ) -> Result<(), Error> {
        let (room, old) = (self.room.number, self.head.epoch);
        let epoch = old.saturating_add(1);
        let mut ahead = Write::new();
        // An attempt that did not come to its end may have left some.
        ahead.delete_prefix::<FlatState>(&(room, epoch));
        self.core.database.commit(ahead).await?;
        let tree = Root::from_bytes(root.0);
        let core = Arc::clone(&self.core);
        let mut after = None;
        loop {
            let page = core
                .states
                .run(&self.room, &mut self.nodes, |nodes| {
                    scan(tree, Selection::All, after, CHUNK_ROWS, nodes)
                })
                .await?;
            let mut ahead = Write::new();
            for (key, number) in &page {
                ahead.put::<FlatState>(&(room, epoch, key.0), &EventNumber(*number));
            }
            if !ahead.is_empty() {
                core.database.commit(ahead).await?;
            }
            match page.last() {
                Some((last, _)) if page.len() >= CHUNK_ROWS => after = Some(*last),
                _ => break,
            }
        }
        for chunk in changes.chunks(CHUNK_CHANGES) {
            self.change_members_in_bulk(chunk, write).await?;
        }
        write.delete_prefix::<FlatState>(&(room, old));
        self.head.epoch = epoch;
        self.current.clear();
        Ok(())
    }

    /// Local users' memberships change with the head, the others' ahead of it.
    async fn change_members_in_bulk(
        &mut self,
        changes: &[Difference],
        write: &mut Write,
    ) -> Result<(), Error> {
        tokio::task::consume_budget().await;
        let changed = self.changed(changes).await?;
        let mut ahead = Write::new();
        for (user, change) in self.member_changes(&changed).await? {
            let target = if self.core.identity.is_ours(&change.user_id) { &mut *write } else { &mut ahead };
            self.change_member(user, &change, target);
        }
        if !ahead.is_empty() {
            self.core.database.commit(ahead).await?;
        }
        Ok(())
    }
}
