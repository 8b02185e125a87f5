//! Why there is no answer of a device, and what holds for every answer.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lwm2m::{RequestError, RequestFailure};
use service::auth::Gate;

use crate::engine::AskError;

/// A reason as text, as Leshan gives it.
pub(super) struct Refused {
    status: StatusCode,
    reason: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { status, reason }
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Leshan's words for a request that makes no sense.
    pub(super) fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("Invalid request: {reason}"),
        )
    }

    /// Leshan's words for an endpoint that is not registered.
    pub(super) fn not_registered(endpoint: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            format!("No registered client with id '{endpoint}'"),
        )
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, self.reason).into_response()
    }
}

impl From<AskError> for Refused {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(error) => error.into(),
            AskError::Failed(failure) => failure.into(),
            AskError::Stopping => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

/// A request that was not taken.
impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotRegistered(endpoint) => Self::not_registered(&endpoint),
            RequestError::TooManyPending { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            RequestError::TooManyObservations { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            RequestError::Invalid { .. } | RequestError::Encode(_) => Self::invalid(error),
        }
    }
}

/// A request that came to nothing, in Leshan's statuses and first words.
impl From<RequestFailure> for Refused {
    fn from(failure: RequestFailure) -> Self {
        let (status, word) = match &failure {
            RequestFailure::Timeout => {
                return Self::new(StatusCode::GATEWAY_TIMEOUT, "Request timeout");
            }
            RequestFailure::NotSent(_) | RequestFailure::Expired => {
                (StatusCode::GATEWAY_TIMEOUT, "Request timeout")
            }
            RequestFailure::Reset => (StatusCode::INTERNAL_SERVER_ERROR, "Request rejected"),
            RequestFailure::Gone { .. } | RequestFailure::Cancelled { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "Request cancelled")
            }
            RequestFailure::InvalidResponse(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "Invalid Response")
            }
        };
        Self::new(status, format!("{word}: {failure}"))
    }
}

/// What holds for every answer; and no page of another site may change anything: a browser says where a request comes
/// from, and where there is no authentication anybody's page could otherwise reboot the devices of whoever looks at it.
pub(super) async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let mut response = match of_another_site(&request, gate.is_open()) {
        None => next.run(request).await,
        Some(reason) => Refused::new(StatusCode::FORBIDDEN, reason).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Values change; a cached one would be a wrong one.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Why a request that a page of another site can have made is refused.
fn of_another_site(request: &Request, open: bool) -> Option<&'static str> {
    if open && !at_own_name(request) {
        return Some(
            "without logins this answers only under an IP address, localhost, or a name without a dot: any other name \
             can be somebody's who lets it lead here. Use the address, or give the server --users-file or --tokens-file",
        );
    }
    // Links lead to the page. Anything else asks devices, or takes the place of somebody who watches.
    let cross_site = request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if open && cross_site && request.uri().path() != "/" {
        return Some("pages of another site can't use this interface");
    }
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    (!reads && !same_origin(request.headers()))
        .then_some("pages of another origin can't change anything here")
}

/// Whether a request is for a name that nobody can make lead here from outside. A page's own name can, once the page is
/// loaded (DNS rebinding): to the browser this server then is that page's, and no header tells.
fn at_own_name(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST);
    let said = hosts.iter().map(|host| host.to_str().unwrap_or_default());
    // HTTP/2 has it as `:authority`, and a request to a proxy in its first line.
    let mut names = said
        .chain(request.uri().authority().map(|at| at.as_str()))
        .peekable();
    names.peek().is_some() && names.all(is_own_name)
}

/// An address, or one label: `localhost`, a container, a service. Public names have a dot.
fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let in_brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    match in_brackets {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => {
            let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.parse::<Ipv4Addr>().is_ok() || (!name.is_empty() && name.bytes().all(label))
        }
    }
}

/// Whether a request comes from the server's own page, or from no page at all.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_addresses_and_single_labels() {
        for host in [
            "127.0.0.1:8080",
            "192.0.2.7",
            "[::1]:8080",
            "[2001:db8::7]",
            "localhost",
            "LOCALHOST:8080",
            "gateway-1:8080",
            "zeelos_leshan",
        ] {
            assert!(is_own_name(host), "{host}");
        }
        for host in [
            "",
            ":8080",
            "attacker.example",
            "attacker.example:8080",
            "127.0.0.1.attacker.example",
            "localhost.",
            "[::1",
            "[attacker.example]",
            "1.2.3",
            "a b",
            "caf\u{e9}",
        ] {
            assert!(!is_own_name(host), "{host}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let request = |uri: &str, hosts: &[&str]| {
            let request = hosts.iter().fold(Request::get(uri), |request, host| {
                request.header(header::HOST, *host)
            });
            at_own_name(&request.body(axum::body::Body::empty()).unwrap())
        };
        assert!(request("/", &["localhost"]));
        assert!(request("http://localhost/", &[]));
        assert!(!request("/", &[]));
        assert!(!request("/", &["localhost", "attacker.example"]));
        assert!(!request("http://attacker.example/", &["localhost"]));
    }
}
