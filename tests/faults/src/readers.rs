use std::path::Path as File;

use anyhow::{Context as _, ensure};
use kafka::Record;
use records::{AvroRecord, Response, ResponseObserve};
use serde_json::Value;
use testkit::{java_program, python_packages};
use tokio::process::Command;

use crate::{Path, topic};

const PYTHON: &str = include_str!("../readers/reader.py");
const JAVA: &str = include_str!("../readers/Reader.java");

/// Reads the cloud's topics with Python's confluent-kafka and with Java's Avro, as a user of either would, and compares
/// with our own reading: the ids in the records were made valid there.
///
/// # Errors
/// When they read something else.
pub async fn others_read_the_same(path: &Path) -> anyhow::Result<()> {
    let observed = |datum: &[u8]| ResponseObserve::from_datum(datum).map(|one| one.timestamp);
    let replied = |datum: &[u8]| Response::from_datum(datum).map(|one| one.timestamp);
    for name in ["observations", "management.rep"] {
        let topic = topic(name);
        let kafka = site::Kafka::given(&path.cloud.site.bootstrap);
        let (mut read, mut refused, mut timestamps) = (0, 0, 0);
        for record in kafka.all(&topic).await {
            let value = datum(&record);
            let at = match name {
                "observations" => observed(value).ok(),
                _ => replied(value).ok(),
            };
            match at {
                Some(at) => {
                    read += 1;
                    timestamps += at;
                }
                None => refused += 1,
            }
        }
        for (reader, seen) in [
            ("Python", python(path, &topic).await?),
            ("Java", java(path, &topic).await?),
        ] {
            let ours =
                serde_json::json!({"read": read, "refused": refused, "timestamps": timestamps});
            ensure!(seen == ours, "{reader} reads {seen} of {topic}, we {ours}");
            ensure!(read > 0, "{topic} is empty");
        }
    }
    Ok(())
}

/// What follows the registry's header.
fn datum(record: &Record) -> &[u8] {
    let value = record.value.as_deref().unwrap_or_default();
    match value {
        [0, _, _, _, _, datum @ ..] => datum,
        _ => &[],
    }
}

fn arguments<'a>(path: &'a Path, topic: &'a str) -> [&'a str; 3] {
    [&path.cloud.site.bootstrap, &path.cloud.site.registry, topic]
}

async fn python(path: &Path, topic: &str) -> anyhow::Result<Value> {
    let requirements = ["confluent-kafka[avro,schemaregistry]==2.11.1"];
    let packages = python_packages("confluent-kafka", &requirements, &[]).await?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages).args(["-c", PYTHON]);
    told(command.args(arguments(path, topic))).await
}

async fn java(path: &Path, topic: &str) -> anyhow::Result<Value> {
    let artifacts = [
        "org.apache.kafka:kafka-clients:4.3.1",
        "org.apache.avro:avro:1.12.1",
        "org.slf4j:slf4j-nop:2.0.17",
    ];
    let class_path = java_program("avro-reader", "Reader", JAVA, &artifacts).await?;
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", &class_path]);
    told(command.arg("Reader").args(arguments(path, topic))).await
}

/// The line of JSON that a program ends with.
async fn told(command: &mut Command) -> anyhow::Result<Value> {
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| {
        let program = File::new(command.as_std().get_program()).display();
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{program} ended ({}): {text}{said}", output.status)
    })
}
