use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// A bad link, as a TCP proxy on loopback: for kernels without netem, which delays and drops packets itself.
///
/// What it can't do as netem does: lose a packet. A lost segment is a stall of its connection for as long as TCP takes
/// to notice and send it again. There is no TCP slow start either: each connection takes its share at once.
#[derive(Debug)]
pub struct Link {
    port: u16,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

/// What a [`Link`] is like. Directions are alike and do not share their rate.
#[derive(Clone, Copy, Debug)]
pub struct LinkQuality {
    /// One way. A round trip is twice as long.
    pub delay: Duration,
    /// Bytes per second of each direction, all connections together; `None`: as fast as it goes.
    pub bytes_per_s: Option<u64>,
    /// The share of segments (1,460 bytes) that are lost, from 0 to 1.
    pub loss: f64,
    /// Decides which ones.
    pub seed: u64,
}

impl LinkQuality {
    /// A round trip of `rtt`, nothing else.
    pub fn delayed(rtt: Duration) -> Self {
        Self {
            delay: rtt / 2,
            bytes_per_s: None,
            loss: 0.0,
            seed: 1,
        }
    }
}

#[derive(Debug)]
struct State {
    to: u16,
    quality: LinkQuality,
    down: AtomicBool,
    /// Grows with each cut: older connections end.
    cuts: watch::Sender<u64>,
    there: Lane,
    back: Lane,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    /// When the link has sent all that was put on it.
    free_at: Mutex<Instant>,
    carried: AtomicU64,
    /// Of the random numbers.
    random: Mutex<u64>,
}

/// What waits at the link's entry, in time: a router's buffer.
const BUFFER: Duration = Duration::from_millis(50);
const CHUNK: usize = 16 * 1024;
const SEGMENT: f64 = 1_460.0;
/// Chunks on their way in one direction of one connection.
const MOST_CHUNKS: usize = 4_096;

impl Link {
    /// A link to a port of loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(to: u16, quality: LinkQuality) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("no port for a link")?;
        let port = listener.local_addr()?.port();
        let lane = |salt| Lane {
            free_at: Mutex::new(Instant::now()),
            carried: AtomicU64::new(0),
            random: Mutex::new(quality.seed.wrapping_mul(2).wrapping_add(salt) | 1),
        };
        let state = Arc::new(State {
            to,
            quality,
            down: AtomicBool::new(false),
            cuts: watch::Sender::new(0),
            there: lane(0x9e37_79b9_7f4a_7c15),
            back: lane(0xd1b5_4a32_d192_ed03),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            port,
            state,
            accepting,
        })
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections at once, without a word.
    pub fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts it and keeps it down, or lets connections in again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::Release);
        if down {
            self.cut();
        }
    }

    /// Bytes carried so far: towards the port it leads to, and back.
    pub fn carried(&self) -> (u64, u64) {
        let of = |lane: &Lane| lane.carried.load(Ordering::Acquire);
        (of(&self.state.there), of(&self.state.back))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((near, _)) = listener.accept().await {
        if !state.down.load(Ordering::Acquire) {
            tokio::spawn(connect(near, Arc::clone(&state)));
        }
    }
}

async fn connect(near: TcpStream, state: Arc<State>) {
    let mut cuts = state.cuts.subscribe();
    // A handshake takes a round trip.
    tokio::time::sleep(state.quality.delay * 2).await;
    let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, state.to)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let carry = async {
        tokio::join!(
            direction(near_in, far_out, &state, &state.there),
            direction(far_in, near_out, &state, &state.back),
        );
    };
    tokio::select! {
        () = carry => {}
        _ = cuts.changed() => {}
    }
}

async fn direction(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, lane: &Lane) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(MOST_CHUNKS);
    let read = async move {
        // What comes later never overtakes, also past a stall.
        let mut last = Instant::now();
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            let entered = lane.enter(read, state.quality.bytes_per_s).await;
            last = last.max(entered + state.quality.delay + lane.stall(read, &state.quality));
            if put.send((last, chunk[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = take.recv().await {
            sleep_until(due).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
            lane.carried.fetch_add(chunk.len() as u64, Ordering::AcqRel);
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

impl Lane {
    /// Puts bytes on the link; waits while its buffer is full. Answers when the last of them left.
    async fn enter(&self, bytes: usize, bytes_per_s: Option<u64>) -> Instant {
        let Some(rate) = bytes_per_s else {
            return Instant::now();
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let leaves = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = (*free_at).max(Instant::now()) + takes;
            *free_at
        };
        if leaves > Instant::now() + BUFFER {
            sleep_until(leaves - BUFFER).await;
        }
        leaves
    }

    /// What losses cost these bytes: one that is lost is sent again a round trip and a bit later.
    fn stall(&self, bytes: usize, quality: &LinkQuality) -> Duration {
        let segments = (bytes as f64 / SEGMENT).ceil();
        let arrives = (1.0 - quality.loss).powf(segments);
        if quality.loss <= 0.0 || self.random() < arrives {
            Duration::ZERO
        } else {
            quality.delay * 2 + Duration::from_millis(50)
        }
    }

    /// From 0 to 1 (xorshift64).
    fn random(&self) -> f64 {
        let mut state = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }
}
