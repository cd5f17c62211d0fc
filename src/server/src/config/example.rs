//! The generated configuration file: every option with its comment and its default.

use std::{fmt::Write, path::PathBuf};

use ruma::OwnedServerName;

use super::{Config, Note, OptionInfo, SECTIONS};

/// A beginning for a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// No other servers.
    Internal,
    /// The servers of named partners.
    Partners,
    /// All servers.
    Open,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 3] = [Self::Internal, Self::Partners, Self::Open];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Partners => "partners",
            Self::Open => "open",
        }
    }

    /// What it is for.
    pub fn about(self) -> &'static str {
        match self {
            Self::Internal => "a server that talks to no other",
            Self::Partners => "a server that talks to those of named partners",
            Self::Open => "a server that talks to all others",
        }
    }

    /// What it sets: section, option, value as written.
    fn values(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Self::Internal => &[("federation", "mode", "\"off\"")],
            Self::Partners => {
                &[("federation", "mode", "\"allow\""), ("federation", "allow", "[\"partner.example\"]")]
            }
            Self::Open => &[("federation", "mode", "\"open\""), ("ephemeral", "presence", "false")],
        }
    }
}

/// What a generated file says instead of its examples.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// The server's name.
    pub server_name: Option<OwnedServerName>,
    /// The folder for the database.
    pub data_dir: Option<PathBuf>,
    /// The servers of preset "partners".
    pub partners: Vec<OwnedServerName>,
}

impl Filled {
    /// The values given, as written.
    fn value(&self, preset: Preset, section: &str, key: &str) -> Option<String> {
        match (section, key) {
            ("federation", "allow") if preset == Preset::Partners && !self.partners.is_empty() => {
                let names = self.partners.iter().map(|name| toml::Value::String(name.to_string()));
                Some(toml::Value::Array(names.collect()).to_string())
            }
            ("server", "name") => self.server_name.as_ref().map(|name| quoted(name.as_str())),
            ("server", "data_dir") => self.data_dir.as_ref().map(|folder| quoted(&folder.to_string_lossy())),
            _ => None,
        }
    }
}

/// A text as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Preset {
    /// The value of an option that does not keep its default, as written.
    fn value(self, filled: &Filled, section: &str, key: &str) -> Option<String> {
        let set = self.values().iter().find(|(of, option, _)| (*of, *option) == (section, key));
        filled.value(self, section, key).or(set.map(|(_, _, value)| (*value).to_owned()))
    }
}

/// The text of a configuration file that says only what it must, for people who look up the rest.
pub fn short(preset: Preset, filled: &Filled) -> String {
    let mut text = format!(
        "# Configuration of allod, preset {:?}: {}.\n\
         # Options that are not here have their defaults; `allod generate-config` prints all, with what they do.\n\
         # `allod check-config` says whether the file is right, `systemctl reload allod` takes over what a running\n\
         # server can.\n",
        preset.name(),
        preset.about()
    );
    for section in SECTIONS {
        let values: Vec<String> = section
            .options
            .iter()
            .filter_map(|option| match (preset.value(filled, section.key, option.key), option.example) {
                (Some(value), _) => Some(format!("{} = {value}", option.key)),
                (None, Some(example)) if option.note == Some(Note::Required) => {
                    Some(format!("{} = {}", option.key, quoted(example)))
                }
                // What every server should have, and nobody can guess.
                (None, Some(example)) if option.key == "public_url" => {
                    Some(format!("# {} = {}", option.key, quoted(example)))
                }
                (None, _) => None,
            })
            .collect();
        if !values.is_empty() {
            push_line(&mut text, &format!("\n[{}]\n{}", section.key, values.join("\n")));
        }
    }
    text
}

/// The text of a configuration file for a preset.
pub fn example(preset: Preset, filled: &Filled) -> String {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut text = format!(
        "# Configuration of allod, preset {:?}: {}.\n\
         # An option that is commented out has the value shown, or none where the comment says so.\n\
         # A change takes effect at the next start; those marked (live) on SIGHUP too.\n\
         # `allod check-config` says whether the file is right.\n",
        preset.name(),
        preset.about()
    );
    for section in SECTIONS {
        text.push('\n');
        for line in section.doc {
            push_line(&mut text, &format!("#{line}"));
        }
        push_line(&mut text, &format!("[{}]", section.key));
        for option in section.options {
            let value = preset.value(filled, section.key, option.key);
            let default = defaults.get(section.key).and_then(|values| values.get(option.key));
            write_option(&mut text, option, value, default);
        }
    }
    text
}

