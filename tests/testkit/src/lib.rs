//! Installs, starts and stops the real third-party servers that tests run against, so that `cargo test` needs no machine set up by hand.
//!
//! Everything here is for tests only. A server is fetched on first use into `<target directory>/testkit`, under a
//! lock that parallel test processes share; it listens on loopback ports of its own, keeps its data in a directory
//! of its own, is killed when its handle drops, and never outlives the test process, however that ends.

mod apicurio;
mod browser;
mod cache;
mod http;
mod influxdb;
mod java;
mod kafka;
mod leshan;
mod leshan_server;
mod link;
mod mirror_maker;
mod orientdb;
mod packages;
mod ports;
mod process;
mod programs;
mod run_dir;
mod victoria_metrics;
mod wait;

pub use apicurio::Apicurio;
pub use browser::Browser;
pub use influxdb::InfluxDb1;
pub use kafka::{RealKafka, RealKafkaBuilder};
pub use leshan::{LeshanClient, LeshanClientBuilder};
pub use leshan_server::{LeshanCounts, LeshanServer};
pub use link::{Link, LinkQuality};
pub use mirror_maker::{MirrorMaker, MirrorMakerSettings};
pub use orientdb::OrientDb;
pub use packages::ensure_command;
pub use ports::free_port;
pub use process::{Child, Launch};
pub use programs::{c_program, go_program, java_program, python_packages};
pub use run_dir::RunDir;
pub use victoria_metrics::VictoriaMetrics;
pub use wait::wait_for;
