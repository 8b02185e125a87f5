//! How what was handed over is settled: acknowledgements, transactions, and what happens when a record fails.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::CommitMode;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use service::metrics::dead_letters;

use crate::offsets::Reader;
use crate::target::{self, NoTarget, SLOTS, Target, Ticket, told};
use crate::{metrics, offsets};

use super::carry::reason;
use super::epoch::{Care, Epoch, Extent, Letter, Verdict};
use super::{Halt, Lane, SILENT_AFTER, STOP_GRACE};

/// A transaction stays open this many times as long as its end takes, while there is more to copy.
const TRANSACTION_PER_END: u32 = 8;
const SHORTEST_TRANSACTION: Duration = Duration::from_millis(100);
const LONGEST_TRANSACTION: Duration = Duration::from_secs(5);
/// How long it waits before it tries again what the target refused for no fault of the record's.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(500);

impl Lane {
    /// Closes the open epoch: with transactions it is settled when this returns, else it awaits its acknowledgements.
    pub(super) fn close(&mut self) -> Result<(), Halt> {
        if self.open.is_empty() {
            return Ok(());
        }
        for touched in &mut self.open.touched {
            touched.end = self.places[touched.place].next;
        }
        if self.exactly_once {
            return self.end_transaction().map(drop);
        }
        let alone = self.open.care != Care::Together;
        let next = self.next_epoch();
        self.awaiting
            .push_back(std::mem::replace(&mut self.open, next));
        if alone {
            self.settle_awaiting()?;
        }
        Ok(())
    }

    /// Until nothing is under way.
    pub(super) fn settle(&mut self) -> Result<(), Halt> {
        self.close()?;
        self.settle_awaiting()
    }

    fn settle_awaiting(&mut self) -> Result<(), Halt> {
        while !self.awaiting.is_empty() {
            self.target.poll(Duration::from_millis(10));
            self.settle_what_can_be()?;
            self.may_go_on()?;
            self.watch_target();
        }
        Ok(())
    }

    /// Takes note of epochs that are acknowledged whole, and of records that failed.
    pub(super) fn settle_what_can_be(&mut self) -> Result<(), Halt> {
        if self.target.failed() > 0 {
            return self.recover();
        }
        while let Some(first) = self.awaiting.front() {
            if self.target.acknowledged(first.slot) < first.handed.len() {
                break;
            }
            if let Some(epoch) = self.awaiting.pop_front() {
                self.target.forget(epoch.slot);
                self.is_settled(epoch);
            }
        }
        // Seldom: it takes a lock. Without one nothing is ever acknowledged any more.
        if self.target.in_flight() > 0 && self.watch.since.elapsed() > Duration::from_secs(1) {
            self.renew_if_fatal()?;
        }
        Ok(())
    }

    fn next_epoch(&mut self) -> Epoch {
        let slot = self.next_slot;
        self.next_slot = (self.next_slot + 1) % SLOTS;
        self.target.forget(slot);
        let number = self.open.number + 1;
        match self.spare.pop() {
            Some(spare) => spare.reuse(slot, number),
            None => Epoch::new(slot, number),
        }
    }

    /// Everything of the epoch is at the target.
    fn is_settled(&mut self, epoch: Epoch) {
        for run in epoch.handed.chunk_by(|(one, _), (next, _)| one == next) {
            self.places[run[0].0].state.copy_some(run.len());
        }
        self.copied
            .inc_by((epoch.handed.len() - epoch.letters.len()) as u64);
        for letter in &epoch.letters {
            self.is_put_aside(letter);
        }
        for touched in &epoch.touched {
            self.place_is_done(touched.place, touched.end);
        }
        self.spare.push(epoch);
    }

    fn is_put_aside(&mut self, letter: &Letter) {
        let place = &self.places[letter.place];
        dead_letters(letter.reason).inc();
        tracing::warn!(
            topic = &*self.topics[place.topic].name,
            partition = place.partition,
            offset = letter.offset,
            reason = letter.reason,
            message = letter.message,
            "put aside as a dead letter"
        );
        self.verdicts.remove(&(letter.place, letter.offset));
    }

