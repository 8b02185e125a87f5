//! The topics of the broker: names, ids, settings, and the logs of their partitions.

pub(crate) mod config;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::{error, info, warn};
use uuid::Uuid;

pub(crate) use self::config::{ConfigError, TopicConfig};
use crate::{
    clock::now_ms, config::BrokerConfig, disk::Disk, error::StartError, files::write_atomically,
    log::PartitionLog,
};

const FILE: &str = "topics.json";
const DIR: &str = "topics";
/// Kafka's own bound on a topic's name, which keeps `<topic>-<partition>` a valid file name.
const MAX_NAME: usize = 249;

/// One topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    state: RwLock<TopicState>,
}

#[derive(Debug, Clone)]
struct TopicState {
    partitions: Vec<Arc<PartitionLog>>,
    overrides: BTreeMap<String, String>,
    config: Arc<TopicConfig>,
}

/// Why a topic can't be made or changed.
#[derive(Debug, Error)]
pub(crate) enum TopicError {
    #[error(
        "a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ - and is neither . nor .."
    )]
    Name,
    #[error("topic {0} exists")]
    Exists(String),
    #[error("this broker does not have that topic")]
    Unknown,
    #[error("a topic has at least one partition")]
    Partitions,
    #[error("the topic has {0} partitions: their number can only grow")]
    Shrink(usize),
    #[error("this broker keeps at most {0} partitions of all topics together (limits.partitions)")]
    TooMany(usize),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the data directory could not be written: {0}")]
    Io(#[from] io::Error),
}

/// All topics. Reading takes a short lock; changing is done one at a time and is on the disk when it returns.
#[derive(Debug)]
pub(crate) struct Topics {
    dir: PathBuf,
    broker: Arc<BrokerConfig>,
    by_name: RwLock<BTreeMap<String, Arc<Topic>>>,
    by_id: RwLock<HashMap<Uuid, Arc<Topic>>>,
    changing: Mutex<()>,
    disk: Arc<Disk>,
}

/// How topics are written down.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    topics: Vec<StoredTopic>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredTopic {
    name: String,
    id: Uuid,
    partitions: usize,
    configs: BTreeMap<String, String>,
}

impl Topic {
    pub(crate) fn partition(&self, index: i32) -> Option<Arc<PartitionLog>> {
        self.state
            .read()
            .partitions
            .get(usize::try_from(index).ok()?)
            .cloned()
    }

    pub(crate) fn partitions(&self) -> Vec<Arc<PartitionLog>> {
        self.state.read().partitions.clone()
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.state.read().partitions.len()
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        self.state.read().config.clone()
    }

    pub(crate) fn overrides(&self) -> BTreeMap<String, String> {
        self.state.read().overrides.clone()
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.name.starts_with("__")
    }
}

impl Topics {
    /// Opens the topics of a data directory, checking each log.
    pub(crate) fn open(broker: Arc<BrokerConfig>, disk: Arc<Disk>) -> Result<Self, StartError> {
        let dir = broker.data_dir.clone();
        let path = dir.join(FILE);
        let data = |error: io::Error, path: &Path| StartError::Data {
            path: path.to_owned(),
            error,
        };
        fs::create_dir_all(dir.join(DIR)).map_err(|error| data(error, &dir))?;
        let stored = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| data(io::Error::other(error), &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored { topics: Vec::new() },
            Err(error) => return Err(data(error, &path)),
        };
        let topics = Self {
            dir,
            broker,
            by_name: RwLock::default(),
            by_id: RwLock::default(),
            changing: Mutex::new(()),
            disk,
        };
        for stored in stored.topics {
            let config = TopicConfig::new(&stored.configs, &topics.broker)
                .map_err(|error| data(io::Error::other(error), &path))?;
            let mut partitions = Vec::with_capacity(stored.partitions);
            for index in 0..stored.partitions {
                let dir = topics.partition_dir(&stored.name, index);
                let log =
                    PartitionLog::open(dir.clone(), now_ms()).map_err(|error| data(error, &dir))?;
                partitions.push(Arc::new(log));
            }
            let state = TopicState {
                partitions,
                overrides: stored.configs,
                config: Arc::new(config),
            };
            topics.insert(Arc::new(Topic {
                name: stored.name,
                id: stored.id,
                state: RwLock::new(state),
            }));
        }
        Ok(topics)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().get(name).cloned()
    }

