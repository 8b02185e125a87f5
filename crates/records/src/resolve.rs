//! Avro's schema resolution as a rewriting of bytes: what a writer's schema wrote becomes what our own schema would
//! have written, so that there is one decoder for each record and not a second one for evolved schemas.

use std::collections::{HashMap, HashSet};

use crate::graph::{Field, Graph, Type, TypeId, same_bytes, simple};
use crate::json;
use crate::schema::Schema;
use crate::wire::{Cursor, DecodeError, MAX_DEPTH, put_bytes, put_len, put_long};

type StepId = usize;

/// How the data of one schema become those of another.
pub(crate) struct Plan {
    writer: Schema,
    steps: Vec<Step>,
    root: StepId,
}

enum Step {
    /// Not worked out yet, or a branch that can't be: the reason is shown when a datum takes it.
    Fail(String),
    /// The bytes are the reader's already.
    Copy(TypeId),
    IntegerToFloat,
    IntegerToDouble,
    FloatToDouble,
    Array(StepId),
    Map(StepId),
    /// The writer's type is a union: by its branch.
    FromUnion(Vec<StepId>),
    /// The reader's type is a union: this branch of it.
    IntoUnion(i64, StepId),
    /// The reader's position of each of the writer's symbols.
    Enum(Vec<Option<i64>>),
    /// What the writer's fields become, in the writer's order, then where the reader's fields come from.
    Record {
        reads: Vec<Read>,
        layout: Vec<Source>,
        in_order: bool,
    },
}

enum Read {
    Skip(TypeId),
    Keep(StepId),
}

enum Source {
    /// The writer's field at this position.
    Writer(usize),
    /// The reader's default, encoded.
    Default(Vec<u8>),
}

impl Plan {
    /// `None` where the writer's data are the reader's as they stand.
    pub(crate) fn new(writer: &Schema, reader: &Schema) -> Result<Option<Self>, String> {
        let (w, r) = (writer.graph(), reader.graph());
        if same_bytes((w, w.root()), (r, r.root()), &mut HashSet::new(), 0) {
            return Ok(None);
        }
        let mut planner = Planner {
            writer: w,
            reader: r,
            steps: Vec::new(),
            known: HashMap::new(),
        };
        let root = planner.resolve(w.root(), r.root(), 0)?;
        let steps = planner.steps;
        Ok(Some(Self {
            writer: writer.clone(),
            steps,
            root,
        }))
    }

    pub(crate) fn rewrite(&self, datum: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut cursor = Cursor::new(datum);
        let mut out = Vec::with_capacity(datum.len() + 16);
        self.run(self.root, &mut cursor, &mut out, 0)?;
        cursor.finish()?;
        Ok(out)
    }

    fn run(
        &self,
        step: StepId,
        from: &mut Cursor<'_>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        from.spend()?;
        match &self.steps[step] {
            Step::Fail(reason) => return Err(DecodeError::Unresolvable(reason.clone())),
            Step::Copy(ty) => {
                let start = from.at();
                self.writer.graph().skip(*ty, from, depth)?;
                out.extend_from_slice(from.since(start));
            }
            Step::IntegerToFloat => out.extend_from_slice(&(from.long()? as f32).to_le_bytes()),
            Step::IntegerToDouble => out.extend_from_slice(&(from.long()? as f64).to_le_bytes()),
            Step::FloatToDouble => out.extend_from_slice(&f64::from(from.float()?).to_le_bytes()),
            Step::Array(items) => loop {
                let count = from.block()?;
                if count == 0 {
                    out.push(0);
                    break;
                }
                put_count(out, count)?;
                for _ in 0..count {
                    self.run(*items, from, out, depth + 1)?;
                }
            },
            Step::Map(values) => loop {
                let count = from.block()?;
                if count == 0 {
                    out.push(0);
                    break;
                }
                put_count(out, count)?;
                for _ in 0..count {
                    put_bytes(out, from.bytes()?);
                    self.run(*values, from, out, depth + 1)?;
                }
            },
            Step::FromUnion(branches) => {
                let branch = from.branch(branches.len())?;
                self.run(branches[branch], from, out, depth + 1)?;
            }
            Step::IntoUnion(branch, step) => {
                put_long(out, *branch);
                self.run(*step, from, out, depth + 1)?;
            }
            Step::Enum(symbols) => {
                let symbol = from.symbol(symbols.len())?;
                let to = symbols[symbol].ok_or_else(|| {
                    DecodeError::Unresolvable(format!("symbol {symbol} of an enum is unknown here"))
                })?;
                put_long(out, to);
            }
            Step::Record {
                reads,
                layout,
                in_order,
            } => self.run_record(reads, layout, *in_order, from, out, depth)?,
        }
        Ok(())
    }

