use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::{Enum, Field, Fixed, Kind, Name, NodeId, Primitive, Record, Schema};

/// Pairs of types that one check may look at, over all versions it compares with, so that a schema made for it
/// can't hold the registry.
const MAX_STEPS: usize = 2_000_000;
/// How deep one type may lead to another; a chain of records takes two or three levels each.
const MAX_DEPTH: usize = 400;
/// Reasons that are kept; one is enough to refuse.
const MAX_REASONS: usize = 50;

/// The comparison would take more steps or more depth than is allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the schemas are too large to compare: more than {MAX_STEPS} pairs of types, or types nested deeper than {MAX_DEPTH}"
)]
pub(crate) struct TooComplex;

/// Why data written with one schema can't be read with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incompatibility {
    /// Java's word for it, which clients match on.
    pub(crate) kind: &'static str,
    /// Where in the reader's schema, as a JSON pointer.
    pub(crate) path: String,
    /// What is wrong, for people.
    pub(crate) message: String,
}

/// What a check may still cost.
#[derive(Debug)]
pub(crate) struct Budget {
    steps: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { steps: MAX_STEPS }
    }
}

/// Whether everything written with `writer` can be read with `reader` by Avro's resolution rules
/// (specification 1.11, "Schema Resolution"); the reasons why not, none if it can.
pub(crate) fn can_read(
    reader: &Schema,
    writer: &Schema,
    budget: &mut Budget,
) -> Result<Vec<Incompatibility>, TooComplex> {
    let mut checker = Checker {
        reader,
        writer,
        done: HashMap::new(),
        path: Vec::new(),
        budget,
        depth: 0,
    };
    let reasons = checker.pair(reader.root, writer.root)?;
    Ok(reasons.as_ref().clone())
}

type Reasons = Rc<Vec<Incompatibility>>;

enum Visit {
    /// Being compared further up: a recursive type; it holds if the rest does.
    Open,
    Done(Reasons),
}

struct Checker<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    done: HashMap<(NodeId, NodeId), Visit>,
    path: Vec<String>,
    budget: &'a mut Budget,
    depth: usize,
}

impl<'a> Checker<'a> {
    fn pair(&mut self, reader: NodeId, writer: NodeId) -> Result<Reasons, TooComplex> {
        self.step()?;
        match self.done.get(&(reader, writer)) {
            Some(Visit::Open) => return Ok(Rc::default()),
            Some(Visit::Done(reasons)) => return Ok(Rc::clone(reasons)),
            None => {}
        }
        if self.depth >= MAX_DEPTH {
            return Err(TooComplex);
        }
        self.done.insert((reader, writer), Visit::Open);
        self.depth += 1;
        let reasons = self.compare(reader, writer)?;
        self.depth -= 1;
        let reasons = Rc::new(reasons);
        self.done
            .insert((reader, writer), Visit::Done(Rc::clone(&reasons)));
        Ok(reasons)
    }

    fn step(&mut self) -> Result<(), TooComplex> {
        self.budget.steps = self.budget.steps.checked_sub(1).ok_or(TooComplex)?;
        Ok(())
    }

    fn below(
        &mut self,
        segment: &str,
        reader: NodeId,
        writer: NodeId,
    ) -> Result<Reasons, TooComplex> {
        self.path.push(segment.to_owned());
        let reasons = self.pair(reader, writer);
        self.path.pop();
        reasons
    }

    fn compare(
        &mut self,
        reader_id: NodeId,
        writer_id: NodeId,
    ) -> Result<Vec<Incompatibility>, TooComplex> {
        let (reader_schema, writer_schema) = (self.reader, self.writer);
        let reader = &reader_schema.node(reader_id).kind;
        let writer = &writer_schema.node(writer_id).kind;
        match (reader, writer) {
            (_, Kind::Union(branches)) => self.writer_union(reader_id, reader, branches),
            (Kind::Union(branches), _) => self.reader_union(branches, writer_id, writer),
            (Kind::Primitive(reads), Kind::Primitive(writes)) => Ok(if promotes(*writes, *reads) {
                Vec::new()
            } else {
                vec![self.type_mismatch(reader, writer)]
            }),
            (Kind::Array(reads), Kind::Array(writes)) => {
                Ok(self.below("items", *reads, *writes)?.as_ref().clone())
            }
            (Kind::Map(reads), Kind::Map(writes)) => {
                Ok(self.below("values", *reads, *writes)?.as_ref().clone())
            }
            (Kind::Fixed(reads), Kind::Fixed(writes)) => Ok(self.fixed(reader, reads, writes)),
            (Kind::Enum(reads), Kind::Enum(writes)) => Ok(self.enumeration(reader, reads, writes)),
            (Kind::Record(reads), Kind::Record(writes)) => self.record(reader, reads, writes),
            _ => Ok(vec![self.type_mismatch(reader, writer)]),
        }
    }

