use std::collections::{BTreeMap, BTreeSet};

use kafka::{Record, RecordDecoder, SchemaRegistry};
use records::{
    AvroKey, AvroRecord, ReadContent, RequestKind, ResourceValue, Response, ResponseBody,
    ResponseCode, ResponseObserve,
};
use serde_json::{Value, json};

use crate::load::Account;
use crate::{Part, Path, topic};

/// What was counted at the cloud, beside what devices and operator know.
#[derive(Debug, Default)]
pub struct Verdict {
    pub seed: u64,
    pub kills: BTreeMap<Part, u32>,
    /// Notifications that the server acknowledged to a device.
    pub acknowledged: usize,
    /// Different observations at the cloud, and records beyond the first of each.
    pub observations: usize,
    pub repeated_observations: usize,
    /// Requests that the cloud's Kafka took, and their replies there.
    pub requests: usize,
    pub replies: usize,
    pub repeated_replies: usize,
    /// Commands that the devices executed, and replies that said that nobody knows.
    pub executed: usize,
    pub outcome_unknown: usize,
    /// Poisoned records that became dead letters, each where somebody could not take it.
    pub dead_letters: usize,
    /// How long it took after the last fault until all was there.
    pub settled_s: f64,
    /// What must not be, each with an example.
    pub faults: Vec<String>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// One object, as `make soak` prints it.
    pub fn json(&self) -> Value {
        let kills = self.kills.iter().map(|(part, n)| (format!("{part:?}"), n));
        json!({
            "ok": self.is_good(), "seed": self.seed, "kills": kills.collect::<BTreeMap<_, _>>(),
            "acknowledged": self.acknowledged, "observations": self.observations,
            "repeated_observations": self.repeated_observations, "requests": self.requests,
            "replies": self.replies, "repeated_replies": self.repeated_replies, "executed": self.executed,
            "outcome_unknown": self.outcome_unknown, "dead_letters": self.dead_letters,
            "settled_s": self.settled_s, "faults": self.faults,
        })
    }
}

/// What the cloud has.
pub(crate) struct Cloud {
    /// Values by endpoint in the order in which each came first.
    values: BTreeMap<String, Vec<i64>>,
    seen: BTreeMap<String, BTreeSet<i64>>,
    repeated_observations: usize,
    /// Replies by ticket, each different one once.
    replies: BTreeMap<String, Vec<Response>>,
    reply_records: usize,
    /// Keys that do not belong to their record.
    wrong_keys: Vec<String>,
    /// Different ones, at the cloud and at the edge, by topic and value.
    pub(crate) dead_letters: BTreeSet<(String, Vec<u8>)>,
}

impl Cloud {
    pub(crate) async fn read(path: &Path) -> Self {
        let site = &path.cloud.site;
        let kafka = site::Kafka::given(&site.bootstrap);
        let registry = SchemaRegistry::new(&site.registry).unwrap();
        let mut keys = RecordDecoder::<AvroKey>::new(registry.clone());
        let mut cloud = Self {
            values: BTreeMap::new(),
            seen: BTreeMap::new(),
            repeated_observations: 0,
            replies: BTreeMap::new(),
            reply_records: 0,
            wrong_keys: Vec::new(),
            dead_letters: BTreeSet::new(),
        };
        let mut decoder = RecordDecoder::<ResponseObserve>::new(registry.clone());
        for record in kafka.all(&topic("observations")).await {
            if let Some(seen) = decoded(&mut decoder, &record).await {
                cloud.key(&mut keys, &record, &seen.ep).await;
                cloud.observation(&seen);
            }
        }
        let mut decoder = RecordDecoder::<Response>::new(registry);
        for record in kafka.all(&topic("management.rep")).await {
            if let Some(reply) = decoded(&mut decoder, &record).await {
                cloud.key(&mut keys, &record, &reply.ep).await;
                cloud.reply_records += 1;
                let replies = cloud.replies.entry(reply.ticket.clone()).or_default();
                if !replies.contains(&reply) {
                    replies.push(reply);
                }
            }
        }
        for name in [
            "management.req.dlq",
            "observations.dlq",
            "registrations.dlq",
            "management.rep.dlq",
        ] {
            for side in [&path.cloud, &path.edge] {
                let at_side = site::Kafka::given(&side.site.bootstrap);
                for letter in at_side.all(&topic(name)).await {
                    let value = letter.value.unwrap_or_default();
                    cloud.dead_letters.insert((name.to_owned(), value));
                }
            }
        }
        cloud
    }

    async fn key(&mut self, keys: &mut RecordDecoder<AvroKey>, record: &Record, ep: &str) {
        let key = keys.decode(record.key.as_deref().unwrap_or_default()).await;
        if key.as_ref().map_or(true, |key| key.ep != ep) {
            self.wrong_keys
                .push(format!("{ep} has the key {:?}: {key:?}", record.key));
        }
    }

