//! A set of ids, as a regular expression describes it.

use regex::{Regex, RegexBuilder};

use super::file;

/// Memory that a compiled expression may take, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A namespace, compiled. Matching takes linear time.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) exclusive: bool,
    regex: Regex,
}

impl Namespace {
    pub(super) fn new(declared: &file::Namespace) -> Result<Self, String> {
        // The beginning must match, as with other servers: bridges leave out what follows.
        let regex = RegexBuilder::new(&format!("^(?:{})", declared.regex))
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| format!("{:?} is no regular expression: {error}", declared.regex))?;
        Ok(Self { exclusive: declared.exclusive, regex })
    }

    pub(super) fn includes(&self, id: &str) -> bool {
        self.regex.is_match(id)
    }
}
