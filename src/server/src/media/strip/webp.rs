//! The parts of a WebP: chunks, whose bytes the file's header counts, so that one is blanked and not left out.

use super::{Fate, Run, Step};

/// Where in a WebP we are.
#[derive(Debug, Default)]
pub(super) struct State {
    run: Run,
    /// What follows the header of the chunk at hand.
    next: Run,
    begun: bool,
}

/// `RIFF`, the size and `WEBP`.
const SIGNATURE_BYTES: usize = 12;
/// Type and length before the data of a chunk.
const HEADER_BYTES: usize = 8;

impl State {
    pub(super) fn consumed(&mut self, count: usize) {
        self.run.consumed(count);
    }

    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        if let Some(step) = self.run.step() {
            return step;
        }
        if !self.begun {
            self.begun = true;
            return Step::Pass(SIGNATURE_BYTES);
        }
        if self.next.left > 0 {
            self.run = std::mem::take(&mut self.next);
            return self.run.step().unwrap_or(Step::Lost);
        }
        let Some((kind, rest)) = bytes.split_first_chunk::<4>() else { return Step::Wait(HEADER_BYTES) };
        let Some((length, _)) = rest.split_first_chunk::<4>() else { return Step::Wait(HEADER_BYTES) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        // Chunks are padded to an even length.
        let padded = length.saturating_add(length & 1);
        let fate = if matches!(kind, b"EXIF" | b"XMP ") { Fate::Blank } else { Fate::Pass };
        self.next = Run::new(padded, fate);
        self.run = Run::new(HEADER_BYTES, Fate::Pass);
        Step::Pass(HEADER_BYTES)
    }
}
