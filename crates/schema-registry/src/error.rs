use axum::http::StatusCode;

/// What a client is told: an HTTP status, Confluent's error code, and a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (error code {code})")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: u32,
    pub(crate) message: String,
}

fn error(status: StatusCode, code: u32, message: impl Into<String>) -> ApiError {
    ApiError {
        status,
        code,
        message: message.into(),
    }
}

fn not_found(code: u32, message: impl Into<String>) -> ApiError {
    error(StatusCode::NOT_FOUND, code, message)
}

fn unprocessable(code: u32, message: impl Into<String>) -> ApiError {
    error(StatusCode::UNPROCESSABLE_ENTITY, code, message)
}

/// The codes of Confluent's API, section "Errors" of its reference.
impl ApiError {
    /// An error of HTTP itself, whose code is the status.
    pub(crate) fn http(status: StatusCode, message: impl Into<String>) -> Self {
        error(status, u32::from(status.as_u16()), message)
    }

    pub(crate) fn subject_not_found(subject: &str) -> Self {
        not_found(40401, format!("Subject '{subject}' not found."))
    }

    pub(crate) fn version_not_found(version: i32) -> Self {
        not_found(40402, format!("Version {version} not found."))
    }

    pub(crate) fn schema_not_found() -> Self {
        not_found(40403, "Schema not found")
    }

    pub(crate) fn id_not_found(id: i32) -> Self {
        not_found(40403, format!("Schema {id} not found"))
    }

    pub(crate) fn subject_soft_deleted(subject: &str) -> Self {
        not_found(
            40404,
            format!(
                "Subject '{subject}' was soft deleted. Set permanent=true to delete it for good"
            ),
        )
    }

    pub(crate) fn subject_not_soft_deleted(subject: &str) -> Self {
        not_found(
            40405,
            format!(
                "Subject '{subject}' was not deleted first: delete it without permanent=true before"
            ),
        )
    }

    pub(crate) fn version_soft_deleted(subject: &str, version: i32) -> Self {
        not_found(
            40406,
            format!(
                "Subject '{subject}' version {version} was soft deleted. Set permanent=true to delete it for good"
            ),
        )
    }

    pub(crate) fn version_not_soft_deleted(subject: &str, version: i32) -> Self {
        not_found(
            40407,
            format!(
                "Subject '{subject}' version {version} was not deleted first: delete it without permanent=true before"
            ),
        )
    }

    pub(crate) fn no_subject_config(subject: &str) -> Self {
        not_found(
            40408,
            format!("Subject '{subject}' does not have subject-level compatibility configured"),
        )
    }

    pub(crate) fn no_subject_mode(subject: &str) -> Self {
        not_found(
            40409,
            format!("Subject '{subject}' does not have subject-level mode configured"),
        )
    }

    pub(crate) fn incompatible(subject: &str, messages: &[String]) -> Self {
        error(
            StatusCode::CONFLICT,
            409,
            format!(
                "Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: [{}]",
                messages.join(", ")
            ),
        )
    }

    pub(crate) fn invalid_schema(details: impl std::fmt::Display) -> Self {
        unprocessable(42201, format!("Invalid schema: {details}"))
    }

    pub(crate) fn invalid_version(version: &str) -> Self {
        unprocessable(
            42202,
            format!(
                "The specified version '{version}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
            ),
        )
    }

    pub(crate) fn invalid_level(given: &str) -> Self {
        let levels = crate::record::Level::ALL.map(crate::record::Level::as_str);
        unprocessable(
            42203,
            format!(
                "Invalid compatibility level '{given}'. Valid values are {}",
                levels.join(", ")
            ),
        )
    }

    pub(crate) fn invalid_mode(given: &str) -> Self {
        let modes = crate::record::Mode::ALL.map(crate::record::Mode::as_str);
        unprocessable(
            42204,
            format!(
                "Invalid mode '{given}'. Valid values are {}",
                modes.join(", ")
            ),
        )
    }

    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        unprocessable(42205, message)
    }

    pub(crate) fn referenced(subject: &str, version: i32) -> Self {
        unprocessable(
            42206,
            format!(
                "One or more references exist to the schema of subject '{subject}' version {version}; delete those first"
            ),
        )
    }

    pub(crate) fn id_mismatch(message: impl Into<String>) -> Self {
        unprocessable(42207, message)
    }

    pub(crate) fn invalid_subject(subject: &str, why: &str) -> Self {
        unprocessable(
            42208,
            format!("The specified subject '{subject}' is not valid: {why}"),
        )
    }

    pub(crate) fn unsupported(what: &str) -> Self {
        unprocessable(422, format!("{what} is not supported by this registry"))
    }

    pub(crate) fn busy() -> Self {
        error(
            StatusCode::TOO_MANY_REQUESTS,
            42901,
            "Too many writes are waiting; try again",
        )
    }

    pub(crate) fn store(details: impl std::fmt::Display) -> Self {
        error(
            StatusCode::INTERNAL_SERVER_ERROR,
            50001,
            format!("Error in the backend datastore: {details}"),
        )
    }

    pub(crate) fn store_timeout(details: impl std::fmt::Display) -> Self {
        error(
            StatusCode::INTERNAL_SERVER_ERROR,
            50002,
            format!("Operation timed out: {details}"),
        )
    }

    pub(crate) fn loading(details: impl std::fmt::Display) -> Self {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            50301,
            format!("The registry has not read its topic yet: {details}"),
        )
    }
}