    fn observation(&mut self, seen: &ResponseObserve) {
        let Some(ResponseBody::Read(ReadContent::Resource(resource))) = &seen.rep.body else {
            return;
        };
        let ResourceValue::Double(value) = resource.value else {
            return;
        };
        #[allow(clippy::cast_possible_truncation, reason = "whole numbers were sent")]
        let value = value as i64;
        let known = self.seen.entry(seen.ep.clone()).or_default();
        if known.insert(value) {
            self.values.entry(seen.ep.clone()).or_default().push(value);
        } else {
            self.repeated_observations += 1;
        }
    }

    /// What is still to come.
    pub(crate) fn missing(&self, account: &Account) -> Vec<String> {
        let nothing = BTreeSet::new();
        let values = account.acknowledged.iter().flat_map(|(ep, values)| {
            let there = self.seen.get(ep).unwrap_or(&nothing);
            let missing = values.difference(there);
            missing.map(move |value| format!("{ep}'s acknowledged value {value}"))
        });
        let replies = account.asked.iter().filter_map(|(ticket, kind)| {
            let answered = self.replies.contains_key(ticket);
            (!answered).then(|| format!("the reply to {kind:?} {ticket}"))
        });
        values.chain(replies).collect()
    }

    pub(crate) fn judge(&self, account: &Account, verdict: &mut Verdict) {
        verdict.acknowledged = account.acknowledged.values().map(BTreeSet::len).sum();
        verdict.observations = self.seen.values().map(BTreeSet::len).sum();
        verdict.repeated_observations = self.repeated_observations;
        verdict.requests = account.asked.len();
        verdict.replies = self.replies.len();
        verdict.repeated_replies = self.reply_records - self.replies.len();
        verdict.executed = account.executed.len();
        verdict.dead_letters = self.dead_letters.len();
        let mut faults = Vec::new();
        let missing = self.missing(account);
        if let Some(example) = missing.first() {
            faults.push(format!("{} are missing, such as {example}", missing.len()));
        }
        for (ep, values) in &self.values {
            if let Some(pair) = values.windows(2).find(|pair| pair[0] >= pair[1]) {
                faults.push(format!("{ep}'s value {} came after {}", pair[1], pair[0]));
            }
        }
        faults.extend(self.wrong_keys.first().cloned());
        for (ticket, replies) in &self.replies {
            if let [first, second, ..] = &replies[..] {
                faults.push(format!(
                    "{ticket} has different replies: {first:?} and {second:?}"
                ));
            }
            let unknown = is_unknown(&replies[0]);
            verdict.outcome_unknown += usize::from(unknown);
            let executed = account.executed.get(ticket).copied().unwrap_or(0);
            let execute = account.asked.get(ticket) == Some(&RequestKind::Execute);
            let changed = replies[0].rep.code == ResponseCode::Changed;
            if execute && changed && executed != 1 {
                faults.push(format!(
                    "{ticket} is answered CHANGED and was executed {executed} times"
                ));
            }
            if execute && !changed && !unknown && executed != 0 {
                faults.push(format!("{ticket} was executed, and answered {replies:?}"));
            }
        }
        faults.extend(self.writes(account));
        // Both clusters have transactions.
        if verdict.repeated_replies > 0 {
            faults.push(format!(
                "{} replies are there more than once",
                verdict.repeated_replies
            ));
        }
        let twice = account.executed.iter().find(|(_, times)| **times > 1);
        if let Some((ticket, times)) = twice {
            faults.push(format!("{ticket} was executed {times} times"));
        }
        verdict.faults = faults;
    }
}

impl Cloud {
    /// A device has to have been written to once for each write that is answered CHANGED, and at most once for each of
    /// which nobody knows.
    fn writes(&self, account: &Account) -> Vec<String> {
        let mut faults = Vec::new();
        for (ep, written) in &account.written {
            let of_device = self.replies.values().flatten().filter(|reply| {
                reply.ep == *ep && account.asked.get(&reply.ticket) == Some(&RequestKind::Write)
            });
            let (mut changed, mut unknown) = (0, 0);
            for reply in of_device {
                changed += usize::from(reply.rep.code == ResponseCode::Changed);
                unknown += usize::from(is_unknown(reply));
            }
            if !(changed..=changed + unknown).contains(written) {
                faults.push(format!(
                    "{ep} was written to {written} times: {changed} are answered CHANGED, of {unknown} nobody knows"
                ));
            }
        }
        faults
    }
}

fn is_unknown(reply: &Response) -> bool {
    matches!(&reply.rep.body, Some(ResponseBody::Generic(message)) if message.starts_with("outcome unknown"))
}

/// Nothing for what is not this record, as the poisoned ones are not.
async fn decoded<T: AvroRecord>(decoder: &mut RecordDecoder<T>, record: &Record) -> Option<T> {
    let value = record.value.as_deref()?;
    decoder.decode(value).await.ok()
}
