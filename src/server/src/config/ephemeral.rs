//! The `[ephemeral]` section.

use super::option::section;

section! {
    /// What others see of what a person is doing.
    Ephemeral = "ephemeral" {
        /// Whether people see who is online.
        presence: bool = true;
        /// Whether people see who is typing.
        typing: bool = true, Reloaded;
        /// Whether people see what others have read.
        receipts: bool = true;
    }
}
