//! The load of LwM2M devices: many addresses on one socket, in one thread, over plain UDP.
//!
//! Each device has an address of its own, `127.x.y.z`, as the whole of 127.0.0.0/8 is this machine: the socket listens
//! on all of them, tells by IP_PKTINFO which one was meant, and answers from there. So a server sees 100,000 peers
//! without 100,000 descriptors here. Messages are written and read by hand: what is measured must not be measured by
//! its own code.

mod message;
mod socket;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use message::{Incoming, Kind};
use socket::Socket;

/// What one round of the load shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Each device registers, in order.
    Register,
    /// Registered devices update their registration, in turn.
    Update,
    /// Observed devices send a confirmable notification, in turn.
    Notify,
}

/// How a round is driven.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The most exchanges on their way at one time.
    pub window: usize,
    /// Exchanges begun in a second; `None`: as soon as the window lets them.
    pub per_second: Option<u32>,
}

impl Pace {
    /// As fast as a window of this size goes.
    pub fn window(window: usize) -> Self {
        Self {
            window,
            per_second: None,
        }
    }

    /// So many a second, whatever the answers do.
    pub fn per_second(per_second: u32) -> Self {
        Self {
            window: 50_000,
            per_second: Some(per_second),
        }
    }
}

/// What became of a round.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Exchanges that were answered with success.
    pub succeeded: u64,
    /// Answered with an error code.
    pub refused: u64,
    /// The code of the last of these, as on the wire.
    pub refused_with: Option<u8>,
    /// Answered with RST.
    pub reset: u64,
    /// Never answered.
    pub lost: u64,
    /// Messages sent again.
    pub retransmitted: u64,
    pub took: Duration,
    /// From the first sending to the answer, sorted.
    latencies_us: Vec<u32>,
}

impl Outcome {
    /// How many exchanges there were.
    pub fn all(&self) -> u64 {
        self.succeeded + self.refused + self.reset + self.lost
    }

    pub fn per_second(&self) -> f64 {
        self.succeeded as f64 / self.took.as_secs_f64().max(1e-9)
    }

    /// The latency that this share of the answers, 0 to 1, did not exceed, in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies_us
            .get(at)
            .map_or(0.0, |us| f64::from(*us) / 1e3)
    }

    /// Fails unless all of it succeeded.
    ///
    /// # Errors
    /// When some of it did not, with the numbers.
    pub fn whole(self, what: &str) -> anyhow::Result<Self> {
        ensure!(
            self.succeeded == self.all(),
            "{what}: {} of {} succeeded; {} refused (code {:#04x?}), {} reset, {} lost",
            self.succeeded,
            self.all(),
            self.refused,
            self.refused_with,
            self.reset,
            self.lost
        );
        Ok(self)
    }
}

/// The devices of one run.
#[derive(Debug)]
pub struct Fleet {
    socket: Socket,
    prefix: String,
    devices: Vec<Device>,
    /// What is on its way, in the order of sending; entries that were answered meanwhile are skipped.
    sent: VecDeque<(Instant, u32, u16)>,
    in_flight: usize,
    /// Requests for an observation that were answered.
    pub observed: u64,
}

#[derive(Debug, Default)]
struct Device {
    message_id: u16,
    sequence: u32,
    location: Option<Box<[u8]>>,
    token: Option<Box<[u8]>>,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    message_id: u16,
    work: Work,
    first: Instant,
    tries: u32,
    bytes: Box<[u8]>,
}

/// ACK_TIMEOUT and MAX_RETRANSMIT of RFC 7252; the time-out is not spread, which a benchmark does not need.
const RESEND_AFTER: Duration = Duration::from_secs(2);
const TRIES: u32 = 5;

impl Fleet {
    /// So many devices that are not registered yet, named `<prefix>0`, `<prefix>1` …
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn new(server: SocketAddrV4, prefix: &str, devices: usize) -> anyhow::Result<Self> {
        ensure!(
            devices <= 1 << 22,
            "there are addresses for four million devices"
        );
        let mut all = Vec::new();
        all.resize_with(devices, Device::default);
        Ok(Self {
            socket: Socket::new(server)?,
            prefix: prefix.to_owned(),
            devices: all,
            sent: VecDeque::new(),
            in_flight: 0,
            observed: 0,
        })
    }

    /// How many devices are observed.
    pub fn observed_devices(&self) -> usize {
        self.devices
            .iter()
            .filter(|device| device.token.is_some())
            .count()
    }

