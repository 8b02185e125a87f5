use std::borrow::Cow;
use std::collections::HashMap;

use kafka::{RegistryError, SchemaRegistry};
use records::{SchemaId, frame, topics};

/// Makes schema ids valid at the target: the source's schema is registered there and the id in the 5-byte header
/// replaced. Ids are kept, so a schema costs two calls once.
pub struct Rewrite {
    source: SchemaRegistry,
    target: SchemaRegistry,
    /// Per subject at the target: source id → target id.
    known: HashMap<String, HashMap<u32, u32>>,
}

/// The most subjects, and ids of one subject, that are kept; then they are asked for anew.
const MOST_SUBJECTS: usize = 1_000;
const MOST_IDS: usize = 1_000;

/// Why a record can't be made valid at the target.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A registry does not answer: nothing may be copied until it does.
    #[error("{0}")]
    Away(RegistryError),
    /// This record can't be carried.
    #[error("{0}")]
    Poisoned(RegistryError),
}

impl From<RegistryError> for RewriteError {
    fn from(error: RegistryError) -> Self {
        if error.is_retriable() {
            Self::Away(error)
        } else {
            Self::Poisoned(error)
        }
    }
}

/// Which part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

impl Rewrite {
    /// Rewrites from one registry's ids to another's.
    pub fn new(source: SchemaRegistry, target: SchemaRegistry) -> Self {
        Self {
            source,
            target,
            known: HashMap::new(),
        }
    }

    /// The bytes with the target's id; those that do not start with the header pass as they are.
    ///
    /// # Errors
    /// [`RewriteError`].
    pub async fn rewrite<'a>(
        &mut self,
        topic: &str,
        part: Part,
        bytes: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, RewriteError> {
        let Ok((SchemaId(source_id), datum)) = frame::split(bytes) else {
            return Ok(Cow::Borrowed(bytes));
        };
        let subject = match part {
            Part::Key => topics::key_subject(topic),
            Part::Value => topics::value_subject(topic),
        };
        let kept = self
            .known
            .get(&subject)
            .and_then(|ids| ids.get(&source_id))
            .copied();
        let target_id = match kept {
            Some(id) => id,
            None => self.register(subject, source_id).await?,
        };
        if target_id == source_id {
            Ok(Cow::Borrowed(bytes))
        } else {
            Ok(Cow::Owned(frame::join(SchemaId(target_id), datum)))
        }
    }

    async fn register(&mut self, subject: String, source_id: u32) -> Result<u32, RewriteError> {
        let schema = self.source.schema(source_id).await?;
        let target_id = self.target.register(&subject, &schema.text).await?;
        tracing::info!(%subject, source_id, target_id, "schema id mapped");
        if self.known.len() >= MOST_SUBJECTS && !self.known.contains_key(&subject) {
            self.known.clear();
        }
        let ids = self.known.entry(subject).or_default();
        if ids.len() >= MOST_IDS {
            ids.clear();
        }
        ids.insert(source_id, target_id);
        Ok(target_id)
    }
}
