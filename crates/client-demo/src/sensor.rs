//! The device itself: its objects, how they change, and what it does when it is told to.

use std::time::{Duration, Instant};

use lwm2m::client::{Client, ClientConfig, Event, InMemoryTree, SendError, TreeError};
use lwm2m_codec::{ContentFormat, Timestamped, decode_text, encode_text};
use lwm2m_model::{ObjectPath, Registry, ResourceNode, Value, ValueType};
use thiserror::Error;

use crate::Position;
use crate::series::{Kind, Series};

/// The two temperatures.
const SENSORS: [u16; 2] = [0, 1];
const TEMPERATURE: u16 = 3303;
const MIN: u16 = 5601;
const MAX: u16 = 5602;
const RESET: u16 = 5605;
const VALUE: u16 = 5700;
const UNITS: u16 = 5701;

const REBOOT: ObjectPath = ObjectPath::Resource(3, 0, 4);
const BATTERY: ObjectPath = ObjectPath::Resource(3, 0, 9);
const RESET_ERRORS: ObjectPath = ObjectPath::Resource(3, 0, 12);
const CLOCK: ObjectPath = ObjectPath::Resource(3, 0, 13);
const LATITUDE: ObjectPath = ObjectPath::Resource(6, 0, 0);
const LONGITUDE: ObjectPath = ObjectPath::Resource(6, 0, 1);
const LOCATED_AT: ObjectPath = ObjectPath::Resource(6, 0, 5);

/// Between the order to reboot and the reboot: the answer has to leave first.
const REBOOT_DELAY: Duration = Duration::from_millis(500);
/// Samples in which the battery loses one percent; empty, it is charged.
const BATTERY_SAMPLES: u32 = 30;

/// What a sensor is made of.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) client: ClientConfig,
    pub(crate) server_uri: String,
    pub(crate) position: Position,
    pub(crate) scale: f64,
    pub(crate) interval: Duration,
    pub(crate) series: Kind,
    pub(crate) seed: u64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) unix_s: i64,
}

/// A virtual device with two temperatures.
pub(crate) struct Sensor {
    pub(crate) client: Client<InMemoryTree>,
    series: [Series; 2],
    interval: Duration,
    next_sample: Instant,
    samples: u32,
    reboot_at: Option<Instant>,
    /// What a server added to the clock by writing it.
    clock_offset_s: i64,
    scale: f64,
}

/// Why a value was not set from outside.
#[derive(Debug, Error)]
pub(crate) enum SetError {
    #[error("there is no value at {0}")]
    NotFound(ObjectPath),
    #[error("{0}")]
    BadValue(String),
}

/// A step over the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    North,
    East,
    South,
    West,
}

impl Sensor {
    pub(crate) fn new(settings: Settings, now: Moment, seed: [u8; 32]) -> Result<Self, TreeError> {
        let kinds = [settings.series, Kind::RandomWalk];
        let mut number = 0;
        let mut series = kinds.map(|kind| {
            number += 1;
            Series::new(kind, settings.seed.wrapping_add(number))
        });
        let first = [series[0].next_value(), series[1].next_value()];
        let tree = tree(&settings, now, first)?;
        Ok(Self {
            client: Client::new(settings.client, tree, seed),
            series,
            interval: settings.interval,
            next_sample: now.instant + settings.interval,
            samples: 0,
            reboot_at: None,
            clock_offset_s: 0,
            scale: settings.scale,
        })
    }

    /// When [`Self::work`] has something to do.
    pub(crate) fn next_timeout(&self) -> Instant {
        let others = [self.client.next_timeout(), self.reboot_at];
        others
            .into_iter()
            .flatten()
            .fold(self.next_sample, Instant::min)
    }

    /// Does what is due.
    pub(crate) fn work(&mut self, now: Moment) {
        self.client.handle_timeout(now.instant);
        if self.next_sample <= now.instant {
            // After a pause of the machine there is one sample, not all those that were missed.
            self.next_sample = (self.next_sample + self.interval).max(now.instant);
            self.sample(now);
        }
        if self.reboot_at.is_some_and(|at| at <= now.instant) {
            self.reboot_at = None;
            self.client.restart(now.instant);
        }
    }

