//! What looks at files before anybody can fetch them, as `media.scan` says it.

/// The port of ICAP.
const ICAP_PORT: u16 = 1344;
/// What stands for the path of the file in the arguments of a program.
pub const SCAN_FILE: &str = "{file}";

/// What looks at files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanner {
    /// A program and its arguments.
    Command {
        /// Its path.
        program: String,
        /// Its arguments; [`SCAN_FILE`] in one of them stands for the file's path. If none has it, the file is its
        /// standard input.
        arguments: Vec<String>,
    },
    /// A server that speaks ICAP.
    Icap(IcapAddress),
}

/// Where an ICAP service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcapAddress {
    /// Its host: a name, or an address with brackets around IPv6.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its path, with a slash before it, and its query.
    pub service: String,
}

impl Scanner {
    /// What the words of `media.scan` mean; `None` if there are none.
    pub fn of(words: &[String]) -> Result<Option<Self>, String> {
        let Some((first, rest)) = words.split_first() else { return Ok(None) };
        if let Some(address) = first.strip_prefix("icap://") {
            if !rest.is_empty() {
                return Err("nothing follows the address of an ICAP server".to_owned());
            }
            return Ok(Some(Self::Icap(IcapAddress::parse(address).ok_or_else(|| {
                format!(
                    "{first:?} is no address of an ICAP service; write it like \"icap://127.0.0.1:1344/scan\""
                )
            })?)));
        }
        if !first.starts_with('/') {
            return Err(
                "give the whole path of the program, or an address such as \"icap://127.0.0.1:1344/scan\""
                    .to_owned(),
            );
        }
        Ok(Some(Self::Command { program: first.clone(), arguments: rest.to_vec() }))
    }
}

impl IcapAddress {
    /// Reads what follows `icap://`.
    fn parse(text: &str) -> Option<Self> {
        let (authority, service) = match text.find('/') {
            Some(slash) => text.split_at_checked(slash)?,
            None => (text, "/"),
        };
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        let ends_host = if authority.starts_with('[') { authority.find(']') } else { None };
        let colon = authority.rfind(':').filter(|colon| ends_host.is_none_or(|end| *colon > end));
        let (host, port) = match colon {
            Some(colon) => (authority.get(..colon)?, authority.get(colon.checked_add(1)?..)?.parse().ok()?),
            None => (authority, ICAP_PORT),
        };
        (is_plain && !host.is_empty() && !host.contains('@')).then(|| Self {
            host: host.to_owned(),
            port,
            service: service.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(words: &[&str]) -> Result<Option<Scanner>, String> {
        Scanner::of(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_program_or_an_address() {
        assert_eq!(scanner(&[]), Ok(None));
        let program = Scanner::Command { program: "/usr/bin/scan".into(), arguments: vec!["{file}".into()] };
        assert_eq!(scanner(&["/usr/bin/scan", "{file}"]), Ok(Some(program)));
        for (text, host, port, service) in [
            ("icap://127.0.0.1:1344/scan", "127.0.0.1", 1344, "/scan"),
            ("icap://scanner/av?mode=1", "scanner", 1344, "/av?mode=1"),
            ("icap://[::1]:99", "[::1]", 99, "/"),
            ("icap://[::1]/a", "[::1]", 1344, "/a"),
        ] {
            let address = IcapAddress { host: host.into(), port, service: service.into() };
            assert_eq!(scanner(&[text]), Ok(Some(Scanner::Icap(address))), "{text}");
        }
        for wrong in [&["scan"][..], &["icap://"], &["icap://a b/"], &["icap://a:b/"], &["icap://a/", "b"]] {
            assert!(scanner(wrong).is_err(), "{wrong:?}");
        }
    }
}
