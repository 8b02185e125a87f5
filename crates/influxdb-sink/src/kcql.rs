//! The part of KCQL that maps our records: which fields become which, under which measurement and tags.
//!
//! ```text
//! INSERT INTO <measurement> SELECT <field> [AS <name>], … FROM <topic>
//!   WITHTIMESTAMP timestamp WITHTAG (<tag> [AS <name>] | <name>=<constant>, …) [; …]
//! ```

use std::collections::BTreeMap;

use records::ReadingValue;

use crate::point::Point;

/// How a topic's records become points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) measurement: String,
    /// The field of numbers, double and long alike; `None`: numbers are left out. The same for the others.
    pub(crate) number: Option<String>,
    pub(crate) text: Option<String>,
    pub(crate) boolean: Option<String>,
    /// The field of a generic response's message.
    pub(crate) message: Option<String>,
    pub(crate) tags: Vec<Tag>,
}

/// A tag of the points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) source: TagSource,
}

/// Where a tag's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TagSource {
    Ticket,
    ObservationId,
    ServerId,
    Ep,
    Kind,
    Path,
    Constant(String),
}

const TAGS: [(&str, TagSource); 6] = [
    ("ticket", TagSource::Ticket),
    ("observationId", TagSource::ObservationId),
    ("serverId", TagSource::ServerId),
    ("ep", TagSource::Ep),
    ("kind", TagSource::Kind),
    ("path", TagSource::Path),
];

impl TagSource {
    /// The tag's value; empty where the point has none.
    pub(crate) fn value<'a>(&'a self, point: &'a Point) -> &'a str {
        match self {
            Self::Ticket => &point.ticket,
            Self::ObservationId => &point.observation_id,
            Self::ServerId => &point.server_id,
            Self::Ep => &point.ep,
            Self::Kind => point.kind,
            Self::Path => &point.path,
            Self::Constant(value) => value,
        }
    }
}

impl Mapping {
    /// The contract's (section 6).
    pub(crate) fn contract() -> Self {
        let tag = |(name, source): (&str, TagSource)| Tag {
            name: name.to_owned(),
            source,
        };
        Self {
            measurement: "resources".to_owned(),
            number: Some("value".to_owned()),
            text: Some("svalue".to_owned()),
            boolean: Some("bvalue".to_owned()),
            message: Some("svalue".to_owned()),
            tags: TAGS.map(tag).to_vec(),
        }
    }

    /// The field of a point's value; `None`: the value is left out.
    pub(crate) fn field(&self, point: &Point) -> Option<&str> {
        let field = match &point.value {
            _ if point.is_message => &self.message,
            ReadingValue::Number(_) => &self.number,
            ReadingValue::Text(_) => &self.text,
            ReadingValue::Boolean(_) => &self.boolean,
        };
        field.as_deref()
    }

    /// Whether its points have only names that the embedded store has columns for.
    pub(crate) fn fits_contract(&self) -> bool {
        let contract = Self::contract();
        let field =
            |ours: &Option<String>, theirs: &Option<String>| ours.is_none() || ours == theirs;
        self.measurement == contract.measurement
            && field(&self.number, &contract.number)
            && field(&self.text, &contract.text)
            && field(&self.boolean, &contract.boolean)
            && field(&self.message, &contract.message)
            && self.tags.iter().all(|tag| contract.tags.contains(tag))
    }
}

/// Why KCQL can't be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("statement {statement} of the KCQL can't be honoured: {reason}")]
pub(crate) struct KcqlError {
    /// Counted from 1.
    statement: usize,
    reason: String,
}

/// Longer KCQL is no configuration.
const LONGEST: usize = 64 * 1024;

/// The mappings by topic.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Mapping>, KcqlError> {
    let mut mappings = BTreeMap::new();
    let fail = |statement: usize, reason: String| KcqlError { statement, reason };
    if text.len() > LONGEST {
        return Err(fail(1, format!("it is longer than {LONGEST} bytes")));
    }
    let statements = text.split(';').map(str::trim).filter(|s| !s.is_empty());
    for (index, statement) in statements.enumerate() {
        let (topic, mapping) =
            Statement::parse(statement).map_err(|reason| fail(index + 1, reason))?;
        if mappings.insert(topic.clone(), mapping).is_some() {
            return Err(fail(
                index + 1,
                format!("topic '{topic}' has a statement already"),
            ));
        }
    }
    if mappings.is_empty() {
        return Err(fail(1, "there is none".to_owned()));
    }
    Ok(mappings)
}

struct Statement<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token<'a>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// In back ticks: never a keyword.
    Quoted(&'a str),
    Mark(char),
}

