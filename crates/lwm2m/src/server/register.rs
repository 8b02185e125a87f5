//! The registration interface's parameters (TS 1.1 core, section 6.2): from a request to checked values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coap::{Code, Request, Response};
use lwm2m_codec::{ContentFormat, Link, parse_links};

use super::ServerConfig;
use crate::{Binding, DEFAULT_LIFETIME, Version};

/// A refusal: the code and a diagnostic text for the device's log.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) reason: String,
    /// When to try again, in whole seconds.
    retry_after: Option<Duration>,
}

/// What a device is answered while there is no room: 5.03 with Max-Age (RFC 7252 section 5.9.3.4).
pub(super) fn busy(retry_after: Duration) -> Response {
    Refusal::busy(retry_after, "this server is busy").into_response()
}

impl Refusal {
    pub(super) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            retry_after: None,
        }
    }

    pub(super) fn busy(retry_after: Duration, reason: impl Into<String>) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(Code::SERVICE_UNAVAILABLE, reason)
        }
    }

    pub(super) fn into_response(self) -> Response {
        Response {
            payload: self.reason.into_bytes().into(),
            max_age: self
                .retry_after
                .map(|wait| u32::try_from(wait.as_secs()).unwrap_or(u32::MAX)),
            ..Response::new(self.code)
        }
    }
}

/// A register's parameters.
pub(super) struct Register {
    pub(super) endpoint: String,
    pub(super) lifetime: Duration,
    pub(super) version: Version,
    pub(super) binding: Binding,
    pub(super) sms: Option<String>,
    pub(super) links: Arc<[Link]>,
    pub(super) attributes: BTreeMap<String, String>,
}

/// An update's parameters: what it did not carry is `None`.
pub(super) struct Update {
    pub(super) lifetime: Option<Duration>,
    pub(super) binding: Option<Binding>,
    pub(super) sms: Option<String>,
    pub(super) links: Option<Arc<[Link]>>,
    pub(super) attributes: BTreeMap<String, String>,
}

impl Register {
    pub(super) fn parse(request: &Request, config: &ServerConfig) -> Result<Self, Refusal> {
        let parameters = Parameters::parse(&request.query, config)?;
        let endpoint = parameters.endpoint.unwrap_or_default();
        if endpoint.is_empty() {
            return Err(Refusal::new(
                Code::BAD_REQUEST,
                "the parameter ep is missing: name the endpoint",
            ));
        }
        if endpoint.len() > config.max_endpoint_bytes {
            let reason = format!(
                "the endpoint name is longer than {} bytes",
                config.max_endpoint_bytes
            );
            return Err(Refusal::new(Code::BAD_REQUEST, reason));
        }
        if endpoint.chars().any(char::is_control) {
            return Err(Refusal::new(
                Code::BAD_REQUEST,
                "the endpoint name has control characters",
            ));
        }
        let version = match parameters.version {
            None => Version::default(),
            Some(text) => Version::parse(text).ok_or_else(|| {
                Refusal::new(
                    Code::PRECONDITION_FAILED,
                    "this server speaks LwM2M 1.0 and 1.1",
                )
            })?,
        };
        check_lifetime(parameters.lifetime, version)?;
        let links = links(request, config)?;
        if links.is_empty() {
            return Err(Refusal::new(
                Code::BAD_REQUEST,
                "the list of objects is missing: send it as link format",
            ));
        }
        Ok(Self {
            endpoint: endpoint.to_owned(),
            lifetime: parameters.lifetime.unwrap_or(DEFAULT_LIFETIME),
            version,
            binding: match (parameters.binding, parameters.queue) {
                (Some(binding), _) => binding,
                (None, queue) => Binding {
                    queue,
                    ..Binding::default()
                },
            },
            sms: parameters.sms,
            links,
            attributes: parameters.attributes,
        })
    }
}

