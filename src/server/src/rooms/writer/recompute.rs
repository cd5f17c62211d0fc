//! What a writer computes for the consistency check: the same as it does for new events.

use std::sync::Arc;

use allod_matrix::state::EntryKey;

use super::Writer;
use crate::{
    database::{Error, Write},
    numbers::EventNumber,
    rooms::event::StoredEvent,
    tables::rooms::StateRoot,
};

impl Writer {
    /// The state that several together come to; its nodes are in the batch.
    pub(crate) async fn resolution(
        &mut self,
        roots: Vec<StateRoot>,
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        self.resolved(roots, write).await
    }

    /// A state with one more entry; its nodes are in the batch.
    pub(crate) async fn with_entry(
        &mut self,
        root: StateRoot,
        entry: EntryKey,
        event: EventNumber,
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        self.updated(root, &[(entry, Some(event.0))], write).await
    }

    /// Relates an event to its parent.
    pub(crate) async fn relate_again(
        &mut self,
        event: &Arc<StoredEvent>,
        write: &mut Write,
    ) -> Result<(), Error> {
        let pdu = event.pdu(&self.room)?;
        self.relate_received(&pdu, event, write).await
    }
}