    /// Whatever branch was written has to be readable.
    fn writer_union(
        &mut self,
        reader_id: NodeId,
        reader: &Kind,
        branches: &[NodeId],
    ) -> Result<Vec<Incompatibility>, TooComplex> {
        let mut all = Vec::new();
        for (index, &branch) in branches.iter().enumerate() {
            let reasons = self.pair(reader_id, branch)?;
            if reasons.is_empty() {
                continue;
            }
            if matches!(reader, Kind::Union(_)) {
                let writer_schema = self.writer;
                let branch = &writer_schema.node(branch).kind;
                let message = format!(
                    "the reader's union has no branch for the writer's branch {index}, {}",
                    describe(branch)
                );
                add(
                    &mut all,
                    [self.reason("MISSING_UNION_BRANCH", Some(&index.to_string()), message)],
                );
            } else {
                add(&mut all, reasons.iter().cloned());
            }
        }
        Ok(all)
    }

    /// One branch has to read what was written.
    fn reader_union(
        &mut self,
        branches: &[NodeId],
        writer_id: NodeId,
        writer: &Kind,
    ) -> Result<Vec<Incompatibility>, TooComplex> {
        let reader_schema = self.reader;
        for (index, &branch) in branches.iter().enumerate() {
            self.step()?;
            if !could_match(&reader_schema.node(branch).kind, writer) {
                continue;
            }
            if self
                .below(&index.to_string(), branch, writer_id)?
                .is_empty()
            {
                return Ok(Vec::new());
            }
        }
        let message = format!(
            "the reader's union has no branch that reads the writer's {}",
            describe(writer)
        );
        Ok(vec![self.reason("MISSING_UNION_BRANCH", None, message)])
    }

    fn fixed(&self, reader: &Kind, reads: &Fixed, writes: &Fixed) -> Vec<Incompatibility> {
        if let Some(reason) = self.names(reader, &writes.name) {
            return vec![reason];
        }
        if reads.size == writes.size {
            return Vec::new();
        }
        let message = format!(
            "fixed '{}' has {} bytes for the reader and {} for the writer",
            reads.name.full(),
            reads.size,
            writes.size
        );
        vec![self.reason("FIXED_SIZE_MISMATCH", Some("size"), message)]
    }

    fn enumeration(&self, reader: &Kind, reads: &Enum, writes: &Enum) -> Vec<Incompatibility> {
        if let Some(reason) = self.names(reader, &writes.name) {
            return vec![reason];
        }
        // A symbol the reader does not know becomes its default.
        if reads.default.is_some() {
            return Vec::new();
        }
        let known: HashSet<&str> = reads.symbols.iter().map(String::as_str).collect();
        let unknown: Vec<&str> = writes
            .symbols
            .iter()
            .map(String::as_str)
            .filter(|symbol| !known.contains(symbol))
            .collect();
        if unknown.is_empty() {
            return Vec::new();
        }
        let message = format!(
            "enum '{}' of the reader has no default and lacks the writer's symbols: {}",
            reads.name.full(),
            unknown.join(", ")
        );
        vec![self.reason("MISSING_ENUM_SYMBOLS", Some("symbols"), message)]
    }

