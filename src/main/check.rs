//! `allod check`: what on this machine, or in the configuration, will make trouble, and what to do about it. It changes
//! nothing and asks nobody outside.

use allod_server::config::Config;
use anyhow::bail;
use serde_json::json;

use crate::{arguments::Check, serve, user::say};

#[path = "check/certificate.rs"]
mod certificate;
#[path = "check/choices.rs"]
mod choices;
#[path = "check/disk.rs"]
mod disk;
#[path = "check/machine.rs"]
mod machine;
#[path = "check/network.rs"]
mod network;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// All is as it should be.
    Good,
    /// It works, and somebody should look at it.
    Doubtful,
    /// It does not work, or data is in danger.
    Wrong,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Doubtful => "doubtful",
            Self::Wrong => "wrong",
        }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What was looked at.
    subject: &'static str,
    /// What was seen.
    says: String,
    /// What to do; empty where all is good.
    remedy: String,
}

/// What all checks found.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, subject: &'static str, says: impl Into<String>) {
        self.push(Level::Good, subject, says, String::new());
    }

    fn doubtful(&mut self, subject: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.push(Level::Doubtful, subject, says, remedy);
    }

    fn wrong(&mut self, subject: &'static str, says: impl Into<String>, remedy: impl Into<String>) {
        self.push(Level::Wrong, subject, says, remedy);
    }

    fn push(
        &mut self,
        level: Level,
        subject: &'static str,
        says: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding { level, subject, says: says.into(), remedy: remedy.into() });
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|finding| finding.level == level).count()
    }
}

/// Runs the command. An error if anything is wrong.
pub(crate) fn run(options: &Check) -> anyhow::Result<()> {
    let (config, socket) = options.socket.load()?;
    serve::check(&config)?;
    let mut findings = Findings::default();
    findings.good("configuration", format!("{} is right", options.socket.file.config.display()));
    check_all(&config, network::answers(&socket), &mut findings);
    for finding in &findings.0 {
        tell(finding, options.json)?;
    }
    match (findings.count(Level::Wrong), findings.count(Level::Doubtful)) {
        (0, 0) => Ok(()),
        (0, doubtful) if options.strict => bail!("{doubtful} things are doubtful"),
        (0, _) => Ok(()),
        (wrong, _) => bail!("{wrong} things are wrong"),
    }
}

fn check_all(config: &Config, is_running: bool, findings: &mut Findings) {
    choices::check(config, findings);
    disk::check(config, findings);
    machine::check(config, findings);
    network::check(config, is_running, findings);
    certificate::check(config, findings);
}

fn tell(finding: &Finding, as_json: bool) -> anyhow::Result<()> {
    let Finding { level, subject, says, remedy } = finding;
    if as_json {
        let level = level.as_str();
        return say(
            &json!({ "level": level, "subject": subject, "says": says, "remedy": remedy }).to_string()
        );
    }
    say(&format!("{:8} {subject}: {says}", level.as_str()))?;
    if remedy.is_empty() { Ok(()) } else { say(&format!("{:8} {remedy}", "")) }
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
