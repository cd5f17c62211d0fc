//! Tests of sync over real rooms and a store in memory.

mod journeys;
mod measure;
mod model;
mod outside;
mod resolved;
mod unread;
mod waiting;
mod world;