    fn run_record(
        &self,
        reads: &[Read],
        layout: &[Source],
        in_order: bool,
        from: &mut Cursor<'_>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if in_order {
            let mut layout = layout.iter().peekable();
            for read in reads {
                match read {
                    Read::Skip(ty) => self.writer.graph().skip(*ty, from, depth + 1)?,
                    Read::Keep(step) => {
                        while let Some(Source::Default(bytes)) =
                            layout.next_if(|s| matches!(s, Source::Default(_)))
                        {
                            out.extend_from_slice(bytes);
                        }
                        layout.next();
                        self.run(*step, from, out, depth + 1)?;
                    }
                }
            }
            for source in layout {
                if let Source::Default(bytes) = source {
                    out.extend_from_slice(bytes);
                }
            }
            return Ok(());
        }
        let mut fields = Vec::new();
        let mut ranges = Vec::with_capacity(reads.len());
        for read in reads {
            let start = fields.len();
            match read {
                Read::Skip(ty) => self.writer.graph().skip(*ty, from, depth + 1)?,
                Read::Keep(step) => self.run(*step, from, &mut fields, depth + 1)?,
            }
            ranges.push(start..fields.len());
        }
        for source in layout {
            match source {
                Source::Writer(field) => out.extend_from_slice(&fields[ranges[*field].clone()]),
                Source::Default(bytes) => out.extend_from_slice(bytes),
            }
        }
        Ok(())
    }
}

fn put_count(out: &mut Vec<u8>, count: u64) -> Result<(), DecodeError> {
    put_len(
        out,
        usize::try_from(count)
            .ok()
            .filter(|c| i64::try_from(*c).is_ok())
            .ok_or(DecodeError::TooManyItems)?,
    );
    Ok(())
}

struct Planner<'s> {
    writer: &'s Graph,
    reader: &'s Graph,
    steps: Vec<Step>,
    known: HashMap<(TypeId, TypeId), Result<StepId, String>>,
}