    fn sample(&mut self, now: Moment) {
        for instance in SENSORS {
            let value = self.series[usize::from(instance)].next_value();
            self.measure(now, instance, value);
        }
        self.put(
            now,
            &CLOCK,
            Value::Time(now.unix_s.saturating_add(self.clock_offset_s)),
        );
        self.samples = (self.samples + 1) % (BATTERY_SAMPLES * 101);
        let battery = 100 - i64::from(self.samples / BATTERY_SAMPLES);
        self.put(now, &BATTERY, Value::Integer(battery));
    }

    /// A measured temperature, with what follows from it for the minimum and the maximum.
    fn measure(&mut self, now: Moment, instance: u16, value: f64) {
        let at = |resource| ObjectPath::Resource(TEMPERATURE, instance, resource);
        let number = |path| self.client.objects().get(&path).and_then(Value::as_f64);
        let (min, max) = (number(at(MIN)), number(at(MAX)));
        self.put(now, &at(VALUE), Value::Float(value));
        if min.is_none_or(|min| value < min) {
            self.put(now, &at(MIN), Value::Float(value));
        }
        if max.is_none_or(|max| value > max) {
            self.put(now, &at(MAX), Value::Float(value));
        }
    }

    /// Sets a value as the device does, and tells who observes it. What the models refuse stays as it was.
    fn put(&mut self, now: Moment, path: &ObjectPath, value: Value) {
        match self.client.objects_mut().set(path, value) {
            Ok(true) => self.client.changed(now.instant, path),
            Ok(false) => {}
            Err(error) => tracing::warn!(%path, %error, "a value was not set"),
        }
    }

    /// Acts on something that happened.
    pub(crate) fn act(&mut self, now: Moment, event: &Event) {
        match event {
            Event::Executed { path, .. } if *path == REBOOT => {
                self.reboot_at = Some(now.instant + REBOOT_DELAY);
            }
            Event::Executed { path, .. } if *path == RESET_ERRORS => {
                let none = ObjectPath::ResourceInstance(3, 0, 11, 0);
                self.put(now, &none, Value::Integer(0));
            }
            Event::Executed {
                path: ObjectPath::Resource(TEMPERATURE, instance, RESET),
                ..
            } => {
                let at = |resource| ObjectPath::Resource(TEMPERATURE, *instance, resource);
                if let Some(current) = self.client.objects().get(&at(VALUE)).cloned() {
                    self.put(now, &at(MIN), current.clone());
                    self.put(now, &at(MAX), current);
                }
            }
            Event::Written { path } if path.contains(&CLOCK) => {
                if let Some(Value::Time(written)) = self.client.objects().get(&CLOCK) {
                    self.clock_offset_s = written.saturating_sub(now.unix_s);
                }
            }
            _ => {}
        }
    }

    /// Sets a value from outside, written as text, as if the device had measured it.
    pub(crate) fn set(
        &mut self,
        now: Moment,
        path: &ObjectPath,
        text: &str,
    ) -> Result<(), SetError> {
        let kind = self
            .client
            .objects()
            .get(path)
            .ok_or(SetError::NotFound(*path))?
            .value_type();
        let value = decode_text(text.trim().as_bytes(), kind, path)
            .map_err(|error| SetError::BadValue(error.to_string()))?;
        match (*path, &value) {
            (ObjectPath::Resource(TEMPERATURE, instance, VALUE), Value::Float(value)) => {
                if !value.is_finite() {
                    return Err(SetError::BadValue(
                        "a temperature has to be a finite number".to_owned(),
                    ));
                }
                self.measure(now, instance, *value);
            }
            _ => self.put(now, path, value),
        }
        Ok(())
    }

    /// Reports what stands at these paths now, of the device's own accord.
    pub(crate) fn send(&mut self, now: Moment, paths: &[ObjectPath]) -> Result<(), SendError> {
        let values = Timestamped {
            time_s: Some(now.unix_s as f64),
            content: self.client.collect(paths),
        };
        self.client
            .send(now.instant, &[values], ContentFormat::SenmlCbor)
            .map(drop)
    }

    /// A value as text.
    pub(crate) fn get(&self, path: &ObjectPath) -> Result<String, SetError> {
        self.client
            .objects()
            .get(path)
            .map(encode_text)
            .ok_or(SetError::NotFound(*path))
    }

