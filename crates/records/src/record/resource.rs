use std::collections::BTreeMap;

use crate::wire::{avro_enum, avro_record, avro_union};

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
