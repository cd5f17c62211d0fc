//! allod's HTTP surface: ruma types in, one service call, ruma types out.
//!
//! Knows no storage. `endpoint.rs` says how an endpoint is added.

pub mod address;
pub mod admin;
pub mod app;
pub mod auth;
pub mod body;
pub mod client;
mod connection;
pub mod endpoint;
mod envelope;
pub mod error;
pub mod federation;
pub mod limits;
mod listener;
pub mod operation;
pub mod response;
pub mod router;
pub mod server;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod tls;
mod wrapped;
