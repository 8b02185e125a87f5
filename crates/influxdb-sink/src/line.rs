//! InfluxDB's line protocol: `measurement,tag=value field=value time`.

use std::fmt::Write as _;

use records::ReadingValue;

use crate::kcql::Mapping;
use crate::point::Point;

/// What a time is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Milliseconds,
    Nanoseconds,
}

impl Precision {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Nanoseconds => "ns",
        }
    }
}

/// Adds a point's line; `false` where the mapping has no field for its value.
pub(crate) fn push(
    lines: &mut String,
    point: &Point,
    mapping: &Mapping,
    precision: Precision,
) -> bool {
    let Some(field) = mapping.field(point) else {
        return false;
    };
    escape_into(lines, &mapping.measurement, &[',', ' ']);
    for tag in &mapping.tags {
        let value = tag.source.value(point);
        if !value.is_empty() {
            lines.push(',');
            escape_into(lines, &tag.name, &[',', '=', ' ']);
            lines.push('=');
            escape_into(lines, value, &[',', '=', ' ']);
        }
    }
    lines.push(' ');
    escape_into(lines, field, &[',', '=', ' ']);
    lines.push('=');
    match &point.value {
        // `{:?}` writes 1e300 as such, and 21 as 21.0.
        ReadingValue::Number(number) => put(lines, format_args!("{number:?}")),
        ReadingValue::Boolean(yes) => put(lines, format_args!("{yes}")),
        ReadingValue::Text(text) => {
            lines.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    lines.push('\\');
                }
                lines.push(c);
            }
            lines.push('"');
        }
    }
    match precision {
        Precision::Milliseconds => put(lines, format_args!(" {}\n", point.time_ms)),
        Precision::Nanoseconds => {
            let nanoseconds = i128::from(point.time_ms) * 1_000_000 + i128::from(point.time_ns);
            put(lines, format_args!(" {nanoseconds}\n"));
        }
    }
    true
}

/// Writes a measurement, a tag's name or value, or a field's name.
///
/// The protocol has escapes for its separators only. What it can't carry at all is written visibly, as in source code:
/// control characters (a line feed would end the line) as `\n`, `\r`, `\t` or `\x..`, and a backslash at the end, which
/// would escape the separator after it, as `\x5c`.
fn escape_into(lines: &mut String, text: &str, separators: &[char]) {
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => lines.push_str("\\n"),
            '\r' => lines.push_str("\\r"),
            '\t' => lines.push_str("\\t"),
            '\\' if chars.peek().is_none() => lines.push_str("\\x5c"),
            c if c.is_ascii_control() => put(lines, format_args!("\\x{:02x}", u32::from(c))),
            c => {
                if separators.contains(&c) {
                    lines.push('\\');
                }
                lines.push(c);
            }
        }
    }
}

fn put(lines: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _written = lines.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(value: ReadingValue) -> Point {
        Point {
            ticket: "ticket#1".to_owned(),
            observation_id: "a1b2".to_owned(),
            server_id: "rock64".to_owned(),
            ep: "sensor".to_owned(),
            kind: "observe",
            path: "/3303/0/5700".to_owned(),
            time_ms: 1_700_000_000_123,
            time_ns: 7,
            value,
            is_message: false,
        }
    }

    fn line(point: &Point) -> String {
        let mut line = String::new();
        assert!(push(
            &mut line,
            point,
            &Mapping::contract(),
            Precision::Milliseconds
        ));
        line
    }

    #[test]
    fn a_reading_is_a_line_with_the_contracts_tags_and_field() {
        assert_eq!(
            line(&point(ReadingValue::Number(21.0))),
            "resources,ticket=ticket#1,observationId=a1b2,serverId=rock64,ep=sensor,kind=observe,path=/3303/0/5700 value=21.0 1700000000123\n"
        );
        let mut large = point(ReadingValue::Number(1e300));
        large.observation_id.clear();
        large.ticket.clear();
        assert_eq!(
            line(&large),
            "resources,serverId=rock64,ep=sensor,kind=observe,path=/3303/0/5700 value=1e300 1700000000123\n"
        );
        let mut lines = String::new();
        let mapping = Mapping::contract();
        push(&mut lines, &large, &mapping, Precision::Nanoseconds);
        assert!(lines.ends_with(" 1700000000123000007\n"), "{lines}");
    }

    #[test]
    fn no_name_breaks_out_of_its_tag() {
        let mut hostile = point(ReadingValue::Text("say \"hi\" \\ \n,x=1".to_owned()));
        hostile.ep = "a b,c=d\nevil,ep=x value=1\\".to_owned();
        assert_eq!(
            line(&hostile),
            "resources,ticket=ticket#1,observationId=a1b2,serverId=rock64,ep=a\\ b\\,c\\=d\\nevil\\,ep\\=x\\ value\\=1\\x5c,kind=observe,path=/3303/0/5700 svalue=\"say \\\"hi\\\" \\\\ \n,x=1\" 1700000000123\n"
        );
    }
}
