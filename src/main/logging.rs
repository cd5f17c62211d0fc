//! What the program writes about itself: tracing to standard error, with a filter that can change while it runs.

use std::io::{self, IsTerminal};

use allod_server::config::{LogFormat, Logging};
use anyhow::Context;
use tracing_subscriber::{
    EnvFilter, Registry, filter::ParseError, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Libraries that tell of every event by its id where we tell of what matters; a filter that names them gets them.
const QUIET: &str = "ruma_state_res=warn";

/// Changes the filter of the running program.
#[derive(Clone, Debug)]
pub(crate) struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl FilterHandle {
    /// Puts another filter in place.
    pub(crate) fn set(&self, filter: &str) -> anyhow::Result<()> {
        self.0.reload(parse(filter)?).context("the log filter is gone")
    }
}

/// Begins to log. The environment variable ALLOD_LOG goes before the configuration.
pub(crate) fn start(config: &Logging) -> anyhow::Result<FilterHandle> {
    let filter = std::env::var("ALLOD_LOG").unwrap_or_else(|_| config.filter.clone());
    let (filter, handle) = reload::Layer::new(parse(&filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Text => registry
            .with(
                fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).with_target(false),
            )
            .try_init()?,
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(io::stderr)).try_init()?,
    }
    Ok(FilterHandle(handle))
}

/// Says what is wrong with a filter.
pub(crate) fn check(filter: &str) -> Result<(), ParseError> {
    EnvFilter::try_new(filter).map(drop)
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .with_context(|| format!("logging.filter: {filter:?} is not a filter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_logged_only_if_asked_for() {
        assert!(parse("info").unwrap().to_string().contains("ruma_state_res=warn"));
        let asked = parse("info,ruma_state_res=info").unwrap().to_string();
        assert!(asked.contains("ruma_state_res=info") && !asked.contains("ruma_state_res=warn"), "{asked}");
        assert!(parse("allod_server=nonsense").is_err());
    }
}