    fn record(
        &mut self,
        reader: &Kind,
        reads: &'a Record,
        writes: &'a Record,
    ) -> Result<Vec<Incompatibility>, TooComplex> {
        if let Some(reason) = self.names(reader, &writes.name) {
            return Ok(vec![reason]);
        }
        let written: HashMap<&str, &Field> = writes
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field))
            .collect();
        let mut all = Vec::new();
        self.path.push("fields".to_owned());
        let result = self.fields(reads, &written, &mut all);
        self.path.pop();
        result.map(|()| all)
    }

    fn fields(
        &mut self,
        reads: &Record,
        written: &HashMap<&str, &Field>,
        all: &mut Vec<Incompatibility>,
    ) -> Result<(), TooComplex> {
        for (index, field) in reads.fields.iter().enumerate() {
            self.step()?;
            let found = written.get(field.name.as_str()).or_else(|| {
                field
                    .aliases
                    .iter()
                    .find_map(|alias| written.get(alias.as_str()))
            });
            match found {
                Some(writes) => {
                    self.path.push(index.to_string());
                    let reasons = self.below("type", field.schema, writes.schema);
                    self.path.pop();
                    add(all, reasons?.iter().cloned());
                }
                None if field.default.is_some() => {}
                None => {
                    let message = format!(
                        "field '{}' of record '{}' has no default for the reader and the writer does not write it",
                        field.name,
                        reads.name.full()
                    );
                    let reason = self.reason(
                        "READER_FIELD_MISSING_DEFAULT_VALUE",
                        Some(&index.to_string()),
                        message,
                    );
                    add(all, [reason]);
                }
            }
        }
        Ok(())
    }

    /// Named types match by their unqualified names, or by an alias of the reader's that is the writer's full name.
    fn names(&self, reader: &Kind, writer: &Name) -> Option<Incompatibility> {
        if names_match(reader, writer) {
            return None;
        }
        let message = format!(
            "the reader expects {}, the writer writes '{}'",
            describe(reader),
            writer.full()
        );
        Some(self.reason("NAME_MISMATCH", Some("name"), message))
    }

    fn type_mismatch(&self, reader: &Kind, writer: &Kind) -> Incompatibility {
        let message = format!(
            "the reader expects {}, the writer writes {}",
            describe(reader),
            describe(writer)
        );
        self.reason("TYPE_MISMATCH", None, message)
    }

    fn reason(&self, kind: &'static str, last: Option<&str>, message: String) -> Incompatibility {
        let mut path = String::new();
        for segment in self.path.iter().map(String::as_str).chain(last) {
            path.push('/');
            path.push_str(segment);
        }
        if path.is_empty() {
            path.push('/');
        }
        Incompatibility {
            kind,
            path,
            message,
        }
    }
}

fn add(all: &mut Vec<Incompatibility>, more: impl IntoIterator<Item = Incompatibility>) {
    let room = MAX_REASONS.saturating_sub(all.len());
    all.extend(more.into_iter().take(room));
}

fn names_match(reader: &Kind, writer: &Name) -> bool {
    reader
        .name()
        .is_some_and(|name| name.simple == writer.simple)
        || reader.aliases().contains(writer)
}

/// A cheap look before the whole comparison: the type's word and, for named types, the name.
fn could_match(reader: &Kind, writer: &Kind) -> bool {
    match (reader, writer) {
        (Kind::Primitive(reads), Kind::Primitive(writes)) => promotes(*writes, *reads),
        (Kind::Array(_), Kind::Array(_)) | (Kind::Map(_), Kind::Map(_)) => true,
        (Kind::Record(_), Kind::Record(_))
        | (Kind::Enum(_), Kind::Enum(_))
        | (Kind::Fixed(_), Kind::Fixed(_)) => {
            writer.name().is_some_and(|name| names_match(reader, name))
        }
        _ => false,
    }
}

fn promotes(writer: Primitive, reader: Primitive) -> bool {
    use Primitive::{Bytes, Double, Float, Int, Long, String};
    writer == reader
        || matches!(
            (writer, reader),
            (Int, Long | Float | Double)
                | (Long, Float | Double)
                | (Float, Double)
                | (String, Bytes)
                | (Bytes, String)
        )
}

fn describe(kind: &Kind) -> String {
    match kind.name() {
        Some(name) => format!("{} '{}'", kind.type_name(), name.full()),
        None => kind.type_name().to_owned(),
    }
}
