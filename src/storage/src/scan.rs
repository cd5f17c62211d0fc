//! Range reads.

use bytes::Bytes;

use crate::Space;

/// One page of a range: rows with `low <= key < high`, at most `limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The space to read.
    pub space: Space,
    /// First key of the range; empty means from the start of the space.
    pub low: Vec<u8>,
    /// First key after the range; empty means to the end of the space.
    pub high: Vec<u8>,
    /// From the highest key downwards.
    pub reverse: bool,
    /// Most rows to return, at most [`crate::SCAN_ROWS_MAX`].
    pub limit: usize,
    /// Leave the values empty.
    pub keys_only: bool,
}

impl Scan {
    /// The scan of the next page, or `None` if `page` was the last one.
    #[must_use]
    pub fn after(&self, page: &Page) -> Option<Self> {
        if !page.more {
            return None;
        }
        let last = page.rows.last()?.key.to_vec();
        let mut next = self.clone();
        if self.reverse {
            next.high = last;
        } else {
            next.low = last;
            next.low.push(0);
        }
        Some(next)
    }

    /// Whether no key can be in the range.
    pub(crate) fn is_void(&self) -> bool {
        !self.high.is_empty() && self.low >= self.high
    }
}

/// A stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Key within the space.
    pub key: Bytes,
    /// Value; empty if only keys were asked for.
    pub value: Bytes,
}

/// A page of rows, a consistent snapshot. The last key is the cursor of the next page ([`Scan::after`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Rows in the order asked for.
    pub rows: Vec<Row>,
    /// Whether the range holds more rows behind the last one. A page may end before `limit` rows
    /// when it holds [`crate::PAGE_BYTES_MAX`] bytes: `more`, not the number of rows, says whether to go on.
    pub more: bool,
}
