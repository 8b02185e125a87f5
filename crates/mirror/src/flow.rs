use records::TopicKind;

use crate::limits::Limits;
use crate::{Args, ArgsError, Direction, Pattern, TopicSet, Transfer};

/// What is carried, under which name, and how.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The consumer group at the source and the transactional id at the target.
    pub name: String,
    /// All topics it carries.
    pub topics: TopicSet,
    /// Those of them that go before the others.
    pub prompt: Vec<Pattern>,
    /// The compression at the target.
    pub compression: String,
    /// Whether records get their origin written in a header: what makes a request the same request after a copy.
    pub stamps_origin: bool,
    /// Which side of the mirror the link is on.
    pub transfer: Transfer,
    /// What is left out.
    pub limits: Limits,
}

impl Flow {
    /// The flow that the options name.
    ///
    /// # Errors
    /// When they name none, or two.
    pub fn new(args: &Args) -> Result<Self, ArgsError> {
        let limits = Limits {
            age: args.max_age.clone(),
            backlog: args.max_backlog.clone(),
            record_bytes: args.max_record_bytes.clone(),
        };
        let any = Self {
            name: String::new(),
            topics: TopicSet::default(),
            prompt: args.priority_topics.clone(),
            compression: "none".to_owned(),
            stamps_origin: false,
            transfer: args.transfer,
            limits,
        };
        let mut flow = match (&args.direction, args.topics.as_slice(), &args.flow) {
            (Some(direction), [], None) => {
                let gateway = args.gateway.as_ref().ok_or(ArgsError::WhichTopics)?;
                let requests = Pattern::exactly(&TopicKind::ManagementReq.topic(gateway));
                match direction {
                    // Contract, section 1.
                    Direction::CloudToEdge => Self {
                        name: format!("mirrormaker_edge_{gateway}"),
                        topics: TopicSet {
                            include: vec![requests],
                            exclude: Vec::new(),
                        },
                        stamps_origin: true,
                        ..any
                    },
                    Direction::EdgeToCloud => Self {
                        name: format!("mirrormaker_cloud_{gateway}"),
                        topics: TopicSet {
                            // A gateway id has no character that means something in a regular expression but itself.
                            include: vec![format!(r"iot\.{gateway}\..+").parse()?],
                            exclude: vec![requests],
                        },
                        prompt: if any.prompt.is_empty() {
                            [TopicKind::Registrations, TopicKind::ManagementRep]
                                .map(|kind| Pattern::exactly(&kind.topic(gateway)))
                                .into()
                        } else {
                            any.prompt
                        },
                        compression: "snappy".to_owned(),
                        ..any
                    },
                }
            }
            (None, [_, ..], Some(name)) => Self {
                name: name.0.clone(),
                topics: TopicSet {
                    include: args.topics.clone(),
                    exclude: args.exclude_topics.clone(),
                },
                ..any
            },
            _ => return Err(ArgsError::WhichTopics),
        };
        if args.transfer == Transfer::Push {
            flow.compression = "zstd".to_owned();
        }
        if let Some(compression) = &args.compression {
            flow.compression.clone_from(compression);
        }
        Ok(flow)
    }

    /// Whether a topic goes before the others.
    pub(crate) fn is_prompt(&self, topic: &str) -> bool {
        self.prompt.iter().any(|pattern| pattern.matches(topic))
    }
}
