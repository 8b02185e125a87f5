use std::collections::BTreeMap;

use lwm2m_model::{ObjectPath, Value};

use crate::convert::value_from_model;
use crate::wire::{Datum as _, avro_enum, avro_record, avro_union, put_bytes, put_long, put_text};

avro_enum! {
    /// `AvroResourceKind`
    pub enum ResourceKind {
        Object = "OBJECT",
        Instance = "INSTANCE",
        MultipleResource = "MULTIPLE_RESOURCE",
        SingleResource = "SINGLE_RESOURCE",
    }
}

avro_enum! {
    /// `AvroType`: the data types of LwM2M 1.0.
    pub enum ResourceType {
        String = "STRING",
        Float = "FLOAT",
        Integer = "INTEGER",
        Boolean = "BOOLEAN",
        /// Base64 text in the `string` branch.
        Opaque = "OPAQUE",
        /// Unix milliseconds in the `long` branch.
        Time = "TIME",
        /// `object:instance` in the `string` branch.
        ObjectLink = "OBJLNK",
    }
}

avro_union! {
    /// The union `[string, double, long, boolean]` a resource's value stands in.
    pub enum ResourceValue {
        String(String) = 0,
        Double(f64) = 1,
        Long(i64) = 2,
        Boolean(bool) = 3,
    }
}

avro_record! {
    /// `AvroResource`: one value.
    pub struct AvroResource {
        pub id: i32,
        /// The resource's own path.
        pub path: String,
        pub kind: ResourceKind,
        pub r#type: ResourceType,
        pub value: ResourceValue,
    }
}

impl AvroResource {
    /// Writes the datum of a single resource, the same as that of the record, without making one.
    pub(super) fn write_single(id: u16, path: &ObjectPath, value: &Value, out: &mut Vec<u8>) {
        i32::from(id).write(out);
        put_text(out, path);
        ResourceKind::SingleResource.write(out);
        match value {
            Value::Float(number) => {
                ResourceType::Float.write(out);
                put_long(out, ResourceValue::DOUBLE);
                number.write(out);
            }
            Value::String(text) | Value::CoreLink(text) => {
                ResourceType::String.write(out);
                put_long(out, ResourceValue::STRING);
                put_bytes(out, text.as_bytes());
            }
            // What remains of these is a number, or a text that has to be made.
            value => {
                let (kind, value) = value_from_model(value);
                kind.write(out);
                value.write(out);
            }
        }
    }
}

impl ResourceValue {
    const STRING: i64 = 0;
    const DOUBLE: i64 = 1;
}

avro_record! {
    /// `AvroMultipleResource`: the instances of a resource.
    pub struct AvroMultipleResource {
        pub id: i32,
        /// The resource's own path.
        pub path: String,
        pub kind: ResourceKind,
        pub r#type: ResourceType,
        /// By the resource instance's id in decimal.
        pub resources: BTreeMap<String, AvroResource>,
    }
}

avro_record! {
    /// `AvroInstanceResource`: an object instance.
    pub struct AvroInstanceResource {
        pub id: i32,
        pub kind: ResourceKind,
        pub resources: Vec<AvroResource>,
        pub multiple_resources: Option<Vec<AvroMultipleResource>>,
    }
}

avro_record! {
    /// `AvroObjectResource`: an object with its instances.
    pub struct AvroObjectResource {
        pub id: i32,
        pub kind: ResourceKind,
        pub instances: Vec<AvroInstanceResource>,
    }
}
