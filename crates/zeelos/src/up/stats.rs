//! What passed each stage, read from the children's metrics.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use kafka::{Cluster, LagProbe, TopicMatch};
use service::metrics::Stage;

use super::plan::Plan;

/// Counts per stage over all children and their restarts.
pub(crate) struct Stats {
    client: reqwest::Client,
    /// Per child and stage: what the process before the restart had counted, and what it counts now.
    counts: HashMap<(String, Stage), Count>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    before: u64,
    now: u64,
}

impl Stats {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_millis(800))
            .build()?;
        Ok(Self {
            client,
            counts: HashMap::new(),
        })
    }

    /// Asks every child once; one that does not answer keeps its last counts.
    pub(crate) async fn refresh(&mut self, plan: &Plan) {
        let answers = join_all(plan.children.iter().map(|child| {
            let request = self.client.get(format!("http://{}/metrics", child.admin));
            async move {
                let text = request.send().await.ok()?.text().await.ok()?;
                Some((child.name.clone(), text))
            }
        }));
        for (name, text) in answers.await.into_iter().flatten() {
            for (stage, value) in stages(&text) {
                let count = self.counts.entry((name.clone(), stage)).or_default();
                if value < count.now {
                    count.before += count.now;
                }
                count.now = value;
            }
        }
    }

    /// The total of a stage.
    pub(crate) fn total(&self, stage: Stage) -> u64 {
        self.counts
            .iter()
            .filter(|((_, counted), _)| *counted == stage)
            .map(|(_, count)| count.before + count.now)
            .sum()
    }
}

fn stages(metrics: &str) -> impl Iterator<Item = (Stage, u64)> + '_ {
    metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("zeelos_records_total{stage=\"")?;
        let (label, value) = rest.split_once("\"} ")?;
        let stage = Stage::ALL
            .into_iter()
            .find(|stage| stage.as_str() == label)?;
        Some((stage, value.trim().parse().ok()?))
    })
}

/// Lags of the consumer groups behind the stages.
pub(crate) struct Lags {
    probes: Vec<(Stage, LagProbe)>,
}

impl Lags {
    pub(crate) fn new(plan: &Plan) -> anyhow::Result<Self> {
        let cloud = Cluster::new(&plan.cloud.bootstrap, None)?;
        let mut probes = Vec::new();
        for gateway in &plan.gateways {
            let (id, topics) = (&gateway.id, &gateway.topics);
            let edge = Cluster::new(&gateway.site.bootstrap, None)?;
            let requests = vec![topics.management_req.clone()];
            let mut probe = |stage, cluster: &Cluster, group: String, topics| {
                LagProbe::new(cluster, &group, topics).map(|probe| probes.push((stage, probe)))
            };
            let down = format!("mirrormaker_edge_{id}");
            probe(
                Stage::Mirror,
                &cloud,
                down,
                TopicMatch::Names(requests.clone()),
            )?;
            let up = TopicMatch::Prefix {
                prefix: format!("iot.{id}."),
                except: topics.management_req.clone(),
            };
            probe(Stage::Mirror, &edge, format!("mirrormaker_cloud_{id}"), up)?;
            probe(
                Stage::Request,
                &edge,
                id.to_string(),
                TopicMatch::Names(requests),
            )?;
            let values = vec![topics.observations.clone(), topics.management_rep.clone()];
            let sink = format!("connect-{id}_influxdb_sink");
            probe(Stage::TimeSeries, &cloud, sink, TopicMatch::Names(values))?;
            let registrations = TopicMatch::Names(vec![topics.registrations.clone()]);
            let sink = format!("connect-{id}_leshan_asset_sink");
            probe(Stage::Graph, &cloud, sink, registrations)?;
            let observations = TopicMatch::Names(vec![topics.observations.clone()]);
            let analytic = "leshan-maxper30sec-analytic".to_owned();
            probe(Stage::Analytics, &edge, analytic, observations)?;
        }
        Ok(Self { probes })
    }

    /// Records still to pass each stage; a cluster that does not answer leaves its stages out.
    pub(crate) async fn ask(&self) -> HashMap<Stage, i64> {
        let mut lags = HashMap::new();
        let answers = join_all(
            self.probes
                .iter()
                .map(|(stage, probe)| async move { (*stage, probe.lag().await) }),
        );
        for (stage, answer) in answers.await {
            if let Ok(lag) = answer {
                *lags.entry(stage).or_default() += lag;
            }
        }
        lags
    }
}
