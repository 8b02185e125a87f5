//! The CoAP messages of single devices, told while somebody listens.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use coap::Peer;
use tokio::sync::mpsc;

use super::Command;

/// Somebody begins or ends to watch a device's messages.
#[derive(Debug)]
pub(super) enum WatchCoap {
    Begin(String),
    End(String),
}

/// While it is kept, a device's CoAP messages are told.
pub(crate) struct CoapLog {
    endpoint: String,
    commands: mpsc::Sender<Command>,
}

impl CoapLog {
    pub(super) async fn begin(commands: mpsc::Sender<Command>, endpoint: &str) -> Self {
        let watch = WatchCoap::Begin(endpoint.to_owned());
        // Where nobody listens any more the server is stopping.
        let _ = commands.send(Command::WatchCoap { watch }).await;
        Self {
            endpoint: endpoint.to_owned(),
            commands,
        }
    }
}

impl Drop for CoapLog {
    fn drop(&mut self) {
        let watch = WatchCoap::End(std::mem::take(&mut self.endpoint));
        let command = Command::WatchCoap { watch };
        // A full queue must not make it stay for ever.
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(command).await });
            }
        }
    }
}

/// Whose messages are watched, by how many.
#[derive(Default)]
pub(super) struct Watched {
    endpoints: HashMap<Arc<str>, usize>,
    /// Where their messages come from and go to, as far as it is known.
    peers: HashMap<Peer, Arc<str>>,
}

impl Watched {
    /// Nobody is: the usual case, which costs nothing more.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// `at`: where the device is registered from.
    pub(super) fn change(&mut self, watch: WatchCoap, at: impl FnOnce(&str) -> Option<Peer>) {
        match watch {
            WatchCoap::Begin(endpoint) => {
                let peer = at(&endpoint);
                let endpoint: Arc<str> = endpoint.into();
                *self.endpoints.entry(Arc::clone(&endpoint)).or_default() += 1;
                if let Some(peer) = peer {
                    self.peers.insert(peer, endpoint);
                }
            }
            WatchCoap::End(endpoint) => {
                let Some(watchers) = self.endpoints.get_mut(&*endpoint) else {
                    return;
                };
                *watchers -= 1;
                if *watchers == 0 {
                    self.endpoints.remove(&*endpoint);
                    self.peers.retain(|_, watched| **watched != *endpoint);
                }
            }
        }
    }

    /// A device is registered from here now.
    pub(super) fn moved(&mut self, endpoint: &str, peer: Peer) {
        if let Some((endpoint, _)) = self.endpoints.get_key_value(endpoint) {
            let endpoint = Arc::clone(endpoint);
            self.peers.retain(|_, watched| *watched != endpoint);
            self.peers.insert(peer, endpoint);
        }
    }

    pub(super) fn at(&self, peer: Peer) -> Option<&Arc<str>> {
        self.peers.get(&peer)
    }

    /// A copy of a message, where its device is watched.
    pub(super) fn copy(&self, peer: Peer, datagram: &[u8]) -> Option<(Arc<str>, Bytes)> {
        let endpoint = Arc::clone(self.at(peer)?);
        Some((endpoint, Bytes::copy_from_slice(datagram)))
    }
}
