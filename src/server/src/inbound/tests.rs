//! The service against scripted servers: they sign with keys of their own, and answer what they are asked.

mod past;
mod receiving;
mod serving;
mod signatures;
mod unverified;
mod world;
