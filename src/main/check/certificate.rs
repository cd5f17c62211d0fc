//! The certificate that other servers are shown.

use std::fs;

use allod_server::{clock::Clock, config::Config};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, pem::Pem};

use super::Findings;

/// How long before its end a certificate should have been renewed.
const RENEWED_DAYS: i64 = 14;
const DAY: i64 = 86_400;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    let Some(file) = &config.listeners.certificate else { return };
    // What cannot be read was said before this, by what reads it for use.
    let Ok(bytes) = fs::read(file) else { return };
    let Some(Ok(pem)) = Pem::iter_from_buffer(&bytes).next() else { return };
    let Ok(certificate) = pem.parse_x509() else {
        return findings.wrong(
            "certificate",
            format!("{} holds no certificate that can be read", file.display()),
            "Put the server's certificate first, then those of the authorities.",
        );
    };
    let now = i64::try_from(Clock::system().now_ms() / 1000).unwrap_or(i64::MAX);
    time(&certificate, now, findings);
    name(&certificate, config, findings);
}

fn time(certificate: &X509Certificate<'_>, now: i64, findings: &mut Findings) {
    let validity = certificate.validity();
    let left = validity.not_after.timestamp().saturating_sub(now);
    let remedy =
        "Renew it, and reload the server: `systemctl reload allod`. An ACME client does both by itself.";
    if left <= 0 {
        findings.wrong("certificate", format!("it ended on {}", validity.not_after), remedy);
    } else if validity.not_before.timestamp() > now {
        findings.wrong(
            "certificate",
            format!("it begins on {}", validity.not_before),
            "Check the machine's clock.",
        );
    } else if left < RENEWED_DAYS * DAY {
        findings.doubtful("certificate", format!("it ends in {} days", left / DAY), remedy);
    } else {
        findings.good("certificate", format!("it is good for {} days", left / DAY));
    }
}

/// Other servers expect the name of the host that they were sent to by a well-known document, or the server's.
fn name(certificate: &X509Certificate<'_>, config: &Config, findings: &mut Findings) {
    let address = config.server.federation_address.as_deref();
    let host = address.map_or_else(
        || config.server.name.host().to_owned(),
        |address| address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned(),
    );
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let names: Vec<&str> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        })
        .collect();
    if names.iter().any(|name| covers(name, &host)) {
        findings.good("certificate", format!("it is for {host}"));
    } else {
        findings.wrong(
            "certificate",
            format!("it is for {}, and other servers expect {host}", names.join(", ")),
            "Get a certificate for that name, or set server.federation_address to a name that it is for.",
        );
    }
}

/// Whether a name in a certificate, which may begin with `*.`, is for a host.
fn covers(name: &str, host: &str) -> bool {
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    match name.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| same(domain, rest)),
        None => same(name, host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_star_cover_one_label() {
        assert!(covers("Matrix.Example.org", "matrix.example.org"));
        assert!(covers("*.example.org", "matrix.example.org"));
        assert!(!covers("*.example.org", "a.matrix.example.org"));
        assert!(!covers("*.example.org", "example.org"));
    }
}
