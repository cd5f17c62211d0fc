//! What a mail says of unread messages: a text, and the same in HTML.

use std::fmt::Write as _;

/// Lines of a room that are shown.
pub(super) const LINES_MAX: usize = 5;
/// Rooms that are named.
const ROOMS_MAX: usize = 20;
/// Letters of a line that are shown.
const LINE_LETTERS_MAX: usize = 200;

/// What is unread.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// The server's name.
    pub(super) server: String,
    /// The rooms, each once.
    pub(super) rooms: Vec<RoomDigest>,
    /// Where it can be read.
    pub(super) link: Option<String>,
}

/// What is unread in a room.
#[derive(Debug, Default)]
pub(super) struct RoomDigest {
    /// The room's name, where mail may tell it.
    pub(super) name: Option<String>,
    /// How many messages.
    pub(super) unread: usize,
    /// The first of them, who and what, where mail may tell it.
    pub(super) lines: Vec<(String, String)>,
}

/// Why the reader gets it, and what ends it.
const FOOT: &str = "You get this mail because notifications by e-mail are switched on in the settings of your application. \
     Switch them off there to get no more.";

impl Digest {
    /// A line for the head of the mail.
    pub(super) fn subject(&self) -> String {
        format!("{} on {}", messages(self.unread()), self.server)
    }

    fn unread(&self) -> usize {
        self.rooms.iter().map(|room| room.unread).sum()
    }

    fn opening(&self) -> String {
        let rooms = match self.rooms.len() {
            1 => "1 room".to_owned(),
            count => format!("{count} rooms"),
        };
        format!("You have {} in {rooms} on {}.", messages(self.unread()), self.server)
    }

    /// The rooms that are named.
    fn named(&self) -> impl Iterator<Item = (&str, &RoomDigest)> {
        self.rooms.iter().filter_map(|room| Some((room.name.as_deref()?, room))).take(ROOMS_MAX)
    }

    /// The mail as text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n", self.opening());
        for (name, room) in self.named() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{} ({})\n", one_line(name), room.unread);
            for (who, what) in &room.lines {
                let _ = writeln!(text, "  {}: {}", one_line(who), one_line(what));
            }
        }
        if let Some(link) = &self.link {
            let _ = write!(text, "\n{link}\n");
        }
        let _ = write!(text, "\n-- \n{FOOT}\n");
        text
    }

    /// The mail as HTML.
    pub(super) fn html(&self) -> String {
        let mut html = format!("<!DOCTYPE html><html lang=\"en\"><body><p>{}</p>", escaped(&self.opening()));
        for (name, room) in self.named() {
            let _ = write!(html, "<p><b>{}</b> ({})", escaped(&one_line(name)), room.unread);
            for (who, what) in &room.lines {
                let (who, what) = (escaped(&one_line(who)), escaped(&one_line(what)));
                let _ = write!(html, "<br><i>{who}</i>: {what}");
            }
            html.push_str("</p>");
        }
        if let Some(link) = &self.link {
            let link = escaped(link);
            let _ = write!(html, "<p><a href=\"{link}\">{link}</a></p>");
        }
        let _ = write!(html, "<p><small>{FOOT}</small></p></body></html>");
        html
    }
}

fn messages(count: usize) -> String {
    match count {
        1 => "1 unread message".to_owned(),
        count => format!("{count} unread messages"),
    }
}

/// A text on one line, cut where it is long: what people write makes no lines of its own.
fn one_line(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LINE_LETTERS_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Text as it may stand in HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_told_is_a_number() {
        let rooms = vec![
            RoomDigest { unread: 2, ..RoomDigest::default() },
            RoomDigest { unread: 1, ..RoomDigest::default() },
        ];
        let digest = Digest { server: "example.org".to_owned(), rooms, link: None };
        assert_eq!(digest.subject(), "3 unread messages on example.org");
        assert_eq!(
            digest.text(),
            format!("You have 3 unread messages in 2 rooms on example.org.\n\n-- \n{FOOT}\n")
        );
    }

    #[test]
    fn what_people_write_is_shown_as_they_wrote_it_and_makes_no_markup_or_lines() {
        let room = RoomDigest {
            name: Some("R&D\n\nroom".to_owned()),
            unread: 1,
            lines: vec![("<b>Eve".to_owned(), format!("a\r\nb <script>{}", "x".repeat(300)))],
        };
        let link = Some("https://chat.example.org/?a=\"b\"".to_owned());
        let digest = Digest { server: "example.org".to_owned(), rooms: vec![room], link };
        let cut = format!("a b <script>{}…", "x".repeat(LINE_LETTERS_MAX - 12));
        assert!(digest.text().contains(&format!("\nR&D room (1)\n  <b>Eve: {cut}\n")), "{}", digest.text());
        let html = digest.html();
        assert!(
            html.contains("<b>R&amp;D room</b> (1)<br><i>&lt;b&gt;Eve</i>: a b &lt;script&gt;"),
            "{html}"
        );
        assert!(html.contains("?a=&quot;b&quot;") && !html.contains("<script"), "{html}");
    }
}
