//! What documents the program: manual pages, completions of shells, and pages of the book, made from the same
//! declarations that the program reads its arguments and its configuration by.

use std::{fmt::Write as _, io};

use allod_server::config;
use anyhow::Context;
use clap::CommandFactory;

use crate::{
    arguments::{Arguments, Document},
    user::say,
};

/// Runs the command.
pub(crate) fn run(command: &Document) -> anyhow::Result<()> {
    match command {
        Document::ManPages { folder } => clap_mangen::generate_to(Arguments::command(), folder)
            .with_context(|| format!("cannot write into {}", folder.display())),
        Document::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "allod", &mut text);
            io::Write::write_all(&mut io::stdout().lock(), &text).context("cannot write to standard output")
        }
        Document::Commands => say(commands().trim_end()),
        Document::Options => say(config::options_page().trim_end()),
    }
}

/// All commands in Markdown.
fn commands() -> String {
    let mut text = "# Commands\n\nAll that `allod` can be told, as `allod help` tells it too.\n".to_owned();
    let mut root = Arguments::command().disable_help_subcommand(true);
    root.build();
    for command in root.get_subcommands() {
        push_command(&mut text, command, 2);
    }
    text
}

fn push_command(text: &mut String, command: &clap::Command, level: usize) {
    if command.is_hide_set() {
        return;
    }
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
    push(text, &format!("\n{} {name}\n\n{}", "#".repeat(level), sentence(&about.unwrap_or_default())));
    let mut subcommands = command.get_subcommands().filter(|command| !command.is_hide_set()).peekable();
    if subcommands.peek().is_none() {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim().to_owned();
        push(text, &format!("\n    {usage}\n"));
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            push_argument(text, argument);
        }
    }
    for command in subcommands {
        push_command(text, command, level.saturating_add(1));
    }
}

fn push_argument(text: &mut String, argument: &clap::Arg) {
    if matches!(argument.get_id().as_str(), "help" | "version") {
        return;
    }
    let values: Vec<String> = argument
        .get_value_names()
        .filter(|_| argument.get_action().takes_values())
        .into_iter()
        .flatten()
        .map(|name| format!("<{name}>"))
        .collect();
    let flag = match (argument.get_long(), argument.get_short()) {
        (Some(long), Some(short)) => format!("-{short}, --{long}"),
        (Some(long), None) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let shown = format!("{flag} {}", values.join(" "));
    let mut line = format!(
        "- `{}`: {}",
        shown.trim(),
        sentence(&argument.get_help().map(ToString::to_string).unwrap_or_default())
    );
    let named = argument.get_possible_values();
    if argument.get_action().takes_values() && !named.is_empty() {
        let named: Vec<&str> = named.iter().map(clap::builder::PossibleValue::get_name).collect();
        // Writing to a string cannot fail.
        let _ = write!(line, " One of: {}.", named.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(line, " Without it: `{}`.", defaults.join(" "));
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(line, " From the environment: `{}`.", variable.to_string_lossy());
    }
    push(text, &line);
}

/// With a full stop, which the declarations lose.
fn sentence(text: &str) -> String {
    let text = text.trim().replace('\n', " ");
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_name_every_command_and_option() {
        let text = commands();
        for command in ["## allod serve", "### allod user create", "`--password-stdin`"] {
            assert!(text.contains(command), "{command} is not in {text}");
        }
        assert!(!text.contains("allod document"));
    }

    #[test]
    fn there_is_a_manual_page_for_each_command() {
        let folder = tempfile::tempdir().unwrap();
        run(&Document::ManPages { folder: folder.path().to_owned() }).unwrap();
        for page in ["allod.1", "allod-serve.1", "allod-user-create.1"] {
            assert!(folder.path().join(page).exists(), "{page}");
        }
        assert!(!folder.path().join("allod-document.1").exists());
    }
}
