//! What is not Matrix but administration: under `/_synapse/admin` the paths that existing tools call, under
//! `/_allod/admin`, on the admin socket only, what our own command line calls.

pub mod backup;
pub mod device;
pub mod federation;
pub mod media;
pub mod register;
pub mod registration_token;
pub mod room;
pub mod server_notice;
pub mod status;
pub mod user;
