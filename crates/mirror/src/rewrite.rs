use kafka::{RegistryError, SchemaRegistry};
use records::topics;

/// Makes schema ids valid at the target: the source's schema, with all it refers to, is registered there.
///
/// What it learns is for the caller to keep ([`Ids`]); both registries' clients keep their answers too.
pub struct Rewrite {
    source: SchemaRegistry,
    target: SchemaRegistry,
}

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
        Self { source, target }
    }

    /// The target's id for a source's id in this part of a topic's records.
    ///
    /// # Errors
    /// [`RewriteError`].
    pub async fn target_id(
        &self,
        topic: &str,
        part: Part,
        source_id: u32,
    ) -> Result<u32, RewriteError> {
        let subject = match part {
            Part::Key => topics::key_subject(topic),
            Part::Value => topics::value_subject(topic),
        };
        let document = self.source.document(source_id).await?;
        let target_id = self.target.register_document(&subject, &document).await?;
        tracing::info!(%subject, source_id, target_id, "schema id mapped");
        Ok(target_id)
    }
}

/// The ids known of one part of one topic; nearly always one or two. Bounded.
#[derive(Default)]
pub(crate) struct Ids {
    /// Source's and target's; the one used last stands first.
    pairs: Vec<(u32, u32)>,
}

/// Then they are asked for anew.
const MOST_IDS: usize = 1_000;

/// What has to become of a key or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It passes as it is.
    None,
    /// It gets this id.
    To(u32),
    /// The target's id of this one has to be asked for.
    Ask(u32),
}

impl Ids {
    pub(crate) fn learn(&mut self, source: u32, target: u32) {
        if self.pairs.len() >= MOST_IDS {
            self.pairs.clear();
        }
        self.pairs.push((source, target));
    }

    /// What has to become of these bytes; those without the header pass as they are.
    pub(crate) fn change(&mut self, bytes: &[u8]) -> Change {
        let Ok((records::SchemaId(source), _)) = records::frame::split(bytes) else {
            return Change::None;
        };
        let target = match self.pairs.first() {
            Some((known, target)) if *known == source => *target,
            _ => {
                let Some(at) = self.pairs.iter().position(|(known, _)| *known == source) else {
                    return Change::Ask(source);
                };
                self.pairs.swap(0, at);
                self.pairs[0].1
            }
        };
        if target == source {
            Change::None
        } else {
            Change::To(target)
        }
    }
}

/// The bytes with another id, in `scratch`.
///
/// ```text
///  0    1    2    3    4    5 …
/// +----+----+----+----+----+-----------------+
/// | 00 | id, big endian    | unchanged       |
/// +----+----+----+----+----+-----------------+
/// ```
pub(crate) fn patch<'a>(bytes: &'a [u8], change: Change, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    match change {
        Change::To(id) if bytes.len() >= records::frame::HEADER_LEN => {
            scratch.clear();
            scratch.extend_from_slice(bytes);
            scratch[1..records::frame::HEADER_LEN].copy_from_slice(&id.to_be_bytes());
            scratch
        }
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_changes_and_only_where_there_is_one() {
        let mut ids = Ids::default();
        ids.learn(1, 7);
        ids.learn(2, 2);
        let mut scratch = Vec::new();
        let mut patched = |bytes: &[u8]| match ids.change(bytes) {
            Change::Ask(id) => Err(id),
            change => Ok(patch(bytes, change, &mut scratch).to_vec()),
        };
        assert_eq!(patched(&[0, 0, 0, 0, 1, 9]), Ok(vec![0, 0, 0, 0, 7, 9]));
        assert_eq!(patched(&[0, 0, 0, 0, 2]), Ok(vec![0, 0, 0, 0, 2]));
        assert_eq!(patched(&[0, 0, 0, 0, 1]), Ok(vec![0, 0, 0, 0, 7]));
        assert_eq!(patched(&[0, 0, 0, 1, 1]), Err(257));
        for plain in [&b""[..], &[0, 0, 0, 1], b"{}", &[1, 0, 0, 0, 1, 5]] {
            assert_eq!(patched(plain), Ok(plain.to_vec()));
        }
    }
}
