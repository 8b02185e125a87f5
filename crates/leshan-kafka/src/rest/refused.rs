//! Why there is no answer of a device.

use axum::http::StatusCode;
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
