//! Options that are allowed and probably not meant.

use std::net::IpAddr;

use allod_server::config::{Config, FederationMode, ListenAddress, Registration};

use super::Findings;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    name(config, findings);
    registration(config, findings);
    federation(config, findings);
    backup(config, findings);
}

fn name(config: &Config, findings: &mut Findings) {
    let name = &config.server.name;
    let host = name.host();
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        findings.doubtful(
            "server.name",
            format!("{name} is an address; user ids with it end when the machine gets another"),
            "Before the first account is made, set server.name to a domain of yours.",
        );
    } else if matches!(host, "localhost" | "example.org" | "example.com") {
        findings.doubtful(
            "server.name",
            format!("{name} is nobody's domain"),
            "Before the first account is made, set server.name to a domain of yours.",
        );
    } else {
        findings.good("server.name", format!("users are called @…:{name}"));
    }
}

fn registration(config: &Config, findings: &mut Findings) {
    let is_open = config.accounts.registration == Registration::Open;
    let is_public = config.listeners.client.iter().any(is_beyond_this_machine);
    if is_open && (is_public || !config.listeners.trusted_proxies.is_empty()) {
        findings.doubtful(
            "accounts.registration",
            "anyone who reaches the server may make accounts",
            "Set accounts.registration to \"token\" or \"closed\", unless that is meant.",
        );
    }
}

fn federation(config: &Config, findings: &mut Findings) {
    if config.federation.mode == FederationMode::Off {
        return findings.good("federation", "off: no request leaves for another server");
    }
    if config.listeners.federation.is_empty() && config.server.federation_address.is_none() {
        findings.doubtful(
            "federation",
            "other servers are spoken to, and cannot tell where they reach this one",
            "Set listeners.federation with a certificate, or let a proxy take port 8448, or set server.federation_address.",
        );
    } else {
        findings.good("federation", "on, and other servers can find this one");
    }
}

fn backup(config: &Config, findings: &mut Findings) {
    if config.backup.folder.is_none() {
        findings.doubtful(
            "backup",
            "the server makes no backups",
            "Set backup.folder to a folder on another disk, or run `allod backup create` from a timer.",
        );
    }
}

/// Whether others than this machine reach an address.
pub(super) fn is_beyond_this_machine(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if !address.ip().is_loopback())
}
