//! Between the engine and Kafka: events become records, records become requests.

mod convert;
mod publisher;
mod requests;

pub(crate) use convert::{
    Refusal, observation_record, operation_of, registration_deleted, registration_new,
    registration_updated, reply_failed, reply_of, reply_refused, reply_unsent,
};
pub(crate) use publisher::{Handed, Progress, Publisher, Ticket};
pub(crate) use requests::{RequestIntake, unix_ms};
