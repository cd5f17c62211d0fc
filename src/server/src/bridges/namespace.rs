//! A set of ids, as a regular expression describes it.

use regex::{Regex, RegexBuilder};

use super::file;

/// Memory that a compiled expression may take, in bytes.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A namespace, compiled. Matching takes linear time.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) exclusive: bool,
    regex: Regex,
}

impl Namespace {
    pub(super) fn new(declared: &file::Namespace) -> Result<Self, String> {
        // The beginning must match, as with other servers: bridges leave out what follows.
        let regex = RegexBuilder::new(&format!("^(?:{})", in_ascii(&declared.regex)))
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| format!("{:?} is no regular expression: {error}", declared.regex))?;
        Ok(Self { exclusive: declared.exclusive, regex })
    }

    pub(super) fn includes(&self, id: &str) -> bool {
        self.regex.is_match(id)
    }
}

/// The same expression with classes spelled out that would stand for letters of all scripts: ids are ASCII, and the tables of
/// those letters are large.
fn in_ascii(expression: &str) -> String {
    let mut spelled = String::with_capacity(expression.len());
    let (mut escaped, mut in_class) = (false, false);
    for letter in expression.chars() {
        let class = match letter {
            'd' if escaped => Some("0-9"),
            'w' if escaped => Some("0-9A-Za-z_"),
            's' if escaped => Some(" \\t"),
            _ => None,
        };
        match class {
            Some(class) if in_class => spelled.push_str(class),
            Some(class) => {
                spelled.push('[');
                spelled.push_str(class);
                spelled.push(']');
            }
            None if escaped => {
                spelled.push('\\');
                spelled.push(letter);
            }
            None if letter == '\\' => {}
            None => {
                in_class = match letter {
                    '[' => true,
                    ']' => false,
                    _ => in_class,
                };
                spelled.push(letter);
            }
        }
        escaped = !escaped && letter == '\\';
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_ascii() {
        for (expression, spelled) in [
            (r"@irc_\d+:a\.b", r"@irc_[0-9]+:a\.b"),
            (r"@[\w.-]+:.*", r"@[0-9A-Za-z_.-]+:.*"),
            (r"\\d", r"\\d"),
        ] {
            assert_eq!(in_ascii(expression), spelled);
        }
        let namespace =
            Namespace::new(&file::Namespace { exclusive: true, regex: r"@t_\d+:a\.b$".to_owned() });
        let namespace = namespace.unwrap();
        assert!(
            namespace.includes("@t_42:a.b")
                && !namespace.includes("@t_x:a.b")
                && !namespace.includes("x@t_1:a.b")
        );
    }
}
