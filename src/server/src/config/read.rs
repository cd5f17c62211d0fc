//! Reading a configuration file, and saying exactly what is wrong with it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ruma::OwnedServerName;
use toml::de::{DeTable, DeValue};

use super::{Config, Note, SECTIONS, SectionInfo, option::nearest};

/// Something wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(formatter, "{}: {}", self.file.display(), self.message),
        }
    }
}

/// All that is wrong with a configuration, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems(pub Vec<Problem>);

/// What the command line or the environment says beside the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The server's name.
    pub server_name: Option<OwnedServerName>,
}

/// Reads the configuration in a file.
pub fn load(file: &Path, overrides: &Overrides) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("cannot read it: {error}; `allod generate-config` writes one");
        Problems(vec![Problem { file: file.to_owned(), line: None, message }])
    })?;
    parse(&text, file, overrides)
}

/// Reads a configuration from its text; `file` is named in problems.
pub fn parse(text: &str, file: &Path, overrides: &Overrides) -> Result<Config, Problems> {
    let reader = Reader { text, file };
    let document = DeTable::parse(text).map_err(|error| reader.fail(&error, None))?;
    let document = document.into_inner();
    let mut problems = reader.unknown_options(&document);
    problems.extend(reader.missing_options(&document, overrides));
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.line);
        return Err(Problems(problems));
    }
    let mut config: Config = toml::from_str(text).map_err(|error| reader.fail(&error, Some(&document)))?;
    if let Some(name) = &overrides.server_name {
        if section(&document, "server").is_some_and(|server| server.contains_key("name"))
            && config.server.name != *name
        {
            let message = format!(
                "server.name is {:?}, and {name:?} on the command line or in SERVER_NAME",
                config.server.name
            );
            let line = reader.line_of(&document, "server", "name");
            return Err(Problems(vec![reader.problem(line, message)]));
        }
        config.server.name.clone_from(name);
    }
    let problems = config.problems().into_iter().map(|(section, key, text)| {
        reader.problem(reader.line_of(&document, section, key), format!("{section}.{key}: {text}"))
    });
    let problems: Vec<Problem> = problems.collect();
    if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
}

struct Reader<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Reader<'_> {
    fn problem(&self, line: Option<usize>, message: String) -> Problem {
        Problem { file: self.file.to_owned(), line, message }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.get(..offset).unwrap_or(self.text).matches('\n').count().saturating_add(1)
    }

    /// A problem that the TOML library found.
    fn fail(&self, error: &toml::de::Error, document: Option<&DeTable<'_>>) -> Problems {
        let offset = error.span().map(|span| span.start);
        let option = offset.zip(document).and_then(|(offset, document)| option_at(document, offset));
        let message = error.message().trim_end().replace('\n', "; ");
        let message = match option {
            Some(option) => format!("{option}: {message}"),
            None => message,
        };
        Problems(vec![self.problem(offset.map(|offset| self.line_at(offset)), message)])
    }

    /// The line of an option, or of its section if the option is not there.
    fn line_of(&self, document: &DeTable<'_>, section_key: &str, key: &str) -> Option<usize> {
        let (name, value) = document.iter().find(|(name, _)| name.get_ref() == section_key)?;
        let option = value.get_ref().as_table()?.iter().find(|(name, _)| name.get_ref() == key);
        let span = option.map_or_else(|| name.span(), |(name, _)| name.span());
        Some(self.line_at(span.start))
    }

    fn unknown_options(&self, document: &DeTable<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, value) in document {
            let line = Some(self.line_at(name.span().start));
            match (known_section(name.get_ref()), value.get_ref().as_table()) {
                (Some(section), Some(table)) => problems.extend(self.unknown_in_section(section, table)),
                (Some(section), None) => {
                    problems.push(self.problem(line, format!("{0} is a section; write [{0}]", section.key)));
                }
                (None, table) => {
                    problems.push(self.problem(line, unknown_section(name.get_ref(), table.is_some())));
                }
            }
        }
        problems
    }

    fn unknown_in_section(&self, section: &SectionInfo, table: &DeTable<'_>) -> Vec<Problem> {
        let unknown = table.keys().filter(|name| section.option(name.get_ref()).is_none());
        unknown
            .map(|name| {
                let message = format!(
                    "section [{}] has no option \"{name}\"{}",
                    section.key,
                    suggestion(name.get_ref(), section),
                    name = name.get_ref()
                );
                self.problem(Some(self.line_at(name.span().start)), message)
            })
            .collect()
    }

    fn missing_options(&self, document: &DeTable<'_>, overrides: &Overrides) -> Vec<Problem> {
        let mut problems = Vec::new();
        for info in SECTIONS {
            for option in info.options.iter().filter(|option| option.note == Some(Note::Required)) {
                let given = section(document, info.key).is_some_and(|table| table.contains_key(option.key))
                    || (info.key == "server" && option.key == "name" && overrides.server_name.is_some());
                if !given {
                    let example = option.example.unwrap_or_default();
                    let message = format!(
                        "{}.{} is missing; add it under [{0}], such as: {1} = \"{example}\"",
                        info.key, option.key
                    );
                    problems.push(self.problem(self.line_of(document, info.key, option.key), message));
                }
            }
        }
        problems
    }
}