    fn place_is_done(&mut self, at: usize, done: i64) {
        let oldest_ms = self
            .awaiting
            .iter()
            .chain([&self.open])
            .flat_map(|epoch| &epoch.touched)
            .find(|touched| touched.place == at)
            .map(|touched| touched.first_ms);
        let place = &mut self.places[at];
        place.done = place.done.max(done);
        place.unsettled = place.unsettled.saturating_sub(1);
        place.state.is_done(place.done, place.last_ms, oldest_ms);
        if !self.commits.dirty.contains(&at) {
            self.commits.dirty.push(at);
        }
    }

    /// Whether it is worth waiting on.
    fn may_go_on(&mut self) -> Result<(), Halt> {
        if self.shared.switches.drops() {
            return Err(Halt::Told);
        }
        if self.shared.switches.stops() {
            let since = *self.stopping_since.get_or_insert_with(Instant::now);
            if since.elapsed() > STOP_GRACE {
                tracing::warn!(
                    "what was under way did not end in time; it is copied again at the next start"
                );
                return Err(Halt::Told);
            }
        }
        Ok(())
    }

    /// Waits until every record handed over has its report.
    fn drain(&mut self) -> Result<(), Halt> {
        while self.target.in_flight() > 0 && self.target.fatal().is_none() {
            self.target.poll(Duration::from_millis(5));
            self.may_go_on()?;
            self.watch_target();
        }
        Ok(())
    }

    pub(super) fn begin(&mut self) -> Result<(), Halt> {
        for _ in 0..2 {
            match self.target.begin() {
                Ok(()) => {
                    self.open.in_transaction = true;
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(
                        error = told(&error),
                        "no transaction begins; a new client is made"
                    );
                    self.renew()?;
                }
            }
        }
        Err(Halt::Broken(anyhow::anyhow!(
            "the target's transactions can't be used by a new client either"
        )))
    }

