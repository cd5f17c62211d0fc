//! Tests of sync over real rooms and a store in memory.

mod agreement;
mod journeys;
mod measure;
mod model;
mod outside;
mod resolved;
mod sliding;
mod sliding_extensions;
mod streamed;
mod unread;
mod waiting;
mod world;
