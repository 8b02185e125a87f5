//! A call about a device's tree as it came. What is asked for is read from it when it is sent, so that one for a device
//! that sleeps can be kept.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, header};
use lwm2m::server::RequestOptions;
use lwm2m::{Operation, Registration};
use lwm2m_codec::ContentFormat;
use lwm2m_model::Registry;
use serde::{Deserialize, Serialize};

use super::{Refused, Web, composite, device, specs};

/// How long a device has to answer where `timeout` does not say: Leshan's five seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest `timeout`, in seconds: each request holds a connection and a place in its device's queue.
const LONGEST_TIMEOUT_S: i64 = 600;

/// What somebody asks of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// Below the device: `3/0/15`, `3/0/15/observe`, `composite`.
    pub(super) target: String,
    pub(super) said: Said,
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
}

/// A method, by which a call is told from others at the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    /// HEAD is a GET whose answer is not looked at.
    pub(super) fn of(method: &Method) -> Self {
        match *method {
            Method::PUT => Self::Put,
            Method::POST => Self::Post,
            Method::DELETE => Self::Delete,
            _ => Self::Get,
        }
    }

    /// In lower case, as OpenAPI has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}

/// What is asked for, ready to be sent.
pub(super) struct Asked {
    pub(super) operation: Operation,
    pub(super) options: RequestOptions,
}

impl Request {
    pub(super) fn new(verb: Verb, target: &str, parameters: Vec<(String, String)>) -> Self {
        Self {
            verb,
            target: target.strip_suffix('/').unwrap_or(target).to_owned(),
            said: Said(parameters),
            content_type: None,
            body: Vec::new(),
        }
    }

    /// With its body, where one means anything.
    pub(super) fn with_body(mut self, headers: &HeaderMap, body: Bytes) -> Self {
        if matches!(self.verb, Verb::Get | Verb::Delete) {
            return self;
        }
        self.content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .map(str::to_owned);
        self.body = body.into();
        self
    }

    /// Reads what is asked for, by the models of the device's objects.
    pub(super) fn read(&self, web: &Web, registration: &Registration) -> Result<Asked, Refused> {
        let models = || -> Registry { specs::of(web.engine.models(), registration) };
        if composite::is(&self.target) {
            composite::read_request(self, &models)
        } else {
            device::read_request(self, &models)
        }
    }

    /// How many bytes it takes to keep it, about.
    pub(super) fn size(&self) -> usize {
        let said = &self.said.0;
        let said: usize = said
            .iter()
            .map(|(name, value)| name.len() + value.len() + 48)
            .sum();
        256 + self.target.len() + self.body.len() + said
    }
}

/// A request's parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Said(pub(super) Vec<(String, String)>);

/// The parameters that are no notification attribute.
const OURS: [&str; 8] = [
    "format",
    "timeout",
    "replace",
    "active",
    "paths",
    "pathformat",
    "nodeformat",
    "expires",
];

impl Said {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(of, _)| of == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn format(&self, name: &str) -> Result<Option<ContentFormat>, Refused> {
        self.get(name)
            .filter(|format| !format.is_empty())
            .map(str::parse)
            .transpose()
            .map_err(Refused::invalid)
    }

    /// The time to the answer. Leshan takes its default where the parameter is no number.
    pub(super) fn options(&self) -> RequestOptions {
        let timeout = self
            .get("timeout")
            .and_then(|seconds| seconds.parse::<i64>().ok())
            .map(|seconds| seconds.clamp(1, LONGEST_TIMEOUT_S).unsigned_abs())
            .map_or(TIMEOUT, Duration::from_secs);
        RequestOptions {
            timeout: Some(timeout),
            ..RequestOptions::default()
        }
    }

    /// Whether a cancel is told to the device.
    pub(super) fn active(&self) -> bool {
        self.get("active")
            .is_some_and(|active| !active.eq_ignore_ascii_case("false"))
    }

    /// The notification attributes; one without a value is to be unset.
    pub(super) fn attributes(&self) -> Vec<String> {
        self.0
            .iter()
            .filter(|(name, _)| !OURS.contains(&name.as_str()))
            .map(|(name, value)| match value.as_str() {
                "" => name.clone(),
                value => format!("{name}={value}"),
            })
            .collect()
    }
}