impl Planner<'_> {
    fn resolve(&mut self, w: TypeId, r: TypeId, depth: usize) -> Result<StepId, String> {
        if depth > MAX_DEPTH {
            return Err(format!("the schemas nest deeper than {MAX_DEPTH} levels"));
        }
        if let Some(known) = self.known.get(&(w, r)) {
            return known.clone();
        }
        // The place is taken first: a recursive type finds it while it is worked out.
        self.steps
            .push(Step::Fail("a type contains itself without end".to_owned()));
        let id = self.steps.len() - 1;
        self.known.insert((w, r), Ok(id));
        match self.step(w, r, depth) {
            Ok(step) => {
                self.steps[id] = step;
                Ok(id)
            }
            Err(reason) => {
                self.steps[id] = Step::Fail(reason.clone());
                self.known.insert((w, r), Err(reason.clone()));
                Err(reason)
            }
        }
    }

    fn step(&mut self, w: TypeId, r: TypeId, depth: usize) -> Result<Step, String> {
        let (writer, reader) = (self.writer, self.reader);
        if same_bytes((writer, w), (reader, r), &mut HashSet::new(), depth) {
            return Ok(Step::Copy(w));
        }
        Ok(match (writer.get(w), reader.get(r)) {
            (Type::Union(branches), _) => {
                let steps: Vec<_> = branches
                    .iter()
                    .map(|b| self.resolve(*b, r, depth + 1))
                    .collect();
                if let Some(Err(reason)) = steps.iter().find(|s| s.is_err())
                    && steps.iter().all(Result::is_err)
                {
                    return Err(reason.clone());
                }
                let steps = steps
                    .into_iter()
                    .map(|s| s.unwrap_or_else(|reason| self.fail(reason)))
                    .collect();
                Step::FromUnion(steps)
            }
            (_, Type::Union(branches)) => {
                let fits: [Fits; 3] = [same_name, same_simple_name, promotes];
                let branch = fits
                    .iter()
                    .find_map(|fits| branches.iter().position(|b| fits(writer, w, reader, *b)))
                    .ok_or_else(|| {
                        format!("`{}` is in no branch of the reader's union", writer.tag(w))
                    })?;
                Step::IntoUnion(branch as i64, self.resolve(w, branches[branch], depth + 1)?)
            }
            // The bytes of an int are a long's, those of a string are bytes': the typed decoder checks them.
            (Type::Int, Type::Long) | (Type::String, Type::Bytes) | (Type::Bytes, Type::String) => {
                Step::Copy(w)
            }
            (Type::Int | Type::Long, Type::Float) => Step::IntegerToFloat,
            (Type::Int | Type::Long, Type::Double) => Step::IntegerToDouble,
            (Type::Float, Type::Double) => Step::FloatToDouble,
            (Type::Array(w), Type::Array(r)) => Step::Array(self.resolve(*w, *r, depth + 1)?),
            (Type::Map(w), Type::Map(r)) => Step::Map(self.resolve(*w, *r, depth + 1)?),
            (
                Type::Enum { name, symbols, .. },
                Type::Enum {
                    name: as_name,
                    symbols: known,
                    default,
                },
            ) if simple(name) == simple(as_name) => {
                let position = |symbol: &String| known.iter().position(|k| k == symbol);
                let default = default.as_ref().and_then(position);
                Step::Enum(
                    symbols
                        .iter()
                        .map(|s| position(s).or(default).map(|p| p as i64))
                        .collect(),
                )
            }
            (Type::Record { fields: from, .. }, Type::Record { fields: to, .. })
                if same_simple_name(writer, w, reader, r) =>
            {
                self.record(writer.tag(w), from, to, depth)?
            }
            _ => {
                return Err(format!(
                    "`{}` can't become `{}`",
                    writer.tag(w),
                    reader.tag(r)
                ));
            }
        })
    }

    fn record(
        &mut self,
        name: &str,
        from: &[Field],
        to: &[Field],
        depth: usize,
    ) -> Result<Step, String> {
        let mut reads: Vec<_> = from.iter().map(|f| Read::Skip(f.schema)).collect();
        let mut layout = Vec::with_capacity(to.len());
        for field in to {
            let named = |f: &Field| f.name == field.name;
            let aliased = |f: &Field| field.aliases.contains(&f.name);
            let written = from
                .iter()
                .position(named)
                .or_else(|| from.iter().position(aliased));
            layout.push(match (written, &field.default) {
                (Some(at), _) => {
                    let step = self
                        .resolve(from[at].schema, field.schema, depth + 1)
                        .map_err(|reason| {
                            format!("field `{}` of `{name}`: {reason}", field.name)
                        })?;
                    reads[at] = Read::Keep(step);
                    Source::Writer(at)
                }
                (None, Some(default)) => Source::Default(
                    json::encode_default(self.reader, field.schema, default).map_err(|e| {
                        format!("the default of field `{}` of `{name}`: {e}", field.name)
                    })?,
                ),
                (None, None) => {
                    return Err(format!(
                        "field `{}` of `{name}` is missing and has no default",
                        field.name
                    ));
                }
            });
        }
        let order: Vec<_> = layout
            .iter()
            .filter_map(|s| {
                if let Source::Writer(at) = s {
                    Some(*at)
                } else {
                    None
                }
            })
            .collect();
        let in_order = order.is_sorted_by(|a, b| a < b);
        Ok(Step::Record {
            reads,
            layout,
            in_order,
        })
    }

    fn fail(&mut self, reason: String) -> StepId {
        self.steps.push(Step::Fail(reason));
        self.steps.len() - 1
    }
}

/// Whether the writer's type belongs with the reader's.
type Fits = fn(&Graph, TypeId, &Graph, TypeId) -> bool;

/// The same type by its full name, or by its kind where it has none.
fn same_name(writer: &Graph, w: TypeId, reader: &Graph, r: TypeId) -> bool {
    writer.tag(w) == reader.tag(r)
}

fn same_simple_name(writer: &Graph, w: TypeId, reader: &Graph, r: TypeId) -> bool {
    match (writer.name(w), reader.name(r)) {
        (Some(w), Some(name)) => {
            simple(w) == simple(name)
                || matches!(reader.get(r), Type::Record { aliases, .. } if aliases.iter().any(|a| simple(a) == simple(w)))
        }
        _ => false,
    }
}

fn promotes(writer: &Graph, w: TypeId, reader: &Graph, r: TypeId) -> bool {
    matches!(
        (writer.get(w), reader.get(r)),
        (Type::Int, Type::Long | Type::Float | Type::Double)
            | (Type::Long, Type::Float | Type::Double)
            | (Type::Float, Type::Double)
            | (Type::String, Type::Bytes)
            | (Type::Bytes, Type::String)
    )
}
