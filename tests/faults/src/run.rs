use std::time::Duration;

use kafka::{Cluster, OutRecord, Producer, ProducerSettings};
use records::{SchemaId, frame};
use tokio::time::{Instant, sleep};

use crate::load::{Account, Load};
use crate::verdict::Cloud;
use crate::{Path, Plan, Verdict, copies, others_read_the_same, topic};

/// How long and with what.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub seed: u64,
    /// How long faults happen; what follows takes a minute or two more.
    pub lasting: Duration,
    pub devices: usize,
}

/// After the last fault all must be there within this.
const SETTLING: Duration = Duration::from_secs(180);

/// One run: load, faults, poison, and the count.
///
/// # Errors
/// When a part can't be started.
pub async fn run(settings: Settings) -> anyhow::Result<Verdict> {
    let mut path = Path::start().await?;
    let mut load = Load::start(path.coap, &path.cloud.site, settings.devices);
    // Everything flows before anything fails.
    sleep(Duration::from_secs(3)).await;
    let mut verdict = Verdict {
        seed: settings.seed,
        ..Verdict::default()
    };
    let end = Instant::now() + settings.lasting;
    let mut plan = Plan::new(settings.seed);
    poison(&path).await;
    while Instant::now() < end {
        let fault = plan.next().expect("a plan goes on for ever");
        sleep(fault.after).await;
        println!("{fault:?}");
        for part in &fault.parts {
            path.kill(*part);
            *verdict.kills.entry(*part).or_default() += 1;
        }
        sleep(fault.away).await;
        for part in fault.parts {
            path.revive(part).await?;
        }
    }
    path.ready().await?;
    let settling = Instant::now();
    let asked = load.quiet().await;
    // First the replies, while the devices are there to be asked; then what these have been acknowledged.
    let _ = settled(&path, &asked, settling).await;
    let account = load.stop(asked).await;
    let cloud = settled(&path, &account, settling).await;
    verdict.settled_s = settling.elapsed().as_secs_f64();
    cloud.judge(&account, &mut verdict);
    if verdict.dead_letters < POISONED {
        verdict.faults.push(format!(
            "{} of {POISONED} poisoned records became dead letters",
            verdict.dead_letters
        ));
    }
    verdict.faults.extend(copied(&path).await?);
    if let Err(error) = others_read_the_same(&path).await {
        verdict.faults.push(format!("{error:#}"));
    }
    if !verdict.is_good() {
        println!("{}", path.logs());
    }
    Ok(verdict)
}

/// What the cloud has, once nothing is missing, or it took too long.
async fn settled(path: &Path, account: &Account, since: Instant) -> Cloud {
    loop {
        let cloud = Cloud::read(path).await;
        let enough = cloud.missing(account).is_empty() && cloud.dead_letters.len() >= POISONED;
        if enough || since.elapsed() > SETTLING {
            return cloud;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What the flows did otherwise than they should, once there is nothing, or it took too long: values that no device was
/// told of may still be on their way.
async fn copied(path: &Path) -> anyhow::Result<Vec<String>> {
    let since = Instant::now();
    loop {
        let differences = copies::differences(path, &unknown()).await?;
        if differences.is_empty() || since.elapsed() > SETTLING {
            return Ok(differences);
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Poisoned records that someone must put aside: what is no Avro at all goes through a mirror as it is, and only the
/// server, who must understand requests, can't take it; a schema that nobody knows stops at the mirror.
const POISONED: usize = 5;

/// A record of a schema that nobody knows.
fn unknown() -> Vec<u8> {
    frame::join(SchemaId(987_654), b"unknown")
}

/// One record that is not Avro and one whose schema nobody knows, on each topic where it begins.
async fn poison(path: &Path) {
    let unknown = unknown();
    for (site, name) in [
        (&path.cloud.site, "management.req"),
        (&path.edge.site, "management.rep"),
        (&path.edge.site, "observations"),
        (&path.edge.site, "registrations"),
    ] {
        let cluster = Cluster::new(&site.bootstrap, None).unwrap();
        let producer = Producer::new(&cluster, &ProducerSettings::default()).unwrap();
        let topic = topic(name);
        for value in [b"this is not Avro".as_slice(), &unknown] {
            let record = OutRecord {
                topic: &topic,
                value: Some(value),
                ..OutRecord::default()
            };
            producer.send(record).await.unwrap().await.unwrap();
        }
    }
}
