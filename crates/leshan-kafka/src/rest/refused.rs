//! Why there is no answer of a device, and what holds for every answer.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lwm2m::{RequestError, RequestFailure};

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
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let mut response = if reads || same_origin(request.headers()) {
        next.run(request).await
    } else {
        Refused::new(
            StatusCode::FORBIDDEN,
            "pages of another origin can't change anything here",
        )
        .into_response()
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