impl<'a> Statement<'a> {
    fn parse(text: &'a str) -> Result<(String, Mapping), String> {
        let mut statement = Self {
            tokens: tokens(text)?.into_iter().peekable(),
        };
        statement.keyword("INSERT")?;
        statement.keyword("INTO")?;
        let measurement = statement.name("a measurement")?;
        if measurement.starts_with('#') {
            return Err(
                "a measurement can't start with '#', which is InfluxDB's comment".to_owned(),
            );
        }
        statement.keyword("SELECT")?;
        let mut mapping = Mapping {
            measurement: measurement.to_owned(),
            number: None,
            text: None,
            boolean: None,
            message: None,
            tags: Vec::new(),
        };
        let mut selected = Selected::default();
        loop {
            let field = statement.name("a field")?;
            let name = statement.alias(field)?;
            selected.add(field, name)?;
            if !statement.mark(',') {
                break;
            }
        }
        selected.into_mapping(&mut mapping)?;
        statement.keyword("FROM")?;
        let topic = statement.name("a topic")?.to_owned();
        let mut timestamp = false;
        while let Some(token) = statement.tokens.next() {
            match token {
                Token::Word(word) if word.eq_ignore_ascii_case("WITHTIMESTAMP") => {
                    let field = statement.name("a field")?;
                    if field != "timestamp" {
                        return Err(format!(
                            "WITHTIMESTAMP {field}: a point's time is the record's 'timestamp', so that a replay changes nothing"
                        ));
                    }
                    timestamp = true;
                }
                Token::Word(word) if word.eq_ignore_ascii_case("WITHTAG") => {
                    statement.tags(&mut mapping.tags)?;
                }
                other => return Err(format!("{} is not supported here", shown(Some(other)))),
            }
        }
        if !timestamp {
            return Err("WITHTIMESTAMP timestamp is missing: without it a replay would write every point again".to_owned());
        }
        Ok((topic, mapping))
    }

    fn tags(&mut self, tags: &mut Vec<Tag>) -> Result<(), String> {
        if !self.mark('(') {
            return Err("WITHTAG has to be followed by (…)".to_owned());
        }
        loop {
            let field = self.name("a tag")?;
            let tag = if self.mark('=') {
                let value = self.name("a constant")?.to_owned();
                Tag {
                    name: field.to_owned(),
                    source: TagSource::Constant(value),
                }
            } else {
                let known = TAGS.into_iter().find(|(name, _)| *name == field);
                let (_, source) = known.ok_or_else(|| {
                    let names = TAGS.map(|(name, _)| name).join(", ");
                    format!("'{field}' is no tag of these records; they have {names}")
                })?;
                Tag {
                    name: self.alias(field)?.to_owned(),
                    source,
                }
            };
            if tags.iter().any(|known| known.name == tag.name) {
                return Err(format!("the tag '{}' stands twice", tag.name));
            }
            tags.push(tag);
            if self.mark(')') {
                return Ok(());
            }
            if !self.mark(',') {
                let found = shown(self.tokens.next());
                return Err(format!("expected ',' or ')' in WITHTAG, found {found}"));
            }
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), String> {
        match self.tokens.next() {
            Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword) => Ok(()),
            other => Err(format!("expected {keyword}, found {}", shown(other))),
        }
    }

    fn name(&mut self, what: &str) -> Result<&'a str, String> {
        match self.tokens.next() {
            Some(Token::Word(name) | Token::Quoted(name)) if !name.is_empty() => Ok(name),
            other => Err(format!("expected {what}, found {}", shown(other))),
        }
    }

    fn alias(&mut self, field: &'a str) -> Result<&'a str, String> {
        match self.tokens.peek() {
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("AS") => {
                self.tokens.next();
                self.name("a name")
            }
            _ => Ok(field),
        }
    }

    fn mark(&mut self, mark: char) -> bool {
        self.tokens.next_if_eq(&Token::Mark(mark)).is_some()
    }
}

