//! Resolution against ruma's, on rooms made up at random and on rooms that went wrong elsewhere.

mod hostile;
mod many;
mod measure;
mod random;
mod room;
mod scenarios;
mod trees;

use self::room::{New, Room, State};
