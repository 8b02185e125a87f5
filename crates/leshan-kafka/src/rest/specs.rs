//! The object models as JSON.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Json;
use lwm2m::Registration;
use lwm2m_model::{ObjectModel, Registry, ResourceModel, ValueType};
use serde_json::{Value, json};

use super::{Refused, Web};

/// GET `/api/objectspecs`: every model known, each version of it.
pub(super) async fn all(State(web): State<Arc<Web>>) -> Json<Vec<Value>> {
    Json(web.engine.models().objects().map(spec).collect())
}

/// GET `/api/objectspecs/<ep>`: the models of a device's objects, in its versions.
pub(super) async fn of_device(
    State(web): State<Arc<Web>>,
    Path(endpoint): Path<String>,
) -> Result<Json<Vec<Value>>, Refused> {
    let Some(registration) = web.engine.registration(&endpoint).await else {
        return Err(Refused::not_registered(&endpoint));
    };
    let models = of(web.engine.models(), &registration);
    let objects = registration.available_instances();
    let specs = objects.keys().filter_map(|id| models.object(*id)).map(spec);
    Ok(Json(specs.collect()))
}

/// The models as a device means them.
pub(super) fn of(models: &Registry, registration: &Registration) -> Registry {
    let objects = registration.available_instances();
    let versions = objects
        .keys()
        .filter_map(|id| Some((*id, registration.object_version(*id)?)));
    models.for_device(versions)
}

fn spec(model: &ObjectModel) -> Value {
    json!({
        "id": model.id,
        "name": model.name,
        "instancetype": instances(model.multiple),
        "mandatory": model.mandatory,
        "urn": model.urn(),
        "version": model.version,
        "lwm2mversion": model.lwm2m_version,
        "description": model.description.as_deref().unwrap_or_default(),
        // Leshan has DDF's Description2 here; the models keep one text.
        "description2": "",
        "resourcedefs": model.resources.values().map(resource).collect::<Value>(),
    })
}

fn resource(model: &ResourceModel) -> Value {
    json!({
        "id": model.id,
        "name": model.name,
        "operations": model.operations.to_string(),
        "instancetype": instances(model.multiple),
        "mandatory": model.mandatory,
        "type": type_name(model.value_type),
        "range": model.range,
        "units": model.units,
        "description": model.description.as_deref().unwrap_or_default(),
    })
}

fn instances(multiple: bool) -> &'static str {
    if multiple { "multiple" } else { "single" }
}

/// The name of a type in a model: Leshan's enum in lower case.
fn type_name(kind: Option<ValueType>) -> &'static str {
    match kind {
        Some(ValueType::String) => "string",
        Some(ValueType::Integer) => "integer",
        Some(ValueType::Unsigned) => "unsigned_integer",
        Some(ValueType::Float) => "float",
        Some(ValueType::Boolean) => "boolean",
        Some(ValueType::Opaque) => "opaque",
        Some(ValueType::Time) => "time",
        Some(ValueType::ObjectLink) => "objlnk",
        Some(ValueType::CoreLink) => "corelink",
        None => "none",
    }
}
