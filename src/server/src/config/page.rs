//! The page of the book that explains every option.

use super::{Config, Note, OptionInfo, SECTIONS};

/// All options in Markdown.
pub fn options_page() -> String {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut text = "# Options\n\nAll that the configuration file can say, by section. What a running server takes over on \
                    `systemctl reload allod` is marked *live*; the rest takes effect at the next start.\n"
        .to_owned();
    for section in SECTIONS {
        push(&mut text, &format!("\n## [{}]\n\n{}\n", section.key, joined(section.doc)));
        for option in section.options {
            let default = defaults.get(section.key).and_then(|values| values.get(option.key));
            push(&mut text, &option_text(option, default));
        }
    }
    text
}

fn option_text(option: &OptionInfo, default: Option<&toml::Value>) -> String {
    let value = match (option.note, default, option.example) {
        (Some(Note::Required), ..) => "must be given".to_owned(),
        (_, Some(toml::Value::Array(values)), Some(example)) if values.is_empty() => {
            format!("none by default, for example `{example}`")
        }
        (_, Some(default), _) => format!("`{default}` by default"),
        (_, None, Some(example)) => format!("not set by default, for example `{example}`"),
        (_, None, None) => "not set by default".to_owned(),
    };
    let live = if option.note == Some(Note::Reloaded) { ", *live*" } else { "" };
    format!("- **{}** ({value}{live}): {}", option.key, joined(option.doc))
}

/// Lines of a comment as one.
fn joined(lines: &[&str]) -> String {
    // Angle brackets would be taken for HTML.
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").replace('<', "&lt;")
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_explained() {
        let text = options_page();
        for section in SECTIONS {
            assert!(text.contains(&format!("## [{}]", section.key)), "{}", section.key);
            for option in section.options {
                assert!(text.contains(&format!("- **{}** (", option.key)), "{}", option.key);
            }
        }
    }
}
