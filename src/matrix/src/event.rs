//! Events: parsing, building and signing, redaction, and the forms that clients see.
//!
//! The stored form of an event is its federation JSON, canonical, with hashes and signatures.
//! Everything here turns drafts into that form or that form into another one.

pub mod build;
pub mod canonical;
pub mod client;
pub mod pdu;
pub mod redact;

pub use self::{
    build::{BuildError, Draft, Place, Signed, build, countersign},
    client::{ClientForm, Facts},
    pdu::{ParseError, Pdu},
    redact::{is_redactable, redact},
};

/// Greatest size of an event in the federation format, with hashes and signatures, in bytes.
///
/// §Size limits of the client-server API. (ruma's own checks stop one byte earlier.)
pub const EVENT_BYTES_MAX: usize = 65_536;

/// Greatest size of `sender`, `room_id`, `type`, `state_key` and `event_id`, in bytes.
pub const FIELD_BYTES_MAX: usize = 255;

/// Greatest number of `prev_events`.
pub const PREV_EVENTS_MAX: usize = 20;

/// Greatest number of `auth_events`.
pub const AUTH_EVENTS_MAX: usize = 10;

/// Greatest depth that canonical JSON can carry.
pub const DEPTH_MAX: u64 = (1 << 53) - 1;
