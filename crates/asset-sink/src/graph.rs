use std::collections::BTreeSet;

use connect::ProcessError;
use lwm2m_model::ObjectModel;

use crate::change::Change;
use crate::orient::OrientDb;
use crate::settings::Target;
use crate::sqlite::SqliteGraph;

/// Why a graph was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// It can't be reached or can't work now: try again.
    #[error("{0}")]
    Away(String),
    /// Somebody else changed the same vertices meanwhile: try again at once.
    #[error("the graph was changed by somebody else meanwhile: {0}")]
    Conflict(String),
    /// It does not take this content.
    #[error("the graph refuses it: {0}")]
    Refused(String),
}

impl From<GraphError> for ProcessError {
    fn from(error: GraphError) -> Self {
        Self::Retry(error.to_string())
    }
}

/// What became of changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Changes of endpoints that are in the graph now.
    pub(crate) written: usize,
    /// Updates and de-registrations of endpoints that are not.
    pub(crate) unknown_endpoints: usize,
    /// Links to objects that are not.
    pub(crate) unknown_objects: usize,
}

/// A graph to write to.
#[derive(Clone)]
pub(crate) enum Graph {
    Orient(OrientDb),
    Sqlite(SqliteGraph),
}

impl Graph {
    /// Opens it, making the database and its classes or tables where they are missing.
    pub(crate) async fn open(target: &Target) -> Result<Self, GraphError> {
        match target {
            Target::Orient {
                url,
                database,
                user,
                password,
                tls,
            } => {
                let orient = OrientDb::new(url, database, (user, password), tls)?;
                orient.prepare().await?;
                Ok(Self::Orient(orient))
            }
            Target::Sqlite { path } => {
                let path = path.clone();
                let opened = blocking(move || SqliteGraph::open(&path));
                Ok(Self::Sqlite(opened.await?))
            }
        }
    }

    /// A fixed word for metrics.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Orient(_) => "orientdb",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// Writes changes in one transaction: all or none.
    pub(crate) async fn apply(&self, changes: &[Change]) -> Result<Applied, GraphError> {
        match self {
            Self::Orient(orient) => orient.apply(changes).await,
            Self::Sqlite(sqlite) => {
                let (sqlite, changes) = (sqlite.clone(), changes.to_vec());
                blocking(move || sqlite.apply(&changes)).await
            }
        }
    }

    /// Which objects it has.
    pub(crate) async fn objects(&self) -> Result<BTreeSet<u16>, GraphError> {
        match self {
            Self::Orient(orient) => orient.objects().await,
            Self::Sqlite(sqlite) => {
                let sqlite = sqlite.clone();
                blocking(move || sqlite.objects()).await
            }
        }
    }

    /// Writes objects with their resources and edges, each in one transaction.
    pub(crate) async fn put_models(&self, models: &[ObjectModel]) -> Result<(), GraphError> {
        match self {
            Self::Orient(orient) => orient.put_models(models).await,
            Self::Sqlite(sqlite) => {
                let (sqlite, models) = (sqlite.clone(), models.to_vec());
                blocking(move || sqlite.put_models(&models)).await
            }
        }
    }
}

/// Runs what blocks off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GraphError> + Send + 'static,
) -> Result<T, GraphError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(GraphError::Away(format!("the write broke off: {error}"))))
}

/// The words the graph has for a model's `multiple` and `mandatory`, as in OMA's definitions.
pub(crate) fn multiple(multiple: bool) -> &'static str {
    if multiple { "Multiple" } else { "Single" }
}

pub(crate) fn mandatory(mandatory: bool) -> &'static str {
    if mandatory { "Mandatory" } else { "Optional" }
}
