use crate::record::{
    AvroInstanceResource, AvroMultipleResource, ReadContent, RequestKind, ResourceValue,
    ResponseBody, ResponsePayload,
};

/// One value of a reply or notification, as a time series takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The resource's own path; for a single value or a message the record's.
    pub path: String,
    pub kind: RequestKind,
    pub value: ReadingValue,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReadingValue {
    /// Integers beyond 2^53 lose their last digits.
    Number(f64),
    Text(String),
    Boolean(bool),
}

/// The readings in a reply or notification, `path` being the record's: one for each resource and resource instance, one
/// for a generic response's message, none for the rest.
pub fn flatten(payload: &ResponsePayload, path: &str) -> Vec<Reading> {
    let mut readings = Vec::new();
    let mut add = |path: &str, value: &ResourceValue| {
        let value = match value {
            ResourceValue::String(text) => ReadingValue::Text(text.clone()),
            ResourceValue::Double(v) => ReadingValue::Number(*v),
            ResourceValue::Long(v) => ReadingValue::Number(*v as f64),
            ResourceValue::Boolean(v) => ReadingValue::Boolean(*v),
        };
        readings.push(Reading {
            path: path.to_owned(),
            kind: payload.kind,
            value,
        });
    };
    fn instance(instance: &AvroInstanceResource, add: &mut impl FnMut(&str, &ResourceValue)) {
        instance
            .resources
            .iter()
            .for_each(|r| add(&r.path, &r.value));
        instance
            .multiple_resources
            .iter()
            .flatten()
            .for_each(|m| multiple(m, add));
    }
    fn multiple(multiple: &AvroMultipleResource, add: &mut impl FnMut(&str, &ResourceValue)) {
        multiple
            .resources
            .values()
            .for_each(|r| add(&r.path, &r.value));
    }
    match &payload.body {
        Some(ResponseBody::Read(ReadContent::Resource(resource))) => add(path, &resource.value),
        Some(ResponseBody::Read(ReadContent::Multiple(content))) => multiple(content, &mut add),
        Some(ResponseBody::Read(ReadContent::Instance(content))) => instance(content, &mut add),
        Some(ResponseBody::Read(ReadContent::Object(object))) => {
            object.instances.iter().for_each(|i| instance(i, &mut add));
        }
        Some(ResponseBody::Generic(message)) => add(path, &ResourceValue::String(message.clone())),
        Some(ResponseBody::Discover(_) | ResponseBody::Create(_)) | None => {}
    }
    readings
}