impl Update {
    /// `version`: the one that the device has registered with.
    pub(super) fn parse(
        request: &Request,
        version: Version,
        config: &ServerConfig,
    ) -> Result<Self, Refusal> {
        let parameters = Parameters::parse(&request.query, config)?;
        check_lifetime(parameters.lifetime, version)?;
        let links = if request.payload.is_empty() {
            None
        } else {
            Some(links(request, config)?)
        };
        Ok(Self {
            lifetime: parameters.lifetime,
            binding: parameters.binding,
            sms: parameters.sms,
            links,
            attributes: parameters.attributes,
        })
    }
}

#[derive(Default)]
struct Parameters<'a> {
    endpoint: Option<&'a str>,
    lifetime: Option<Duration>,
    version: Option<&'a str>,
    binding: Option<Binding>,
    queue: bool,
    sms: Option<String>,
    attributes: BTreeMap<String, String>,
}

impl<'a> Parameters<'a> {
    /// The query's parameters, in any order. One that stands twice is refused: which of the two would count?
    fn parse(query: &'a [String], config: &ServerConfig) -> Result<Self, Refusal> {
        let mut parameters = Self::default();
        let mut binding = None;
        let mut lifetime = None;
        let mut seen = 0_u8;
        for item in query {
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let bit = match name {
                "ep" => {
                    parameters.endpoint = Some(value);
                    1
                }
                "lt" => {
                    lifetime = Some(value);
                    2
                }
                "lwm2m" => {
                    parameters.version = Some(value);
                    4
                }
                "b" => {
                    binding = Some(value);
                    8
                }
                "Q" => {
                    parameters.queue = true;
                    16
                }
                "sms" => {
                    parameters.sms = Some(value.to_owned());
                    32
                }
                _ => {
                    if parameters.attributes.len() == config.max_attributes {
                        let reason = format!(
                            "more than {} parameters of the device's own",
                            config.max_attributes
                        );
                        return Err(Refusal::new(Code::BAD_REQUEST, reason));
                    }
                    if parameters
                        .attributes
                        .insert(name.to_owned(), value.to_owned())
                        .is_some()
                    {
                        return Err(Refusal::new(Code::BAD_REQUEST, "a parameter stands twice"));
                    }
                    0
                }
            };
            if seen & bit != 0 {
                return Err(Refusal::new(
                    Code::BAD_REQUEST,
                    format!("the parameter {name} stands twice"),
                ));
            }
            seen |= bit;
        }
        parameters.lifetime = lifetime.map(parse_lifetime).transpose()?;
        parameters.binding = binding
            .map(|text| Binding::parse(text, parameters.queue))
            .transpose()
            .map_err(|error| Refusal::new(Code::BAD_REQUEST, error.to_string()))?;
        Ok(parameters)
    }
}

/// `lt` in seconds.
fn parse_lifetime(text: &str) -> Result<Duration, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(lifetime_s) if digits => Ok(Duration::from_secs(lifetime_s.into())),
        _ => Err(bad_lifetime()),
    }
}

/// Zero is a lifetime without end in LwM2M 1.1. In 1.0 it would end the registration the moment it begins, so it is a
/// mistake.
fn check_lifetime(lifetime: Option<Duration>, version: Version) -> Result<(), Refusal> {
    match lifetime {
        Some(Duration::ZERO) if version == Version::V1_0 => Err(bad_lifetime()),
        _ => Ok(()),
    }
}

fn bad_lifetime() -> Refusal {
    Refusal::new(
        Code::BAD_REQUEST,
        "lt has to be a number of seconds from 1 to 4294967295, or in LwM2M 1.1 0 for no end",
    )
}

fn links(request: &Request, config: &ServerConfig) -> Result<Arc<[Link]>, Refusal> {
    if request
        .content_format
        .is_some_and(|format| format != ContentFormat::Link.id())
    {
        return Err(Refusal::new(
            Code::UNSUPPORTED_CONTENT_FORMAT,
            "the list of objects has to be link format (40)",
        ));
    }
    let links = parse_links(&request.payload).map_err(|error| {
        Refusal::new(
            Code::BAD_REQUEST,
            format!("the list of objects can't be read: {error}"),
        )
    })?;
    if links.len() > config.max_links {
        let reason = format!("more than {} links", config.max_links);
        return Err(Refusal::new(Code::REQUEST_ENTITY_TOO_LARGE, reason));
    }
    Ok(links.into())
}
