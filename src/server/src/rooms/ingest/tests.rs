//! Events of other servers, in every order.

mod forks;
mod history;
mod joining;
mod partial;
mod refused;
mod versions;
mod vulnerabilities;