#[derive(Default)]
struct Selected<'a> {
    dvalue: Option<&'a str>,
    lvalue: Option<&'a str>,
    svalue: Option<&'a str>,
    bvalue: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Selected<'a> {
    fn add(&mut self, field: &str, name: &'a str) -> Result<(), String> {
        let slot = match field {
            "dvalue" => &mut self.dvalue,
            "lvalue" => &mut self.lvalue,
            "svalue" => &mut self.svalue,
            "bvalue" => &mut self.bvalue,
            "message" => &mut self.message,
            _ => {
                return Err(format!(
                    "'{field}' is no field of these records; they have dvalue, lvalue, svalue, bvalue, message"
                ));
            }
        };
        match slot.replace(name) {
            None => Ok(()),
            Some(_) => Err(format!("the field '{field}' stands twice")),
        }
    }

    fn into_mapping(self, mapping: &mut Mapping) -> Result<(), String> {
        // Both are written as float (contract, section 6), so that a device that sends 21 after 21.5 is no conflict.
        if self.dvalue != self.lvalue {
            return Err(
                "dvalue and lvalue have to become the same field: numbers are written as float, whichever they were"
                    .to_owned(),
            );
        }
        let names = [self.dvalue, self.bvalue, self.svalue.or(self.message)];
        let clash = |a: usize, b: usize| names[a].is_some() && names[a] == names[b];
        let message_clash =
            self.message.is_some() && (self.message == self.dvalue || self.message == self.bvalue);
        if clash(0, 1) || clash(0, 2) || clash(1, 2) || message_clash {
            return Err(
                "values of different types can't become one field; InfluxDB would refuse them"
                    .to_owned(),
            );
        }
        mapping.number = self.dvalue.map(str::to_owned);
        mapping.text = self.svalue.map(str::to_owned);
        mapping.boolean = self.bvalue.map(str::to_owned);
        mapping.message = self.message.map(str::to_owned);
        Ok(())
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if matches!(first, ',' | '(' | ')' | '=') {
            tokens.push(Token::Mark(first));
            rest = &rest[1..];
        } else if first == '`' {
            let inner = &rest[1..];
            let end = inner.find('`').ok_or("a back tick is not closed")?;
            tokens.push(Token::Quoted(&inner[..end]));
            rest = &inner[end + 1..];
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')' | '=' | '`');
            let end = rest.find(ends).unwrap_or(rest.len());
            tokens.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn shown(token: Option<Token<'_>>) -> String {
    match token {
        None => "the end".to_owned(),
        Some(Token::Word(word) | Token::Quoted(word)) => format!("'{word}'"),
        Some(Token::Mark(mark)) => format!("'{mark}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it stands in the original's connector file.
    const WALKTHROUGH: &str = "INSERT INTO resources SELECT dvalue as value,lvalue as value,svalue,bvalue FROM iot.upboard.observations WITHTIMESTAMP timestamp WITHTAG (ticket, observationId, serverId, ep, kind, path);INSERT INTO resources SELECT dvalue as value,lvalue as value,svalue,bvalue,message as svalue FROM iot.upboard.management.rep WITHTIMESTAMP timestamp WITHTAG (ticket, serverId, ep, kind, path);";

    #[test]
    fn the_originals_kcql_is_the_contracts_mapping() {
        let mappings = parse(WALKTHROUGH).unwrap();
        let contract = Mapping::contract();
        let observations = &mappings["iot.upboard.observations"];
        assert_eq!(observations.tags, contract.tags);
        assert_eq!(observations.number, contract.number);
        assert_eq!(observations.message, None);
        let replies = &mappings["iot.upboard.management.rep"];
        assert_eq!(replies.tags.len(), 5);
        assert_eq!(replies.message.as_deref(), Some("svalue"));
        assert!(observations.fits_contract() && replies.fits_contract());
    }

    #[test]
    fn another_measurement_tag_or_field_is_honoured() {
        let text = "insert into `my readings` select dvalue as v, lvalue as v, bvalue from t withtimestamp timestamp withtag (ep as device, site=roof)";
        let mapping = &parse(text).unwrap()["t"];
        assert_eq!(mapping.measurement, "my readings");
        assert_eq!(mapping.number.as_deref(), Some("v"));
        assert_eq!(mapping.text, None);
        assert_eq!(mapping.tags[0].name, "device");
        assert_eq!(
            mapping.tags[1].source,
            TagSource::Constant("roof".to_owned())
        );
        assert!(!mapping.fits_contract());
    }

    #[test]
    fn what_can_not_be_honoured_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "there is none"),
            ("UPSERT INTO a SELECT b FROM c", "expected INSERT"),
            (
                "INSERT INTO a SELECT * FROM t WITHTIMESTAMP timestamp",
                "'*' is no field",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t",
                "WITHTIMESTAMP timestamp is missing",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t WITHTIMESTAMP sys_time()",
                "the record's 'timestamp'",
            ),
            (
                "INSERT INTO a SELECT dvalue FROM t WITHTIMESTAMP timestamp",
                "the same field",
            ),
            (
                "INSERT INTO a SELECT svalue, bvalue as svalue FROM t WITHTIMESTAMP timestamp",
                "different types",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t WITHTIMESTAMP timestamp WITHTAG (colour)",
                "'colour' is no tag",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t WITHTIMESTAMP timestamp WITHTAG (ep, ep)",
                "stands twice",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t WITHTIMESTAMP timestamp WITHTAG (ep",
                "expected ',' or ')'",
            ),
            (
                "INSERT INTO a SELECT svalue FROM t WITHTIMESTAMP timestamp LIMIT 5",
                "'LIMIT' is not supported",
            ),
            ("INSERT INTO `a SELECT svalue FROM t", "not closed"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
