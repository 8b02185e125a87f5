//! The link format (RFC 6690), as registrations, discover and bootstrap-discover carry it.

use lwm2m_model::ObjectPath;
use thiserror::Error;

/// The most links read from one payload.
pub const MAX_LINKS: usize = 8192;
/// The most attributes read of one link.
pub const MAX_LINK_ATTRIBUTES: usize = 64;

/// A link of RFC 6690, as in a registration's payload or a discover's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// What stands between `<` and `>`, as given.
    pub url: String,
    /// In the order given; values without their quotes, `None` for attributes that have none.
    pub attributes: Vec<(String, Option<String>)>,
}

/// Why a text is no list of links. Bytes are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    #[error("the links are not UTF-8 from byte {offset} on")]
    NotUtf8 { offset: usize },
    #[error("byte {offset} of the links: expected {expected}")]
    Expected {
        offset: usize,
        expected: &'static str,
    },
    #[error("byte {offset} of the links: there are more than {MAX_LINKS} links")]
    TooManyLinks { offset: usize },
    #[error("byte {offset} of the links: the link has more than {MAX_LINK_ATTRIBUTES} attributes")]
    TooManyAttributes { offset: usize },
}

/// Reads links; an empty payload is an empty list.
///
/// Taken besides RFC 6690's grammar, because devices send it: white space between parts, a comma too many, and
/// bare values with characters the grammar wants quoted.
pub fn parse_links(payload: &[u8]) -> Result<Vec<Link>, LinkError> {
    let text = std::str::from_utf8(payload).map_err(|e| LinkError::NotUtf8 {
        offset: e.valid_up_to(),
    })?;
    let mut parser = Parser { text, at: 0 };
    let mut links = Vec::new();
    loop {
        parser.space();
        while parser.take(',') {
            parser.space();
        }
        if parser.rest().is_empty() {
            return Ok(links);
        }
        if links.len() == MAX_LINKS {
            return Err(LinkError::TooManyLinks { offset: parser.at });
        }
        links.push(parser.link()?);
        parser.space();
        if !parser.rest().is_empty() && !parser.rest().starts_with(',') {
            return Err(parser.expected("a comma, or a semicolon and an attribute"));
        }
    }
}

/// Writes links, each attribute as [`Link::written`] has it.
///
/// What cannot stand in a link is left out: `<` and `>` in a URL, and characters no attribute's name may have.
pub fn format_links(links: &[Link]) -> String {
    links
        .iter()
        .map(Link::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

impl Link {
    /// A link without attributes.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            attributes: Vec::new(),
        }
    }

    /// The same link with one more attribute.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((name.into(), Some(value.into())));
        self
    }

    /// The value of the first attribute with this name; `None` too where it has no value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(n, _)| n == name)
            .and_then(|(_, value)| value.as_deref())
    }

    /// The path that the link names on a device whose tree hangs at `root` (TS 1.1 core, section 6.2.1:
    /// `/` or an alternate path such as `/lwm2m`); `None` when it lies elsewhere.
    pub fn object_path(&self, root: &str) -> Option<ObjectPath> {
        let root = root.trim_end_matches('/');
        let below = self.url.strip_prefix(root)?;
        if !root.is_empty() && !below.is_empty() && !below.starts_with('/') {
            return None;
        }
        if below.is_empty() {
            Some(ObjectPath::Root)
        } else {
            below.parse().ok()
        }
    }

    /// An attribute's value as it stands in a link: numbers and versions bare, as LwM2M writes them (`ver=1.1`,
    /// `ct=110`, `pmin=10`), everything else quoted (`rt="oma.lwm2m"`, `ct="60 110"`).
    pub fn written(value: &str) -> String {
        let bare = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'+' | b'-');
        if !value.is_empty() && value.bytes().all(bare) {
            return value.to_owned();
        }
        let mut quoted = String::with_capacity(value.len() + 2);
        quoted.push('"');
        for c in value.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        quoted
    }
}

/// The path a device's tree hangs at: the URL of the link with `rt="oma.lwm2m"`, or `/` when none has it.
pub fn root_path(links: &[Link]) -> &str {
    let is_root = |link: &&Link| {
        link.attribute("rt")
            .is_some_and(|rt| rt.split(' ').any(|rt| rt == "oma.lwm2m"))
    };
    links.iter().find(is_root).map_or("/", |link| &link.url)
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{}>", self.url.replace(['<', '>'], ""))?;
        for (name, value) in &self.attributes {
            let name: String = name.chars().filter(|c| is_name(*c)).collect();
            match value {
                _ if name.is_empty() => {}
                Some(value) => write!(f, ";{name}={}", Self::written(value))?,
                None => write!(f, ";{name}")?,
            }
        }
        Ok(())
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn link(&mut self) -> Result<Link, LinkError> {
        if !self.take('<') {
            return Err(self.expected("< and a URL"));
        }
        let url = self.up_to(|c| matches!(c, '<' | '>')).to_owned();
        if !self.take('>') {
            return Err(self.expected("> after the URL"));
        }
        let mut attributes = Vec::new();
        loop {
            self.space();
            if !self.take(';') {
                return Ok(Link { url, attributes });
            }
            self.space();
            if attributes.len() == MAX_LINK_ATTRIBUTES {
                return Err(LinkError::TooManyAttributes { offset: self.at });
            }
            attributes.push(self.attribute()?);
        }
    }

    fn attribute(&mut self) -> Result<(String, Option<String>), LinkError> {
        let name = self.up_to(|c| !is_name(c)).to_owned();
        if name.is_empty() {
            return Err(self.expected("an attribute's name"));
        }
        self.space();
        if !self.take('=') {
            return Ok((name, None));
        }
        self.space();
        if self.take('"') {
            return Ok((name, Some(self.quoted()?)));
        }
        let value = self
            .up_to(|c| matches!(c, ',' | ';' | '"' | '<' | '>'))
            .trim_end();
        if value.is_empty() {
            return Err(self.expected("the attribute's value"));
        }
        Ok((name, Some(value.to_owned())))
    }

    /// The rest of a quoted string, whose opening quote has been taken.
    fn quoted(&mut self) -> Result<String, LinkError> {
        let start = self.at;
        let mut value = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((index, c)) = characters.next() {
            match c {
                '"' => {
                    self.at = start + index + 1;
                    return Ok(value);
                }
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                _ => value.push(c),
            }
        }
        self.at = self.text.len();
        Err(self.expected("the closing quote of a value"))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn take(&mut self, c: char) -> bool {
        let there = self.rest().starts_with(c);
        if there {
            self.at += c.len_utf8();
        }
        there
    }

    fn up_to(&mut self, end: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let found = &rest[..rest.find(end).unwrap_or(rest.len())];
        self.at += found.len();
        found
    }

    fn expected(&self, expected: &'static str) -> LinkError {
        LinkError::Expected {
            offset: self.at,
            expected,
        }
    }
}

/// RFC 6690's `parmname`, with `*` for names such as `title*`, and `_`, `.` and `:` as devices use them.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$&+-^_`{}~*.:".contains(c)
}
