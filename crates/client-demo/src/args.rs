use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use lwm2m::{Binding, InvalidBinding, Version};
use thiserror::Error;

use crate::security::SecurityArgs;
use crate::series::Kind;

/// CoAP's port, and that of CoAP over DTLS (RFC 7252 sections 6.1 and 6.2).
const COAP_PORT: u16 = 5683;
const COAPS_PORT: u16 = 5684;

/// The options of the virtual sensor.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The LwM2M server: host, or host:port; where none is given the port is 5683, with security 5684
    #[arg(
        short = 'u',
        long = "server",
        env = "LWM2M_SERVER",
        value_name = "HOST[:PORT]",
        default_value = "localhost"
    )]
    pub server: ServerAddress,
    /// The endpoint name; a random UUID without dashes where none is given
    #[arg(short = 'n', long = "endpoint", env = "LWM2M_ENDPOINT", value_name = "NAME", value_parser = endpoint)]
    pub endpoint: Option<String>,
    /// Where the device stands: latitude and longitude in degrees; somewhere at random where it is not given
    #[arg(
        long = "pos",
        env = "LWM2M_POSITION",
        value_name = "LAT:LONG",
        allow_hyphen_values = true
    )]
    pub position: Option<Position>,
    /// Degrees that one step over the map takes (POST /location/north on the admin listener)
    #[arg(long = "sf", env = "LWM2M_SCALE_FACTOR", value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub scale_factor: f64,
    /// Seconds that the registration stands without an update
    #[arg(long, env = "LWM2M_LIFETIME_S", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub lifetime: u32,
    /// Milliseconds between two temperatures
    #[arg(long, env = "LWM2M_INTERVAL_MS", value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub interval: u64,
    /// How the first temperature goes on; the second one is always a random walk
    #[arg(long, env = "LWM2M_SERIES", value_enum, default_value_t = Kind::SineTrend)]
    pub series: Kind,
    /// A number that makes the random walk the same each time
    #[arg(long, env = "LWM2M_SEED", value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How values are sent: confirmable ones until the server has them, non-confirmable ones once
    #[arg(long, env = "LWM2M_NOTIFICATIONS", value_enum, default_value_t = Notifications::Con)]
    pub notifications: Notifications,
    /// How the device is reached: U always, UQ in queue mode, that is only for a while after it was heard of
    #[arg(long, env = "LWM2M_BINDING", value_name = "U|UQ", default_value = "U", value_parser = binding)]
    pub binding: Binding,
    /// Seconds that the device listens in queue mode after it last sent or received something
    #[arg(long, env = "LWM2M_AWAKE_S", value_name = "SECONDS", default_value_t = 93, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub awake: u32,
    /// The version of LwM2M to register with, 1.0 or 1.1
    #[arg(long, env = "LWM2M_VERSION", value_name = "VERSION", default_value = "1.1", value_parser = version)]
    pub lwm2m_version: Version,
    /// The local address to send from; any where none is given
    #[arg(long, env = "LWM2M_BIND", value_name = "ADDRESS:PORT")]
    pub bind: Option<SocketAddr>,
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// How notifications are sent.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notifications {
    /// Confirmable
    Con,
    /// Non-confirmable
    Non,
}

impl Args {
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval)
    }

    pub(crate) fn awake_window(&self) -> Duration {
        Duration::from_secs(self.awake.into())
    }

    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime.into())
    }
}

/// A host with its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// As it was given.
    pub port: Option<u16>,
}

impl ServerAddress {
    /// The port that was given, or the usual one.
    pub(crate) fn port(&self, secure: bool) -> u16 {
        let usual = if secure { COAPS_PORT } else { COAP_PORT };
        self.port.unwrap_or(usual)
    }
}

/// A text that is no server's address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "write a host such as gateway or 192.0.2.1, with its port as in gateway:5683 or [2001:db8::1]:5683 if it is not 5683"
)]
pub struct BadServerAddress;

impl FromStr for ServerAddress {
    type Err = BadServerAddress;

    fn from_str(text: &str) -> Result<Self, BadServerAddress> {
        let text = text.strip_prefix("coaps://").unwrap_or(text);
        let text = text.strip_prefix("coap://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(BadServerAddress)?;
                (
                    host,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':').ok_or(BadServerAddress)?)
                    },
                )
            }
            // More than one colon without brackets is an IPv6 address.
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port: Option<u16> = port
            .map(|port| port.parse().map_err(|_| BadServerAddress))
            .transpose()?;
        if host.is_empty() || port == Some(0) || host.contains(['/', ' ', '[', ']']) {
            return Err(BadServerAddress);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// A place on the map, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Position {
    /// −90 to 90.
    pub latitude: f64,
    /// −180 to 180.
    pub longitude: f64,
}

/// A text that is no place on the map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("write latitude and longitude in degrees, as in 48.13:11.57 (-90 to 90, -180 to 180)")]
pub struct BadPosition;

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (latitude, longitude) = text.split_once(':').ok_or(BadPosition)?;
        let degrees = |text: &str, bound: f64| {
            let degrees: f64 = text.trim().parse().map_err(|_| BadPosition)?;
            if (-bound..=bound).contains(&degrees) {
                Ok(degrees)
            } else {
                Err(BadPosition)
            }
        };
        Ok(Self {
            latitude: degrees(latitude, 90.0)?,
            longitude: degrees(longitude, 180.0)?,
        })
    }
}

/// The sensor speaks over UDP only.
fn binding(text: &str) -> Result<Binding, String> {
    match text {
        "U" | "UQ" => text
            .parse()
            .map_err(|error: InvalidBinding| error.to_string()),
        _ => Err("write U, or UQ for queue mode".to_owned()),
    }
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).ok_or_else(|| "write 1.0 or 1.1".to_owned())
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor.is_finite() => Ok(factor),
        _ => Err("write a number, such as 0.5".to_owned()),
    }
}

/// `ep=` and the name have to fit one option of 255 bytes (RFC 7252 section 5.10).
fn endpoint(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 252 || text.chars().any(char::is_control) {
        return Err("an endpoint name has 1 to 252 bytes, and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_in_many_ways() {
        let cases = [
            ("gateway", "gateway", None),
            ("gateway:5690", "gateway", Some(5690)),
            ("coaps://gateway:5690", "gateway", Some(5690)),
            ("coap://gateway:5690/", "gateway", Some(5690)),
            ("192.0.2.1", "192.0.2.1", None),
            ("[2001:db8::1]:5690", "2001:db8::1", Some(5690)),
            ("[::1]", "::1", None),
            ("2001:db8::1", "2001:db8::1", None),
        ];
        for (text, host, port) in cases {
            assert_eq!(
                text.parse(),
                Ok(ServerAddress {
                    host: host.to_owned(),
                    port
                }),
                "{text}"
            );
        }
        for text in [
            "",
            ":5683",
            "gateway:",
            "gateway:0",
            "gateway:99999",
            "[::1",
            "[::1]5683",
            "a b",
        ] {
            assert_eq!(
                text.parse::<ServerAddress>(),
                Err(BadServerAddress),
                "{text}"
            );
        }
    }

    #[test]
    fn positions_are_on_the_map() {
        assert_eq!(
            "48.13:-11.5".parse(),
            Ok(Position {
                latitude: 48.13,
                longitude: -11.5
            })
        );
        for text in ["", "48", "91:0", "0:181", "NaN:0", "a:b"] {
            assert_eq!(text.parse::<Position>(), Err(BadPosition), "{text}");
        }
    }
}
