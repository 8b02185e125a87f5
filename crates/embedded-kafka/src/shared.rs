//! What all connections of a broker share.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    config::BrokerConfig, disk::Disk, error::StartError, files::write_atomically,
    groups::Coordinator, topics::Topics,
};

const CLUSTER_FILE: &str = "cluster.json";
const PRODUCER_IDS_FILE: &str = "producer-ids";
/// Producer ids are set aside on the disk this many at a time.
const PRODUCER_ID_BLOCK: i64 = 1_000;

/// What all connections of a broker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<BrokerConfig>,
    pub(crate) cluster_id: String,
    pub(crate) topics: Topics,
    pub(crate) groups: Coordinator,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) stop: CancellationToken,
    pub(crate) disk: Arc<Disk>,
}

/// The two ends of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// Host and port its client is told to come back to.
    pub(crate) reached: (String, u16),
    pub(crate) peer: SocketAddr,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cluster {
    cluster_id: String,
}

impl Shared {
    pub(crate) fn open(config: BrokerConfig, stop: CancellationToken) -> Result<Self, StartError> {
        let dir = config.data_dir.clone();
        let data = |path: &Path| {
            let path = path.to_owned();
            move |error| StartError::Data { path, error }
        };
        let cluster_id = cluster_id(&dir.join(CLUSTER_FILE), config.cluster_id.as_deref())?;
        let config = Arc::new(config);
        let disk = Arc::new(Disk::default());
        let topics = Topics::open(config.clone(), disk.clone())?;
        let groups = Coordinator::open(&dir, config.groups.clone(), stop.clone(), disk.clone())
            .map_err(data(&dir))?;
        let producer_ids_file = dir.join(PRODUCER_IDS_FILE);
        let producer_ids =
            ProducerIds::open(producer_ids_file.clone()).map_err(data(&producer_ids_file))?;
        Ok(Self {
            config,
            cluster_id,
            topics,
            groups,
            producer_ids,
            stop,
            disk,
        })
    }
}

/// The id in the file, or the one asked for, or a new one.
fn cluster_id(path: &Path, asked: Option<&str>) -> Result<String, StartError> {
    let data = |error| StartError::Data {
        path: path.to_owned(),
        error,
    };
    match fs::read(path) {
        Ok(bytes) => {
            let stored: Cluster =
                serde_json::from_slice(&bytes).map_err(|error| data(io::Error::other(error)))?;
            match asked {
                Some(asked) if asked != stored.cluster_id => Err(StartError::ClusterId {
                    stored: stored.cluster_id,
                    asked: asked.to_owned(),
                }),
                _ => Ok(stored.cluster_id),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // As Kafka's own: a random UUID in URL-safe base64, 22 characters.
            let made = || URL_SAFE_NO_PAD.encode(Uuid::new_v4().as_bytes());
            let cluster = Cluster {
                cluster_id: asked.map_or_else(made, str::to_owned),
            };
            let bytes =
                serde_json::to_vec(&cluster).map_err(|error| data(io::Error::other(error)))?;
            write_atomically(path, &bytes).map_err(data)?;
            Ok(cluster.cluster_id)
        }
        Err(error) => Err(data(error)),
    }
}

/// Ids for idempotent producers, none of which is ever given twice.
#[derive(Debug)]
pub(crate) struct ProducerIds {
    path: PathBuf,
    /// Next id, and the first that is not yet set aside.
    state: Mutex<(i64, i64)>,
}

impl ProducerIds {
    fn open(path: PathBuf) -> io::Result<Self> {
        let next = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            state: Mutex::new((next, next)),
        })
    }

    pub(crate) fn next(&self) -> io::Result<i64> {
        let mut state = self.state.lock();
        if state.0 >= state.1 {
            let limit = state.0 + PRODUCER_ID_BLOCK;
            write_atomically(&self.path, limit.to_string().as_bytes())?;
            state.1 = limit;
        }
        state.0 += 1;
        Ok(state.0 - 1)
    }
}