    pub(crate) fn by_id(&self, id: Uuid) -> Option<Arc<Topic>> {
        self.by_id.read().get(&id).cloned()
    }

    /// All topics by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().values().cloned().collect()
    }

    /// Checks that a topic could be made; gives its settings.
    pub(crate) fn check_new(
        &self,
        name: &str,
        partitions: i32,
        overrides: &BTreeMap<String, String>,
    ) -> Result<TopicConfig, TopicError> {
        if !is_valid_name(name) {
            return Err(TopicError::Name);
        }
        if self.by_name.read().contains_key(name) {
            return Err(TopicError::Exists(name.to_owned()));
        }
        self.check_room(
            usize::try_from(partitions)
                .ok()
                .filter(|n| *n > 0)
                .ok_or(TopicError::Partitions)?,
        )?;
        Ok(TopicConfig::new(overrides, &self.broker)?)
    }

    /// Makes a topic.
    pub(crate) fn create(
        &self,
        name: &str,
        partitions: i32,
        overrides: BTreeMap<String, String>,
    ) -> Result<Arc<Topic>, TopicError> {
        let _changing = self.changing.lock();
        let config = self.check_new(name, partitions, &overrides)?;
        let partitions = (0..partitions as usize)
            .map(|index| {
                Ok(Arc::new(PartitionLog::create(
                    self.partition_dir(name, index),
                )?))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let state = TopicState {
            partitions,
            overrides,
            config: Arc::new(config),
        };
        let topic = Arc::new(Topic {
            name: name.to_owned(),
            id: Uuid::new_v4(),
            state: RwLock::new(state),
        });
        self.insert(topic.clone());
        if let Err(error) = self.store() {
            self.take(&topic);
            return Err(error.into());
        }
        info!(
            topic = name,
            partitions = topic.partition_count(),
            "topic created"
        );
        Ok(topic)
    }

    /// Removes a topic and its records.
    pub(crate) fn delete(&self, topic: &Arc<Topic>) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        if !self
            .get(&topic.name)
            .is_some_and(|found| Arc::ptr_eq(&found, topic))
        {
            return Err(TopicError::Unknown);
        }
        self.take(topic);
        if let Err(error) = self.store() {
            self.insert(topic.clone());
            return Err(error.into());
        }
        for (index, log) in topic.partitions().iter().enumerate() {
            self.disk.works(format_args!("{}-{index}", topic.name));
            self.disk
                .works(format_args!("{}-{index}, flushed,", topic.name));
            // The topic is gone whether or not its files are: a topic made later under the name starts with empty directories.
            if let Err(error) = log.remove() {
                warn!(topic = topic.name, %error, "a deleted topic's files could not be removed");
            }
        }
        info!(topic = topic.name, "topic deleted");
        Ok(())
    }

    /// Checks that a topic could grow to `count` partitions.
    pub(crate) fn check_grow(&self, topic: &Topic, count: i32) -> Result<usize, TopicError> {
        let have = topic.partition_count();
        let count = usize::try_from(count).map_err(|_| TopicError::Partitions)?;
        if count <= have {
            return Err(TopicError::Shrink(have));
        }
        self.check_room(count - have)?;
        Ok(count)
    }

    /// Adds partitions up to `count`.
    pub(crate) fn grow(&self, topic: &Topic, count: i32) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let count = self.check_grow(topic, count)?;
        let before = topic.partitions();
        let mut partitions = before.clone();
        for index in before.len()..count {
            partitions.push(Arc::new(PartitionLog::create(
                self.partition_dir(&topic.name, index),
            )?));
        }
        topic.state.write().partitions = partitions;
        if let Err(error) = self.store() {
            topic.state.write().partitions = before;
            return Err(error.into());
        }
        Ok(())
    }

    /// Replaces a topic's own settings.
    pub(crate) fn configure(
        &self,
        topic: &Topic,
        overrides: BTreeMap<String, String>,
    ) -> Result<(), TopicError> {
        let _changing = self.changing.lock();
        let config = Arc::new(TopicConfig::new(&overrides, &self.broker)?);
        let before = topic.state.read().clone();
        {
            let mut state = topic.state.write();
            state.overrides = overrides;
            state.config = config;
        }
        if let Err(error) = self.store() {
            *topic.state.write() = before;
            return Err(error.into());
        }
        Ok(())
    }

    /// Applies each topic's retention, then the bound on all of them together.
    pub(crate) fn apply_retention(&self) {
        let now = now_ms();
        for topic in self.all() {
            let config = topic.config();
            for (index, log) in topic.partitions().iter().enumerate() {
                match log.apply_retention(&config, now) {
                    Ok(0) => {}
                    Ok(bytes) => info!(
                        topic = topic.name,
                        partition = index,
                        bytes,
                        "retention dropped old segments"
                    ),
                    Err(error) => {
                        error!(topic = topic.name, partition = index, %error, "retention failed")
                    }
                }
            }
        }
        if let Some(total) = self.broker.retention.total_bytes {
            self.apply_total(total);
        }
    }

    fn apply_total(&self, total: u64) {
        loop {
            let mut used = 0;
            let mut oldest: Option<(i64, String, Arc<PartitionLog>)> = None;
            for topic in self.all() {
                let may_go = topic.config().deletes();
                for log in topic.partitions() {
                    used += log.size();
                    let Some((age, _)) = log.oldest_closed().filter(|_| may_go) else {
                        continue;
                    };
                    if oldest.as_ref().is_none_or(|(oldest, ..)| age < *oldest) {
                        oldest = Some((age, topic.name.clone(), log));
                    }
                }
            }
            let Some((_, topic, log)) = oldest.filter(|_| used > total) else {
                return;
            };
            warn!(
                topic,
                used,
                total,
                "all topics together exceed their share of the disk: dropping the oldest segment"
            );
            if let Err(error) = log.drop_oldest_closed() {
                error!(topic, %error, "the oldest segment could not be dropped");
                return;
            }
        }
    }

    /// Forces everything written to the disk.
    pub(crate) fn flush(&self) {
        for topic in self.all() {
            for (index, log) in topic.partitions().iter().enumerate() {
                let flushed = log.flush();
                self.disk
                    .note(format_args!("{}-{index}, flushed,", topic.name), &flushed);
                if let Err(error) = flushed {
                    error!(topic = topic.name, partition = index, %error, "a log could not be flushed to the disk");
                }
            }
        }
    }

    /// Leaves all logs so that the next start need not check them.
    pub(crate) fn close(&self) {
        for topic in self.all() {
            for (index, log) in topic.partitions().iter().enumerate() {
                if let Err(error) = log.close() {
                    error!(topic = topic.name, partition = index, %error, "a log could not be closed");
                }
            }
        }
    }

    fn check_room(&self, more: usize) -> Result<(), TopicError> {
        let have: usize = self
            .by_name
            .read()
            .values()
            .map(|topic| topic.partition_count())
            .sum();
        let most = self.broker.limits.partitions;
        if have.saturating_add(more) > most {
            Err(TopicError::TooMany(most))
        } else {
            Ok(())
        }
    }

    fn insert(&self, topic: Arc<Topic>) {
        self.by_id.write().insert(topic.id, topic.clone());
        self.by_name.write().insert(topic.name.clone(), topic);
    }

    fn take(&self, topic: &Topic) {
        self.by_name.write().remove(&topic.name);
        self.by_id.write().remove(&topic.id);
    }

    fn store(&self) -> io::Result<()> {
        let topics = self
            .all()
            .iter()
            .map(|topic| StoredTopic {
                name: topic.name.clone(),
                id: topic.id,
                partitions: topic.partition_count(),
                configs: topic.overrides(),
            })
            .collect();
        let bytes = serde_json::to_vec_pretty(&Stored { topics })?;
        write_atomically(&self.dir.join(FILE), &bytes)
    }

    fn partition_dir(&self, topic: &str, partition: usize) -> PathBuf {
        self.dir.join(DIR).join(format!("{topic}-{partition}"))
    }
}

/// Kafka's rule for topic names.
pub(crate) fn is_valid_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(legal)
}
