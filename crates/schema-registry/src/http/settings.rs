//! `/config` and `/mode`, global and by subject.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Answer, Answered, Api, Body, Parameters, Shared, Target};
use crate::error::ApiError;
use crate::record::{ConfigValue, Level, Mode};

pub(super) fn routes() -> Router<Arc<Api>> {
    let config = || get(config).put(set_config).delete(delete_config);
    let mode = || get(mode).put(set_mode).delete(delete_mode);
    Router::new()
        .route("/config", config())
        .route("/config/{subject}", config())
        .route("/mode", mode())
        .route("/mode/{subject}", mode())
}

#[derive(Deserialize)]
struct ConfigRequest {
    compatibility: Option<String>,
    normalize: Option<bool>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
struct ModeRequest {
    mode: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    normalize: Option<bool>,
    compatibility_level: Level,
}

fn config_answer(config: Option<&ConfigValue>, level: Level) -> Value {
    json!(ConfigAnswer {
        normalize: config.and_then(|config| config.normalize),
        compatibility_level: level,
    })
}

async fn config(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    api.operations.view(|state| {
        let subject = target.subject.as_deref();
        let own = state.config(subject);
        if let Some(subject) = subject
            && own.and_then(|config| config.compatibility_level).is_none()
            && !parameters.flag("defaultToGlobal")
        {
            return Err(ApiError::no_subject_config(subject));
        }
        Ok(Answer(config_answer(own, state.level(subject))))
    })
}

async fn set_config(
    State(api): Shared,
    target: Target,
    Body(request): Body<ConfigRequest>,
) -> Answered {
    if let Some((name, _)) = request.others.iter().find(|(_, value)| !value.is_null()) {
        return Err(ApiError::unsupported(&format!("The setting '{name}'")));
    }
    let level = match request.compatibility.as_deref() {
        None if request.normalize.is_some() => None,
        None => return Err(ApiError::invalid_level("null")),
        Some(given) => Some(
            Level::ALL
                .into_iter()
                .find(|level| level.as_str().eq_ignore_ascii_case(given))
                .ok_or_else(|| ApiError::invalid_level(given))?,
        ),
    };
    api.operations
        .set_config(target.subject, level, request.normalize)
        .await?;
    let mut answer = json!({});
    if let Some(level) = level {
        answer["compatibility"] = json!(level);
    }
    if let Some(normalize) = request.normalize {
        answer["normalize"] = json!(normalize);
    }
    Ok(Answer(answer))
}

async fn delete_config(State(api): Shared, target: Target) -> Answered {
    let before = api.operations.delete_config(target.subject).await?;
    let level = before.compatibility_level.unwrap_or(Level::Backward);
    Ok(Answer(config_answer(Some(&before), level)))
}

async fn mode(State(api): Shared, target: Target, parameters: Parameters) -> Answered {
    api.operations.view(|state| {
        let subject = target.subject.as_deref();
        if let Some(subject) = subject
            && state.mode(Some(subject)).is_none()
            && !parameters.flag("defaultToGlobal")
        {
            return Err(ApiError::no_subject_mode(subject));
        }
        let mode = match state.mode(subject) {
            Some(own) => own,
            None => state.mode_in_force(subject),
        };
        Ok(Answer(json!({ "mode": mode })))
    })
}

async fn set_mode(
    State(api): Shared,
    target: Target,
    parameters: Parameters,
    Body(request): Body<ModeRequest>,
) -> Answered {
    let given = request.mode.as_deref().unwrap_or("null");
    let mode = Mode::ALL
        .into_iter()
        .find(|mode| mode.as_str().eq_ignore_ascii_case(given))
        .ok_or_else(|| ApiError::invalid_mode(given))?;
    api.operations
        .set_mode(target.subject, mode, parameters.flag("force"))
        .await?;
    Ok(Answer(json!({ "mode": mode })))
}

async fn delete_mode(State(api): Shared, target: Target) -> Answered {
    let before = api.operations.delete_mode(target.subject).await?;
    Ok(Answer(json!({ "mode": before })))
}
