//! What a configuration option is: one declaration gives its field, its default, its line in the generated example and
//! its place in error messages.
//!
//! # Defining an option
//! Add a line to its section's [`section!`] with a doc comment: the comment is what operators read. Everything else
//! follows; then `UPDATE=1 make test` rewrites the example.

/// An option's facts.
#[derive(Clone, Copy, Debug)]
pub struct OptionInfo {
    /// The key within its section.
    pub key: &'static str,
    /// What it does, a line an element.
    pub doc: &'static [&'static str],
    /// What to show in the example where the default is "not set".
    pub example: Option<&'static str>,
    /// When a change takes effect, or whether it must be given.
    pub note: Option<Note>,
}

/// What is special about an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// There is no default.
    Required,
    /// A running server takes it over on SIGHUP.
    Reloaded,
}

/// A section's facts.
#[derive(Clone, Copy, Debug)]
pub struct SectionInfo {
    /// The table's name in the file.
    pub key: &'static str,
    /// What it is about, a line an element.
    pub doc: &'static [&'static str],
    /// Its options.
    pub options: &'static [OptionInfo],
}

impl SectionInfo {
    /// The option called `key`.
    pub fn option(&self, key: &str) -> Option<&OptionInfo> {
        self.options.iter().find(|option| option.key == key)
    }
}

/// A part of the configuration: the options of one module.
pub trait Section {
    /// Its facts.
    const INFO: SectionInfo;

    /// What is wrong with the values taken together: the option's key, and what to say about it.
    fn problems(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Declares a section: `key: Type = default => "example", note;`, where example and note may be left out and the note is
/// a variant of [`Note`]. Implement `check` for what must hold between options.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])+
        $name:ident = $section:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:expr $(=> $example:literal)? $(, $note:ident)?;
            )*
        }
        $(check $check:expr;)?
    ) => {
        $(#[doc = $section_doc])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::Section for $name {
            const INFO: $crate::config::SectionInfo = $crate::config::SectionInfo {
                key: $section,
                doc: &[$($section_doc),+],
                options: &[$($crate::config::OptionInfo {
                    key: stringify!($field),
                    doc: &[$($doc),+],
                    example: $crate::config::option::first(&[$($example)?]),
                    note: $crate::config::option::first(&[$($crate::config::Note::$note)?]),
                }),*],
            };

            $(fn problems(&self) -> Vec<(&'static str, String)> {
                let check: fn(&Self) -> Vec<(&'static str, String)> = $check;
                check(self)
            })?
        }
    };
}
pub(crate) use section;

/// The first element, if there is one.
pub(crate) const fn first<T: Copy>(list: &[T]) -> Option<T> {
    match list {
        [first, ..] => Some(*first),
        [] => None,
    }
}

/// The candidate that `word` was most likely meant to be, if one is near.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (if candidate.starts_with(word) { 1 } else { distance(word, candidate) }, candidate))
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, left out or changed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(line.saturating_add(1));
        for ((target, pair), above) in other.iter().zip(row.windows(2)).zip(row.iter().skip(1)) {
            let diagonal = pair.first().copied().unwrap_or_default();
            let left = next.last().copied().unwrap_or_default();
            let changed = diagonal.saturating_add(usize::from(*target != letter));
            next.push(changed.min(left.saturating_add(1)).min(above.saturating_add(1)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (one, other, edits) in
            [("", "", 0), ("name", "name", 0), ("nmae", "name", 2), ("kitten", "sitting", 3), ("", "abc", 3)]
        {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }

    #[test]
    fn nothing_is_near_a_stranger() {
        assert_eq!(nearest("sever", ["server", "rooms"]), Some("server"));
        assert_eq!(nearest("data", ["name", "data_dir"]), Some("data_dir"));
        assert_eq!(nearest("bananas", ["server", "rooms"]), None);
    }
}