    /// Does so many exchanges, with the devices from `first` on, and waits for all answers.
    ///
    /// # Errors
    /// When the socket fails, or a device is not in the state for it.
    pub fn run(
        &mut self,
        work: Work,
        devices: std::ops::Range<usize>,
        total: usize,
        pace: Pace,
    ) -> anyhow::Result<Outcome> {
        ensure!(!devices.is_empty(), "no devices");
        let mut outcome = Outcome::default();
        outcome.latencies_us.reserve(total);
        let begun = Instant::now();
        let mut started = 0;
        let mut next = devices.start;
        while started < total || self.in_flight > 0 {
            let now = Instant::now();
            let allowed = match pace.per_second {
                None => total,
                Some(rate) => (now.duration_since(begun).as_secs_f64() * f64::from(rate)) as usize,
            };
            // In small groups, so that answers are read while requests are written.
            for _ in 0..socket::TOGETHER {
                if started >= total.min(allowed) || self.in_flight >= pace.window {
                    break;
                }
                let device = next;
                next = if next + 1 < devices.end {
                    next + 1
                } else {
                    devices.start
                };
                if self.devices[device].waiting.is_some() {
                    if self.in_flight >= devices.len() {
                        break;
                    }
                    continue;
                }
                self.begin(work, device, now)?;
                started += 1;
            }
            self.receive(&mut outcome)?;
            self.send_again(&mut outcome)?;
        }
        outcome.took = begun.elapsed();
        outcome.latencies_us.sort_unstable();
        Ok(outcome)
    }

    /// Answers what the server asks until told that it is enough.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn serve(&mut self, enough: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let mut outcome = Outcome::default();
        while !enough(self) {
            self.receive(&mut outcome)?;
        }
        Ok(())
    }

    fn begin(&mut self, work: Work, at: usize, now: Instant) -> anyhow::Result<()> {
        let device = &mut self.devices[at];
        device.message_id = device.message_id.wrapping_add(1);
        let message_id = device.message_id;
        let bytes = match work {
            Work::Register => message::register(message_id, &format!("{}{at}", self.prefix)),
            Work::Update => {
                let location = device.location.as_deref().context("not registered")?;
                message::update(message_id, location)
            }
            Work::Notify => {
                let token = device.token.as_deref().context("not observed")?;
                device.sequence = (device.sequence + 1) & 0xff_ffff;
                let value = 20.0 + f64::from(device.sequence % 100) / 10.0;
                message::notification(message_id, token, device.sequence, value)
            }
        };
        let bytes: Box<[u8]> = bytes.into();
        self.socket.send(at, &bytes)?;
        device.waiting = Some(Waiting {
            message_id,
            work,
            first: now,
            tries: 1,
            bytes,
        });
        self.sent.push_back((now, at as u32, message_id));
        self.in_flight += 1;
        Ok(())
    }

    fn receive(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let Self {
            socket,
            devices,
            in_flight,
            observed,
            ..
        } = self;
        let mut answers = Vec::new();
        socket.receive(|at, datagram| {
            let (Some(device), Some(message)) = (devices.get_mut(at), Incoming::parse(datagram))
            else {
                return;
            };
            match message.kind {
                Kind::Request => {
                    // The server asks for a value, with Observe or without.
                    if message.observe == Some(0) {
                        if device.token.is_none() {
                            *observed += 1;
                        }
                        device.token = Some(message.token.into());
                    }
                    answers.push((at, message::value(&message, device.sequence)));
                }
                Kind::Answer | Kind::Reset => {
                    let waiting = device.waiting.take_if(|it| it.message_id == message.id);
                    let Some(waiting) = waiting else { return };
                    *in_flight -= 1;
                    if message.kind == Kind::Reset {
                        outcome.reset += 1;
                        return;
                    }
                    // A notification's acknowledgement is empty.
                    if message.code >> 5 != 2 && message.code != 0 {
                        outcome.refused += 1;
                        outcome.refused_with = Some(message.code);
                        return;
                    }
                    if waiting.work == Work::Register {
                        device.location = Some(message.location.into());
                    }
                    outcome.succeeded += 1;
                    let us = waiting.first.elapsed().as_micros();
                    outcome
                        .latencies_us
                        .push(u32::try_from(us).unwrap_or(u32::MAX));
                }
                Kind::Other => {}
            }
        })?;
        for (at, answer) in answers {
            self.socket.send(at, &answer)?;
        }
        Ok(())
    }

    fn send_again(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        while let Some(&(at, device, message_id)) = self.sent.front() {
            let waiting = self.devices[device as usize]
                .waiting
                .as_mut()
                .filter(|waiting| waiting.message_id == message_id);
            let Some(waiting) = waiting else {
                self.sent.pop_front();
                continue;
            };
            // The queue is in the order of sending, so this is the oldest.
            if at.elapsed() < RESEND_AFTER {
                return Ok(());
            }
            self.sent.pop_front();
            if waiting.tries >= TRIES {
                outcome.lost += 1;
                self.in_flight -= 1;
                self.devices[device as usize].waiting = None;
                continue;
            }
            waiting.tries += 1;
            outcome.retransmitted += 1;
            self.socket.send(device as usize, &waiting.bytes)?;
            self.sent.push_back((Instant::now(), device, message_id));
        }
        Ok(())
    }
}
