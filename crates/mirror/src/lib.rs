//! Carries topics between two Kafka clusters, each record once and valid at its target's schema registry.
//!
//! A gateway has two flows, whose topics are disjoint, so that nothing goes round in a loop; any other set of topics is
//! carried by `--flow` and `--topics`:
//!
//! ```text
//! cloud-to-edge   iot.<gw>.management.req                     flow mirrormaker_edge_<gw>
//! edge-to-cloud   iot.<gw>.* except iot.<gw>.management.req   flow mirrormaker_cloud_<gw>
//! ```
//!
//! The flow's name is its consumer group at the source and its transactional id at the target. Where the target has
//! transactions, records and the offsets they stand at go there in one ([`Delivery::ExactlyOnce`]), and a start goes on
//! by these offsets; else offsets are committed at the source after the acknowledgements. `docs/mirror.md` has the rest.
//!
//! # What an operator sees
//!
//! `/metrics`, which MUST NOT grow with the number of devices (no endpoint or path is a label):
//!
//! - `zeelos_records_total{stage="mirror"}`: records that are at the target; one copied twice counts twice.
//! - `zeelos_dead_letters_total{reason}`: records put aside; `reason` is `schema` (unknown, unusable or refused by the
//!   target's registry), `too_large` or `refused` (the target takes no such record).
//! - `zeelos_mirror_lag_records{topic}`, `zeelos_mirror_lag_seconds{topic}`: how many records wait at the source, and how
//!   old the oldest is. Both SHOULD be near 0; brought up to date every 1 to 2 s.
//! - `zeelos_mirror_dropped_records_total{topic,reason}`: `age`, `backlog`, `size`, `loop`, `retention`.
//! - `zeelos_mirror_delivery_info{mode}`, `zeelos_mirror_paused`, `zeelos_mirror_transactions_total{outcome}`,
//!   `zeelos_mirror_link_bytes_total`.
//!
//! `/readyz` names what fails: `source` and `target` until their clusters first answered, `target` again while it
//! acknowledges nothing for 5 s or refuses, `flow` while the source's brokers or a schema registry are away.

mod args;
mod bandwidth;
mod flow;
mod lane;
mod limits;
mod metrics;
mod offsets;
mod opening;
mod rest;
mod rewrite;
mod run;
mod scout;
mod select;
mod source;
mod state;
mod target;

pub use args::{Args, ArgsError, DeliveryChoice, Direction, FlowName, Transfer};
pub use flow::Flow;
pub use limits::{Age, LimitError, Limits, TopicLimit};
pub use rewrite::{Part, Rewrite, RewriteError};
pub use run::run;
pub use select::{OFFSETS_SUFFIX, Pattern, PatternError, TopicSet};
pub use state::Delivery;
