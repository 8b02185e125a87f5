use std::fmt;
use std::str::FromStr;

use regex_lite::Regex;

/// A regular expression that a topic's whole name has to match.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// A text that is no pattern of topics.
#[derive(Clone, Debug, thiserror::Error)]
#[error("'{text}' is no regular expression for topics' names: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

impl Pattern {
    /// Exactly this name.
    pub fn exactly(name: &str) -> Self {
        let text = regex_lite::escape(name);
        text.parse().expect("an escaped name is a pattern")
    }

    /// Whether the whole name matches.
    pub fn matches(&self, topic: &str) -> bool {
        self.regex.is_match(topic)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        let bad = |reason: String| PatternError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(bad("it is empty".to_owned()));
        }
        let regex = Regex::new(&format!("^(?:{text})$")).map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How the topics end in which mirrors keep their offsets: no flow carries them.
pub const OFFSETS_SUFFIX: &str = ".mirror-offsets";

/// Which topics a flow carries.
#[derive(Clone, Debug, Default)]
pub struct TopicSet {
    /// A topic has to match one of these …
    pub include: Vec<Pattern>,
    /// … and none of these.
    pub exclude: Vec<Pattern>,
}

impl TopicSet {
    /// Whether a topic belongs to it. Kafka's own topics, and those of mirrors, never do.
    pub fn contains(&self, topic: &str) -> bool {
        !topic.starts_with("__")
            && !topic.ends_with(OFFSETS_SUFFIX)
            && self.include.iter().any(|pattern| pattern.matches(topic))
            && !self.exclude.iter().any(|pattern| pattern.matches(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_only() {
        let set = TopicSet {
            include: vec![r"iot\.gw1\..+".parse().unwrap()],
            exclude: vec![Pattern::exactly("iot.gw1.management.req")],
        };
        for (topic, carried) in [
            ("iot.gw1.observations", true),
            ("iot.gw1.management.req", false),
            ("iot.gw1.management.req.dlq", true),
            ("iot.gw10.observations", false),
            ("xiot.gw1.observations", false),
            ("iot.gw1.a.mirror-offsets", false),
        ] {
            assert_eq!(set.contains(topic), carried, "{topic}");
        }
        assert!("(".parse::<Pattern>().is_err());
        assert!(" ".parse::<Pattern>().is_err());
    }
}
