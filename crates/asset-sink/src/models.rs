use std::collections::BTreeMap;

use lwm2m_model::{ObjectModel, Registry};

use crate::graph::{Graph, GraphError};

/// How many models were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Objects.
    pub objects: usize,
    /// Their resources.
    pub resources: usize,
}

/// Loads a registry's objects, in their highest versions, whose id is wanted.
pub(crate) async fn load(
    graph: &Graph,
    registry: &Registry,
    wanted: impl Fn(u16) -> bool,
) -> Result<Loaded, GraphError> {
    // By id, then by version: the last one of an id is the highest.
    let models: BTreeMap<u16, ObjectModel> = registry
        .objects()
        .filter(|model| wanted(model.id))
        .map(|model| (model.id, model.clone()))
        .collect();
    let models: Vec<ObjectModel> = models.into_values().collect();
    graph.put_models(&models).await?;
    Ok(Loaded {
        objects: models.len(),
        resources: models.iter().map(|model| model.resources.len()).sum(),
    })
}

/// Loads the objects of OMA's registry that the graph does not have.
pub(crate) async fn load_missing(graph: &Graph) -> Result<Loaded, GraphError> {
    let there = graph.objects().await?;
    load(graph, &Registry::oma(), |id| !there.contains(&id)).await
}
