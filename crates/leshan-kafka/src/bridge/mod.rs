//! Between the engine and Kafka: events become records, records become requests.

mod convert;
mod ids;
mod replies;
mod requests;

pub(crate) use convert::{
    Cause, Datums, Refusal, notification_records, operation_of, registration_deleted,
    registration_new, registration_updated, reply_failed, reply_of, reply_refused, reply_unsent,
    sent_records,
};
pub(crate) use ids::learn_ids;
pub(crate) use replies::{HandedReply, RepliesDone, ReplyPublisher, ReplySettings};
pub(crate) use requests::{RequestIntake, unix_ms};