    /// Source offsets join the records, then all of them are committed together. `false`: they were not, and reading
    /// went back.
    fn end_transaction(&mut self) -> Result<bool, Halt> {
        let ending = Instant::now();
        let topic = offsets::topic_of(&self.shared.flow.name);
        for index in 0..self.open.touched.len() {
            let touched = &self.open.touched[index];
            let place = &self.places[touched.place];
            let source_topic = &self.topics[place.topic].name;
            let key = offsets::place_key(&self.shared.source_id, source_topic, place.partition);
            let value = offsets::place_value(touched.end, place.last_ms, place.state.end());
            if !self.send_own(&topic, &key, Some(&value))? {
                return Ok(false);
            }
        }
        self.drain()?;
        if self.target.failed() > 0 || self.target.fatal().is_some() {
            return self.recover().map(|()| false);
        }
        loop {
            match self.target.commit() {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_fatal() => {
                    return self.recover().map(|()| false);
                }
                Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                    tracing::warn!(%error, "a transaction has to be aborted");
                    return self.recover().map(|()| false);
                }
                Err(KafkaError::Transaction(error)) if !error.is_retriable() => {
                    tracing::warn!(%error, "a transaction was not committed");
                    return self.recover().map(|()| false);
                }
                Err(error) => {
                    tracing::debug!(error = told(&error), "committing goes on");
                    if ending.elapsed() > SILENT_AFTER {
                        self.target_is_silent(self.part());
                    }
                    self.may_go_on()?;
                }
            }
        }
        metrics::TRANSACTIONS
            .with_label_values(&["committed"])
            .inc();
        self.transaction = (ending.elapsed() * TRANSACTION_PER_END)
            .clamp(SHORTEST_TRANSACTION, LONGEST_TRANSACTION);
        self.shared.target_health.ok(self.part());
        let next = self.next_epoch();
        let epoch = std::mem::replace(&mut self.open, next);
        self.is_settled(epoch);
        Ok(true)
    }

    fn part(&self) -> &'static str {
        if self.prompt { "prompt" } else { "bulk" }
    }

    /// Offsets of partitions that are gone at the source mean nothing for others of the same name.
    pub(super) fn forget_offsets(&mut self, gone: &[(String, i32)]) -> Result<(), Halt> {
        while !self.tell_gone(gone)? {}
        Ok(())
    }

    fn tell_gone(&mut self, gone: &[(String, i32)]) -> Result<bool, Halt> {
        self.begin()?;
        let own = offsets::topic_of(&self.shared.flow.name);
        for (topic, partition) in gone {
            let key = offsets::place_key(&self.shared.source_id, topic, *partition);
            if !self.send_own(&own, &key, None)? {
                return Ok(false);
            }
        }
        self.end_transaction()
    }

    /// A record of the mirror's own, in the transaction. `false`: it was not taken, and the transaction is aborted, as
    /// without its offsets the records would be copied again.
    fn send_own(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>) -> Result<bool, Halt> {
        let ticket = Ticket {
            slot: self.open.slot,
            index: Ticket::BOOKKEEPING,
        };
        let mut record = Target::record(topic, ticket);
        record.partition = Some(0);
        record.key = Some(key);
        record.payload = value;
        loop {
            match self.target.send(record) {
                Ok(()) => {
                    self.handed += 1;
                    return Ok(true);
                }
                Err((error, back))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                {
                    record = back;
                    self.target.poll(Duration::from_millis(2));
                    self.may_go_on()?;
                    self.watch_target();
                }
                // The client does not hold it against the transaction, which would be committed all the same.
                Err((error, _)) => {
                    tracing::warn!(%error, topic, "not handed over");
                    self.went_wrong(&error)?;
                    self.rest(TRY_AGAIN)?;
                    return Ok(false);
                }
            }
        }
    }

    /// The client did not take a record, for no fault of the record's.
    pub(super) fn went_wrong(&mut self, error: &KafkaError) -> Result<(), Halt> {
        let reason = format!(
            "the target {} does not take records: {error}",
            self.shared.target.bootstrap()
        );
        self.shared.target_health.fail(self.part(), reason);
        for touched in &mut self.open.touched {
            touched.end = self.places[touched.place].next;
        }
        self.forget_partitions();
        self.recover()
    }

    /// How many there are at the target may have changed.
    fn forget_partitions(&mut self) {
        for topic in &mut self.topics {
            topic.partitions = None;
        }
    }

    /// Some records failed, or the client: reading goes back to the first of each partition that is not at the target.
    fn recover(&mut self) -> Result<(), Halt> {
        // Whatever happens in the middle, what is under way arrives or fails before anything is sent again.
        self.drain()?;
        if self.target.fatal().is_some() {
            return self.renew();
        }
        let mut failed: HashMap<usize, (i64, i64)> = HashMap::new();
        let mut other = None;
        for failure in self.target.take_failures() {
            let Some((at, offset, care)) = self.place_of_ticket(failure.ticket) else {
                other = Some(failure.code);
                continue;
            };
            let (first, last) = failed.entry(at).or_insert((offset, offset));
            (*first, *last) = ((*first).min(offset), (*last).max(offset));
            if is_about_the_record(failure.code) {
                self.take_more_care(at, offset, care, failure.code);
            } else {
                other = Some(failure.code);
            }
        }
        if self.exactly_once {
            self.abort()?;
            metrics::TRANSACTIONS.with_label_values(&["aborted"]).inc();
        }
        self.go_back(&failed)?;
        if let Some(code) = other {
            let reason = format!(
                "the target {} does not take records: {code}; trying again",
                self.shared.target.bootstrap()
            );
            self.shared.target_health.fail(self.part(), reason);
            self.forget_partitions();
            self.rest(TRY_AGAIN)?;
        }
        Ok(())
    }

    fn place_of_ticket(&self, ticket: Ticket) -> Option<(usize, i64, Care)> {
        let mut epochs = self.awaiting.iter().chain([&self.open]);
        let epoch = epochs.find(|epoch| epoch.slot == ticket.slot)?;
        let (at, offset) = *epoch.handed.get(ticket.index)?;
        Some((at, offset, epoch.care))
    }

    /// The record was refused, perhaps for a neighbour's sake.
    fn take_more_care(&mut self, at: usize, offset: i64, care: Care, code: RDKafkaErrorCode) {
        let place = &mut self.places[at];
        match care {
            Care::Together => place.groups_until = place.groups_until.max(place.next),
            Care::InGroups => place.alone_until = place.alone_until.max(place.next),
            Care::Alone => {
                let verdict = match self.verdicts.get(&(at, offset)) {
                    // Not even as a dead letter.
                    Some(known) => Verdict {
                        extent: known.extent.less(),
                        ..known.clone()
                    },
                    None => Verdict {
                        reason: reason(Some(code)),
                        message: code.to_string(),
                        extent: Extent::Whole,
                        untimed: code == RDKafkaErrorCode::InvalidTimestamp,
                    },
                };
                self.verdicts.insert((at, offset), verdict);
            }
        }
    }

    fn abort(&mut self) -> Result<(), Halt> {
        if !self.open.in_transaction {
            return Ok(());
        }
        loop {
            match self.target.abort() {
                Ok(()) => {
                    self.open.in_transaction = false;
                    // Purged records are reported as failed.
                    self.target.poll(Duration::ZERO);
                    self.target.take_failures();
                    return Ok(());
                }
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {
                    self.target_is_silent(self.part());
                    self.may_go_on()?;
                }
                Err(error) => {
                    tracing::warn!(
                        error = told(&error),
                        "a transaction was not aborted; a new client is made"
                    );
                    return self.renew();
                }
            }
        }
    }

    /// Forgets all epochs. With transactions nothing of them is at the target; without, what did not fail is, up to
    /// the first failure of each partition.
    fn go_back(&mut self, failed: &HashMap<usize, (i64, i64)>) -> Result<(), Halt> {
        let exactly_once = self.exactly_once;
        let mut back = Vec::new();
        let next = self.next_epoch();
        let open = std::mem::replace(&mut self.open, next);
        let epochs: Vec<Epoch> = self.awaiting.drain(..).chain([open]).collect();
        for epoch in epochs {
            back.extend(epoch.touched.iter().map(|touched| touched.place));
            if !exactly_once {
                let arrived = self.target.acknowledged(epoch.slot);
                self.copied.inc_by(arrived as u64);
                // Those before a failure are not read again.
                let failed_before = |letter: &Letter| {
                    failed
                        .get(&letter.place)
                        .is_some_and(|(first, _)| *first <= letter.offset)
                };
                for letter in epoch.letters.iter().filter(|letter| !failed_before(letter)) {
                    self.is_put_aside(letter);
                }
            }
            self.target.forget(epoch.slot);
            self.spare.push(epoch);
        }
        back.sort_unstable();
        back.dedup();
        for at in back {
            let place = &mut self.places[at];
            place.unsettled = 0;
            let from = if exactly_once {
                place.done
            } else {
                failed.get(&at).map_or(place.next, |(first, _)| *first)
            };
            let rewinds = from < place.next;
            place.next = from;
            if !exactly_once {
                self.place_is_done(at, from);
            } else {
                place.state.is_done(place.done, None, None);
            }
            if rewinds {
                self.rewind(at)?;
            }
        }
        Ok(())
    }

    pub(super) fn rewind(&mut self, at: usize) -> Result<(), Halt> {
        let place = &mut self.places[at];
        place.generation += 1;
        place.epoch = 0;
        if place.gone {
            return Ok(());
        }
        self.read_on(at)
    }

    /// Reads on from where the place is; what was fetched already is forgotten.
    pub(super) fn read_on(&mut self, at: usize) -> Result<(), Halt> {
        let place = &mut self.places[at];
        place.position_holds = false;
        let from = [(&*self.topics[place.topic].name, place.partition, place.next)];
        self.source.rewind(&from).map_err(anyhow::Error::new)?;
        self.last = None;
        Ok(())
    }

    fn renew_if_fatal(&mut self) -> Result<(), Halt> {
        if self.target.fatal().is_some() {
            self.recover()?;
        }
        Ok(())
    }

    /// A new client in place of one that can't go on; with transactions, unless another process took the flow over.
    /// What the old one did is then read from the target: the outcome of a commit may have been open.
    fn renew(&mut self) -> Result<(), Halt> {
        let why = self.target.fatal().unwrap_or_default();
        tracing::warn!(why, "the target's client can't go on; a new one is made");
        let id = target::transactional_id(&self.shared, self.prompt);
        let topic = offsets::topic_of(&self.shared.flow.name);
        if let Some(id) = &id {
            loop {
                let reader = Reader::open(&self.shared.target, false);
                match reader.and_then(|reader| reader.read(&topic)) {
                    Ok(kept) => {
                        let active = kept.instances.get(id);
                        if let Some(active) =
                            active.filter(|active| **active != self.shared.instance)
                        {
                            return Err(Halt::Broken(anyhow::anyhow!(
                                "another process (started as {active}) has taken over the flow '{}'; this one ends: run one at a time",
                                self.shared.flow.name
                            )));
                        }
                        break;
                    }
                    Err(error) => {
                        self.shared
                            .target_health
                            .fail(self.part(), format!("{error:#}"));
                        if !self.shared.switches.rest(TRY_AGAIN) {
                            return Err(Halt::Told);
                        }
                    }
                }
            }
        }
        self.target = match Target::open(&self.shared, id.as_deref()) {
            Ok(target) => target,
            Err(NoTarget::Stopped) => return Err(Halt::Told),
            Err(error) => return Err(Halt::Broken(error.into())),
        };
        self.open.in_transaction = false;
        if id.is_some() {
            // Only now: taking over ended what was open.
            let kept = loop {
                // Whole: the other lane's transaction may be open, behind which this lane's offsets can't be seen.
                let reader = Reader::open(&self.shared.target, true);
                match reader.and_then(|reader| reader.read_whole(&topic, &self.shared.switches)) {
                    Ok(Some(kept)) => break kept,
                    Ok(None) => return Err(Halt::Told),
                    Err(error) => {
                        self.shared
                            .target_health
                            .fail(self.part(), format!("{error:#}"));
                        if !self.shared.switches.rest(TRY_AGAIN) {
                            return Err(Halt::Told);
                        }
                    }
                }
            };
            // What is gone may have been made anew, with places of its own.
            for place in self.places.iter_mut().filter(|place| !place.gone) {
                let topic = &self.topics[place.topic].name;
                let key = (
                    self.shared.source_id.clone(),
                    topic.to_string(),
                    place.partition,
                );
                if let Some(offset) = kept.places.get(&key) {
                    place.done = place.done.max(*offset);
                }
            }
            metrics::TRANSACTIONS.with_label_values(&["aborted"]).inc();
            self.shared.target_health.ok(self.part());
            self.go_back(&HashMap::new())
        } else {
            // Nothing is known of what the old client had under way: all of it again.
            let failed = self
                .places
                .iter()
                .enumerate()
                .map(|(at, place)| (at, (place.done, place.next)))
                .collect();
            self.shared.target_health.ok(self.part());
            self.go_back(&failed)
        }
    }

    /// The end in order: what is under way is settled, and the source's group told.
    pub(super) fn finish(&mut self) -> Result<(), Halt> {
        self.stopping_since = Some(Instant::now());
        let settled = self.settle();
        self.commit(CommitMode::Sync)?;
        settled
    }
}

/// Whether it is the record that the brokers don't take, so that waiting mends nothing. A neighbour may be meant.
fn is_about_the_record(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidDifferentRecord
    )
}
