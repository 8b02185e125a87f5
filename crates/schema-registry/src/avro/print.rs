use std::collections::HashSet;

use super::{Field, Kind, Name, NodeId, Order, Schema};
use crate::json::{Json, write_string};

impl Schema {
    /// The text by which two schemas are the same one: compact, attributes in the order of Java's `Schema.toString`,
    /// properties in the order written. Types of referenced schemas stay names.
    pub(crate) fn canonical(&self) -> String {
        Printer::new(self, false).print()
    }

    /// The same with properties sorted by name, for `normalize=true`.
    pub(crate) fn normalized(&self) -> String {
        Printer::new(self, true).print()
    }
}

struct Printer<'a> {
    schema: &'a Schema,
    sort: bool,
    /// Named types that were written already, so that a name says enough.
    written: HashSet<NodeId>,
    namespace: Option<String>,
    out: String,
}

impl<'a> Printer<'a> {
    fn new(schema: &'a Schema, sort: bool) -> Self {
        Self {
            schema,
            sort,
            written: (0..schema.own_from).map(NodeId).collect(),
            namespace: None,
            out: String::new(),
        }
    }

    fn print(mut self) -> String {
        self.node(self.schema.root);
        self.out
    }

    // The recursion is as deep as the text that was parsed: each named type is written once, where it was defined.
    fn node(&mut self, id: NodeId) {
        let node = self.schema.node(id);
        if let Some(name) = node.kind.name()
            && !self.written.insert(id)
        {
            let reference = name.relative_to(self.namespace.as_deref());
            write_string(&reference, &mut self.out);
            return;
        }
        match &node.kind {
            Kind::Union(branches) => {
                self.out.push('[');
                for (index, branch) in branches.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.node(*branch);
                }
                self.out.push(']');
            }
            Kind::Primitive(primitive) if node.props.is_empty() => {
                write_string(primitive.as_str(), &mut self.out);
            }
            kind => self.complex(kind, &node.props),
        }
    }

    fn complex(&mut self, kind: &Kind, props: &[(String, Json)]) {
        self.out.push_str("{\"type\":");
        write_string(kind.type_name(), &mut self.out);
        let outer = self.namespace.clone();
        if let Some(name) = kind.name() {
            self.name(name);
        }
        match kind {
            Kind::Primitive(_) | Kind::Union(_) => {}
            Kind::Array(items) => {
                self.out.push_str(",\"items\":");
                self.node(*items);
            }
            Kind::Map(values) => {
                self.out.push_str(",\"values\":");
                self.node(*values);
            }
            Kind::Record(record) => {
                self.namespace = record.name.namespace.clone();
                self.optional("doc", record.doc.as_deref());
                self.out.push_str(",\"fields\":[");
                for (index, field) in record.fields.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.field(field);
                }
                self.out.push(']');
            }
            Kind::Enum(found) => {
                self.optional("doc", found.doc.as_deref());
                self.out.push_str(",\"symbols\":");
                self.strings(found.symbols.iter().map(String::as_str));
                self.optional("default", found.default.as_deref());
            }
            Kind::Fixed(fixed) => {
                self.optional("doc", fixed.doc.as_deref());
                self.out.push_str(&format!(",\"size\":{}", fixed.size));
            }
        }
        self.props(props);
        if !kind.aliases().is_empty() {
            self.out.push_str(",\"aliases\":");
            let own = kind.name().and_then(|name| name.namespace.as_deref());
            let aliases: Vec<String> = kind
                .aliases()
                .iter()
                .map(|alias| alias.relative_to(own))
                .collect();
            self.strings(aliases.iter().map(String::as_str));
        }
        self.out.push('}');
        self.namespace = outer;
    }

    fn name(&mut self, name: &Name) {
        self.out.push_str(",\"name\":");
        write_string(&name.simple, &mut self.out);
        if name.namespace != self.namespace {
            self.out.push_str(",\"namespace\":");
            write_string(name.namespace.as_deref().unwrap_or(""), &mut self.out);
        }
    }

    fn field(&mut self, field: &Field) {
        self.out.push_str("{\"name\":");
        write_string(&field.name, &mut self.out);
        self.out.push_str(",\"type\":");
        self.node(field.schema);
        self.optional("doc", field.doc.as_deref());
        if let Some(default) = &field.default {
            self.out.push_str(",\"default\":");
            default.write(&mut self.out);
        }
        match field.order {
            Order::Ascending => {}
            Order::Descending => self.optional("order", Some("descending")),
            Order::Ignore => self.optional("order", Some("ignore")),
        }
        if !field.aliases.is_empty() {
            self.out.push_str(",\"aliases\":");
            self.strings(field.aliases.iter().map(String::as_str));
        }
        self.props(&field.props);
        self.out.push('}');
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.out.push(',');
            write_string(key, &mut self.out);
            self.out.push(':');
            write_string(value, &mut self.out);
        }
    }

    fn strings<'s>(&mut self, values: impl Iterator<Item = &'s str>) {
        self.out.push('[');
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.out.push(',');
            }
            write_string(value, &mut self.out);
        }
        self.out.push(']');
    }

    fn props(&mut self, props: &[(String, Json)]) {
        let mut props: Vec<&(String, Json)> = props.iter().collect();
        if self.sort {
            props.sort_by(|left, right| left.0.cmp(&right.0));
        }
        for (name, value) in props {
            self.out.push(',');
            write_string(name, &mut self.out);
            self.out.push(':');
            if self.sort {
                value.sorted().write(&mut self.out);
            } else {
                value.write(&mut self.out);
            }
        }
    }
}
