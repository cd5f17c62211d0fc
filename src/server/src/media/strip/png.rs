//! The parts of a PNG: chunks, each with its own checksum, so that one can be left out.

use super::{Fate, Run, Step};

/// Where in a PNG we are.
#[derive(Debug, Default)]
pub(super) struct State {
    run: Run,
    begun: bool,
    ended: bool,
}

/// Length, type and checksum around the data of a chunk.
const FRAME_BYTES: usize = 12;
/// Bytes before the first chunk.
const SIGNATURE_BYTES: usize = 8;

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
        if self.ended {
            return Step::Drop(bytes.len());
        }
        let Some(([a, b, c, d], rest)) = bytes.split_first_chunk() else { return Step::Wait(8) };
        let Some((kind, _)) = rest.split_first_chunk::<4>() else { return Step::Wait(8) };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        self.ended = kind == b"IEND";
        let fate = match kind {
            b"eXIf" | b"tEXt" | b"zTXt" | b"iTXt" | b"tIME" => Fate::Drop,
            _ => Fate::Pass,
        };
        self.run = Run::new(length.saturating_add(FRAME_BYTES), fate);
        self.run.step().unwrap_or(Step::Lost)
    }
}