fn known_section(key: &str) -> Option<&'static SectionInfo> {
    SECTIONS.iter().find(|section| section.key == key)
}

fn section<'a, 'i>(document: &'a DeTable<'i>, key: &str) -> Option<&'a DeTable<'i>> {
    document.get(key).map(toml::Spanned::get_ref).and_then(DeValue::as_table)
}

fn unknown_section(key: &str, is_table: bool) -> String {
    let near = nearest(key, SECTIONS.iter().map(|section| section.key));
    match (is_table, SECTIONS.iter().find(|section| section.option(key).is_some()), near) {
        (false, Some(section), _) => format!("option \"{key}\" belongs under [{}]", section.key),
        (true, _, Some(near)) => format!("there is no section [{key}]; did you mean [{near}]?"),
        (true, _, None) => {
            let all: Vec<&str> = SECTIONS.iter().map(|section| section.key).collect();
            format!("there is no section [{key}]; there are {}", all.join(", "))
        }
        (false, None, _) => {
            format!("option \"{key}\" stands in no section, and none has one of that name{}", anywhere(key))
        }
    }
}

/// What an unknown option of a section may have been meant to be.
fn suggestion(key: &str, section: &SectionInfo) -> String {
    if let Some(near) = nearest(key, section.options.iter().map(|option| option.key)) {
        return format!("; did you mean \"{near}\"?");
    }
    match SECTIONS.iter().find(|other| other.option(key).is_some()) {
        Some(other) => format!("; it belongs under [{}]", other.key),
        None => anywhere(key),
    }
}

/// The nearest option of any section.
fn anywhere(key: &str) -> String {
    let all = SECTIONS.iter().flat_map(|section| section.options);
    nearest(key, all.map(|option| option.key)).map_or_else(String::new, |near| {
        let section = SECTIONS.iter().find(|section| section.option(near).is_some());
        format!("; did you mean \"{near}\" of [{}]?", section.map_or("", |section| section.key))
    })
}

/// The option whose value lies at this offset.
fn option_at(document: &DeTable<'_>, offset: usize) -> Option<String> {
    document.iter().find_map(|(section, value)| {
        let options = value.get_ref().as_table()?;
        let (option, _) = options.iter().find(|(_, value)| value.span().contains(&offset))?;
        Some(format!("{}.{}", section.get_ref(), option.get_ref()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(text: &str) -> String {
        match parse(text, Path::new("allod.toml"), &Overrides::default()) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn problems_name_file_line_and_nearest_option() {
        for (text, complaint) in [
            ("[server]\nname = \"a.example\"", ""),
            (
                "",
                "allod.toml: server.name is missing; add it under [server], such as: name = \"example.org\"",
            ),
            (
                "[server]\nname = \"a.example\"\nnmae = 1\ndata = 2",
                "allod.toml:3: section [server] has no option \"nmae\"; did you mean \"name\"?\n\
                 allod.toml:4: section [server] has no option \"data\"; did you mean \"data_dir\"?",
            ),
            (
                "[server]\nname = \"a.example\"\nfilter = 1",
                "allod.toml:3: section [server] has no option \"filter\"; it belongs under [logging]",
            ),
            (
                "[server]\nname = \"a.example\"\n[sever]\n",
                "allod.toml:3: there is no section [sever]; did you mean [server]?",
            ),
            (
                "name = 1\n[server]\nname = \"a.example\"",
                "allod.toml:1: option \"name\" belongs under [server]",
            ),
            ("rooms = 1\n[server]\nname = \"a.example\"", "allod.toml:1: rooms is a section; write [rooms]"),
            (
                "[server]\nname = \"a.example\"\n\n[rooms]\ncreate = \"all\"",
                "allod.toml:5: rooms.create: unknown variant `all`, expected `everyone` or `admins`",
            ),
            (
                "[server]\nname = \"a.example\"\n\n[limits]\n# bytes\nbody = \"1 MB\"",
                "allod.toml:6: limits.body: \"1 MB\" is not a size; write it like \"512 MiB\" or \"2 GiB\"",
            ),
            (
                "[server]\nname = \"a.example\"\n[federation]\nmode = \"allow\"",
                "allod.toml:4: federation.mode: \"allow\" needs servers in federation.allow; to talk to none, set \
                 mode = \"off\"",
            ),
            (
                "[server]\nname = \"a.example\"\n[rooms]\ndefault_version = \"1\"",
                "allod.toml:4: rooms.default_version: rooms of version 1 cannot be created; 6 to 12 can",
            ),
            ("[server\n", "allod.toml:1: unclosed table, expected `]`"),
        ] {
            assert_eq!(complaints(text), complaint, "{text}");
        }
    }

    #[test]
    fn the_command_line_may_name_the_server_but_not_contradict() {
        let overrides = Overrides { server_name: Some("b.example".try_into().unwrap()) };
        let file = Path::new("allod.toml");
        assert_eq!(parse("", file, &overrides).unwrap().server.name, "b.example");
        assert!(parse("[server]\nname = \"b.example\"", file, &overrides).is_ok());
        let problems = parse("[server]\nname = \"a.example\"", file, &overrides).unwrap_err();
        assert_eq!(problems.0.first().unwrap().line, Some(2));
    }
}