    /// Moves the device by one degree times the scale factor.
    pub(crate) fn step(&mut self, now: Moment, direction: Direction) {
        let (path, sign, bound) = match direction {
            Direction::North => (LATITUDE, 1.0, 90.0),
            Direction::South => (LATITUDE, -1.0, 90.0),
            Direction::East => (LONGITUDE, 1.0, 180.0),
            Direction::West => (LONGITUDE, -1.0, 180.0),
        };
        let from = self
            .client
            .objects()
            .get(&path)
            .and_then(Value::as_f64)
            .unwrap_or_default();
        let to = (from + sign * self.scale).clamp(-bound, bound);
        self.put(now, &path, Value::Float(to));
        self.put(now, &LOCATED_AT, Value::Time(now.unix_s));
    }
}

fn tree(
    settings: &Settings,
    now: Moment,
    temperatures: [f64; 2],
) -> Result<InMemoryTree, TreeError> {
    let mut tree = InMemoryTree::new(std::sync::Arc::new(Registry::oma()));
    let text = |id, text: &str| ResourceNode::single(id, Value::String(text.to_owned()));
    let integer = |id, value| ResourceNode::single(id, Value::Integer(value));
    let float = |id, value| ResourceNode::single(id, Value::Float(value));
    let integers =
        |id, value| ResourceNode::multiple(id, ValueType::Integer, [(0, Value::Integer(value))]);
    let lifetime_s = i64::try_from(settings.client.lifetime.as_secs()).unwrap_or(i64::MAX);

    // Security mode 3: none.
    let no_key = |id| ResourceNode::single(id, Value::Opaque(Vec::new()));
    let security = [
        text(0, &settings.server_uri),
        ResourceNode::single(1, Value::Boolean(false)),
        integer(2, 3),
        no_key(3),
        no_key(4),
        no_key(5),
        integer(10, 1),
    ];
    tree.add_instance(0, 0, security)?;

    let notifications_kept = ResourceNode::single(6, Value::Boolean(false));
    let server = [
        integer(0, 1),
        integer(1, lifetime_s),
        notifications_kept,
        text(7, &settings.client.binding.raw),
    ];
    tree.add_instance(1, 0, server)?;

    let device = [
        text(0, "zeelos"),
        text(1, "virtual sensor"),
        text(2, &settings.client.endpoint),
        text(3, env!("CARGO_PKG_VERSION")),
        integers(6, 1),
        integers(7, 3_700),
        integer(9, 100),
        integer(10, 64_000),
        integers(11, 0),
        ResourceNode::single(13, Value::Time(now.unix_s)),
        text(14, "+00:00"),
        text(15, "Etc/UTC"),
        text(16, &settings.client.binding.raw),
        text(17, "sensor"),
        text(18, "1"),
        text(19, env!("CARGO_PKG_VERSION")),
        integer(20, 0),
        integer(21, 131_072),
    ];
    tree.add_instance(3, 0, device)?;
    tree.allow_execute(&RESET_ERRORS)?;

    let Position {
        latitude,
        longitude,
    } = settings.position;
    let location = [
        float(0, latitude),
        float(1, longitude),
        ResourceNode::single(5, Value::Time(now.unix_s)),
    ];
    tree.add_instance(6, 0, location)?;

    for (instance, value) in SENSORS.into_iter().zip(temperatures) {
        let values = [
            float(VALUE, value),
            float(MIN, value),
            float(MAX, value),
            text(UNITS, "Cel"),
        ];
        tree.add_instance(TEMPERATURE, instance, values)?;
        tree.allow_execute(&ObjectPath::Resource(TEMPERATURE, instance, RESET))?;
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensor() -> (Sensor, Moment) {
        let now = Moment {
            instant: Instant::now(),
            unix_s: 1_700_000_000,
        };
        let settings = Settings {
            client: ClientConfig::new("test"),
            server_uri: "coap://192.0.2.1:5683".into(),
            position: Position {
                latitude: 48.0,
                longitude: 11.0,
            },
            scale: 0.5,
            interval: Duration::from_secs(2),
            series: Kind::Trend,
            seed: 1,
        };
        (Sensor::new(settings, now, [1; 32]).unwrap(), now)
    }

    fn later(now: Moment, seconds: u32) -> Moment {
        Moment {
            instant: now.instant + Duration::from_secs(seconds.into()),
            unix_s: now.unix_s + i64::from(seconds),
        }
    }

    fn float(sensor: &Sensor, path: &str) -> f64 {
        sensor
            .client
            .objects()
            .get(&path.parse().unwrap())
            .and_then(Value::as_f64)
            .unwrap()
    }

    #[test]
    fn temperatures_go_on_and_their_extremes_are_kept() {
        let (mut sensor, start) = sensor();
        for n in 1..200 {
            sensor.work(later(start, 2 * n));
            for instance in SENSORS {
                let at = |resource: u16| float(&sensor, &format!("/3303/{instance}/{resource}"));
                assert!(at(MIN) <= at(VALUE) && at(VALUE) <= at(MAX));
            }
        }
        assert_eq!(float(&sensor, "/3303/0/5601"), 20.0);
        assert!(
            float(&sensor, "/3303/0/5700") > 21.9,
            "it rises by 0.01 with each sample"
        );
        let clock = sensor.client.objects().get(&CLOCK);
        assert_eq!(clock, Some(&Value::Time(start.unix_s + 2 * 199)));
        assert_eq!(sensor.get(&BATTERY).unwrap(), "94");
    }

    #[test]
    fn a_pause_of_the_machine_makes_one_sample() {
        let (mut sensor, start) = sensor();
        let awake = later(start, 3_600);
        sensor.work(awake);
        assert_eq!(sensor.samples, 1);
        assert!(sensor.next_timeout() >= awake.instant);
    }

    #[test]
    fn reset_brings_the_extremes_to_the_value() {
        let (mut sensor, now) = sensor();
        let value: ObjectPath = "/3303/1/5700".parse().unwrap();
        sensor.set(now, &value, "95.5").unwrap();
        sensor.set(now, &value, "21.5").unwrap();
        assert_eq!(float(&sensor, "/3303/1/5602"), 95.5);
        let path = ObjectPath::Resource(TEMPERATURE, 1, RESET);
        sensor.act(
            now,
            &Event::Executed {
                path,
                arguments: String::new(),
            },
        );
        assert_eq!(
            (
                float(&sensor, "/3303/1/5601"),
                float(&sensor, "/3303/1/5602")
            ),
            (21.5, 21.5)
        );
    }

    #[test]
    fn values_from_outside_have_to_fit() {
        let (mut sensor, now) = sensor();
        let mut set = |path: &str, text: &str| sensor.set(now, &path.parse().unwrap(), text);
        assert!(set("/3303/0/5700", " 17.25 \n").is_ok());
        assert!(matches!(
            set("/3303/0/5700", "warm"),
            Err(SetError::BadValue(_))
        ));
        assert!(matches!(
            set("/3303/0/5700", "NaN"),
            Err(SetError::BadValue(_))
        ));
        assert!(matches!(
            set("/3303/7/5700", "1"),
            Err(SetError::NotFound(_))
        ));
        assert!(matches!(set("/3303/0", "1"), Err(SetError::NotFound(_))));
        assert!(set("/3/0/9", "55").is_ok());
        assert_eq!(float(&sensor, "/3303/0/5700"), 17.25);
        assert_eq!(sensor.get(&BATTERY).unwrap(), "55");
    }

    #[test]
    fn it_moves_over_the_map_but_not_off_it() {
        let (mut sensor, now) = sensor();
        sensor.step(now, Direction::North);
        sensor.step(later(now, 9), Direction::West);
        assert_eq!(
            (float(&sensor, "/6/0/0"), float(&sensor, "/6/0/1")),
            (48.5, 10.5)
        );
        assert_eq!(
            sensor.client.objects().get(&LOCATED_AT),
            Some(&Value::Time(now.unix_s + 9))
        );
        for _ in 0..300 {
            sensor.step(now, Direction::South);
        }
        assert_eq!(float(&sensor, "/6/0/0"), -90.0);
    }

    #[test]
    fn a_clock_that_was_written_runs_on_from_there() {
        let (mut sensor, now) = sensor();
        sensor
            .client
            .objects_mut()
            .set(&CLOCK, Value::Time(500))
            .unwrap();
        sensor.act(now, &Event::Written { path: CLOCK });
        sensor.work(later(now, 2));
        assert_eq!(sensor.client.objects().get(&CLOCK), Some(&Value::Time(502)));
    }
}
