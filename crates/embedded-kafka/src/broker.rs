//! Starting and stopping a broker.

use std::{
    fs::{self, File, TryLockError},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore, time::MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    clock::now_ms,
    config::{BrokerConfig, FlushPolicy},
    error::StartError,
    groups::OFFSETS_FLUSHED,
    metrics,
    server::{self, Door},
    shared::Shared,
};

const LOCK_FILE: &str = ".lock";
/// How often what no acknowledgement waits for is forced to the disk when every append is.
const BACKGROUND_FLUSH: Duration = Duration::from_secs(1);

/// A running single-node broker. Dropping it stops it without leaving its logs in order: the next start checks them.
#[derive(Debug)]
pub struct Broker {
    local_addr: SocketAddr,
    plaintext_addr: Option<SocketAddr>,
    cluster_id: String,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    lock: File,
}

impl Broker {
    /// Opens the data directory, checks what was not closed in order, and listens.
    pub async fn start(config: BrokerConfig) -> Result<Self, StartError> {
        metrics::init();
        let dir = config.data_dir.clone();
        let unusable = |error| StartError::DataDir {
            path: dir.clone(),
            error,
        };
        fs::create_dir_all(&dir).map_err(unusable)?;
        let lock = File::create(dir.join(LOCK_FILE)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StartError::Locked(dir)),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // Bound before the logs are read, so that a port in use is known at once.
        let (listener, local_addr) = bind(config.listen, "--listen").await?;
        let plaintext = match config.plaintext {
            None => None,
            Some(address) => Some(bind(address, "--plaintext-listen").await?),
        };
        let tls = config.tls.clone();

        let stop = CancellationToken::new();
        let token = stop.clone();
        let opened = tokio::task::spawn_blocking(move || Shared::open(config, token)).await;
        let shared = Arc::new(match opened {
            Ok(opened) => opened?,
            Err(panicked) => return Err(unusable(std::io::Error::other(panicked))),
        });

        let tasks = TaskTracker::new();
        // One bound on connections for both listeners.
        let slots = Arc::new(Semaphore::new(shared.config.limits.connections));
        let door = Door {
            listener,
            tls,
            advertised: shared.config.advertised.clone(),
            slots: slots.clone(),
        };
        tasks.spawn(server::accept(door, shared.clone(), tasks.clone()));
        let plaintext_addr = plaintext.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = plaintext {
            let door = Door {
                listener,
                tls: None,
                advertised: None,
                slots,
            };
            tasks.spawn(server::accept(door, shared.clone(), tasks.clone()));
        }
        tasks.spawn(flush(shared.clone()));
        tasks.spawn(trim(shared.clone()));
        let groups = shared.clone();
        tasks.spawn(async move { groups.groups.keep_time().await });
        let cluster_id = shared.cluster_id.clone();
        info!(%local_addr, cluster_id, topics = shared.topics.all().len(), "single-node Kafka broker started");
        Ok(Self {
            local_addr,
            plaintext_addr,
            cluster_id,
            shared,
            tasks,
            stop,
            lock,
        })
    }

    /// Where the broker listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where its second listener, without TLS, is.
    pub fn plaintext_addr(&self) -> Option<SocketAddr> {
        self.plaintext_addr
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What can't be written to the disk now, and what to do about it; `None` where all is well.
    pub fn disk_failure(&self) -> Option<String> {
        self.shared.disk.failing()
    }

    /// Stops taking requests, forces everything to the disk and leaves the logs so that the next start need not check them.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let shared = self.shared.clone();
        let closed = tokio::task::spawn_blocking(move || {
            shared.topics.close();
            shared.groups.offsets().flush()
        });
        match closed.await {
            Ok(Ok(())) => info!("broker stopped"),
            Ok(Err(error)) => error!(%error, "committed offsets could not be flushed to the disk"),
            Err(error) => error!(%error, "the broker's files could not be closed in order"),
        }
        // Last, so that nobody opens the directory before it is in order.
        drop(self.lock.unlock());
    }
}

async fn bind(
    address: SocketAddr,
    option: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen {
        option,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Forces to the disk what was written, every so often.
async fn flush(shared: Arc<Shared>) {
    let interval = match shared.config.flush {
        FlushPolicy::Interval(interval) => interval,
        FlushPolicy::EveryAppend => BACKGROUND_FLUSH,
    };
    every(interval, shared, |shared| {
        shared.topics.flush();
        let flushed = shared.groups.offsets().flush();
        shared.disk.note(OFFSETS_FLUSHED, &flushed);
        if let Err(error) = flushed {
            error!(%error, "committed offsets could not be flushed to the disk");
        }
    })
    .await;
}

/// Applies retention, every so often.
async fn trim(shared: Arc<Shared>) {
    every(shared.config.retention.check_interval, shared, |shared| {
        shared.topics.apply_retention();
        shared.groups.apply_retention(now_ms());
    })
    .await;
}

async fn every(interval: Duration, shared: Arc<Shared>, work: fn(&Shared)) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.stop.cancelled() => return,
        }
        let shared = shared.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&shared)).await {
            error!(%error, "background work of the broker failed");
        }
    }
}