fn write_option(
    text: &mut String,
    option: &OptionInfo,
    value: Option<String>,
    default: Option<&toml::Value>,
) {
    text.push('\n');
    for (index, line) in option.doc.iter().enumerate() {
        let last = index.saturating_add(1) == option.doc.len();
        let live = if last && option.note == Some(Note::Reloaded) { " (live)" } else { "" };
        push_line(text, &format!("#{line}{live}"));
    }
    // An example that is not a string is written as it stands.
    let example =
        option.example.map(|example| if is_literal(example) { example.to_owned() } else { quoted(example) });
    let key = option.key;
    let line = match (value, example, default) {
        (Some(value), ..) => format!("{key} = {value}"),
        (None, Some(example), _) if option.note == Some(Note::Required) => format!("{key} = {example}"),
        (None, Some(example), _) => format!("# {key} = {example}"),
        (None, None, Some(default)) => format!("# {key} = {default}"),
        (None, None, None) => format!("# {key} ="),
    };
    push_line(text, &line);
}

fn push_line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", line.trim_end());
}

/// Whether an example is a list or a number.
fn is_literal(example: &str) -> bool {
    example.starts_with('[') || example.parse::<u64>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{FederationMode, Overrides, parse};

    #[test]
    fn each_preset_is_a_valid_configuration() {
        for (preset, mode) in [
            (Preset::Internal, FederationMode::Off),
            (Preset::Partners, FederationMode::Allow),
            (Preset::Open, FederationMode::Open),
        ] {
            let config =
                parse(&example(preset, &Filled::default()), Path::new("allod.toml"), &Overrides::default())
                    .unwrap();
            assert_eq!(config.federation.mode, mode);
            assert_eq!(config.limits, Config::default().limits);
        }
    }

    #[test]
    fn what_is_filled_in_stands_in_the_file() {
        let filled = Filled {
            server_name: Some("a.example".try_into().unwrap()),
            data_dir: Some("/srv/\"odd\" place".into()),
            partners: vec!["b.example".try_into().unwrap(), "c.example:8448".try_into().unwrap()],
        };
        for text in [example(Preset::Partners, &filled), short(Preset::Partners, &filled)] {
            let config = parse(&text, Path::new("allod.toml"), &Overrides::default()).unwrap();
            assert_eq!(config.server.name, "a.example");
            assert_eq!(config.server.data_dir, Path::new("/srv/\"odd\" place"));
            assert_eq!(config.federation.allow, filled.partners);
        }
    }

    #[test]
    fn the_short_form_means_the_same() {
        for preset in Preset::ALL {
            let filled = Filled { server_name: Some("a.example".try_into().unwrap()), ..Filled::default() };
            let parse = |text: &str| parse(text, Path::new("allod.toml"), &Overrides::default()).unwrap();
            assert_eq!(parse(&short(preset, &filled)), parse(&example(preset, &filled)));
            assert!(short(preset, &filled).lines().count() < 20);
        }
    }

    #[test]
    fn what_is_commented_out_is_valid_too() {
        let text: Vec<String> = example(Preset::Open, &Filled::default())
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(option) if option.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
                    option.to_owned()
                }
                _ => line.to_owned(),
            })
            .filter(|line| !line.starts_with("allow = "))
            .collect();
        let config = parse(&text.join("\n"), Path::new("allod.toml"), &Overrides::default()).unwrap();
        assert_eq!(config.limits, Config::default().limits);
        assert_eq!(config.server.data_dir, Config::default().server.data_dir);
    }

    #[test]
    fn there_are_few_enough_options_to_read() {
        let count: usize = SECTIONS.iter().map(|section| section.options.len()).sum();
        assert!(count <= 110, "{count} options");
    }
}
