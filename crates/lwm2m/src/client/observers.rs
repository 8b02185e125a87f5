//! When to tell an observer of a change (TS 1.1 core, section 5.1.2 and table 5.1.2-2).

use std::time::{Duration, Instant};

use lwm2m_codec::{Attributes, ContentFormat};
use lwm2m_model::ObjectPath;

/// Somebody who asked to be told of changes at a path.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    pub(super) path: ObjectPath,
    /// What was asked for, `None` for the default.
    pub(super) accept: Option<ContentFormat>,
    last_sent: Instant,
    /// The number that was last sent, where the path has one number.
    last_number: Option<f64>,
    /// A change waits for `pmin` to be over.
    changed: bool,
}

impl Observer {
    pub(super) fn new(
        path: ObjectPath,
        accept: Option<ContentFormat>,
        now: Instant,
        number: Option<f64>,
    ) -> Self {
        Self {
            path,
            accept,
            last_sent: now,
            last_number: number,
            changed: false,
        }
    }

    /// Something at the path changed; the number there, if it has one, is now `number`.
    pub(super) fn note_change(&mut self, number: Option<f64>, attributes: &Attributes) {
        self.changed |= is_worth_telling(self.last_number, number, attributes);
    }

    /// Whether to notify now.
    pub(super) fn is_due(&self, now: Instant, attributes: &Attributes) -> bool {
        self.due_at(attributes).is_some_and(|at| at <= now)
    }

    /// When to notify next, as things stand.
    pub(super) fn due_at(&self, attributes: &Attributes) -> Option<Instant> {
        let after = |wait: Duration| self.last_sent.checked_add(wait);
        if self.changed {
            after(attributes.pmin.unwrap_or_default())
        } else {
            attributes.effective_pmax().and_then(after)
        }
    }

    pub(super) fn sent(&mut self, now: Instant, number: Option<f64>) {
        self.last_sent = now;
        self.last_number = number;
        self.changed = false;
    }
}

/// With `gt`, `lt` or `st` only a change that crosses a bound, or is as large as the step; else any change.
fn is_worth_telling(last: Option<f64>, current: Option<f64>, attributes: &Attributes) -> bool {
    let (Some(last), Some(current)) = (last, current) else {
        return true;
    };
    if attributes.gt.is_none() && attributes.lt.is_none() && attributes.st.is_none() {
        return true;
    }
    let crosses = |bound: f64| (last > bound) != (current > bound);
    let crosses_below = |bound: f64| (last < bound) != (current < bound);
    attributes.gt.is_some_and(crosses)
        || attributes.lt.is_some_and(crosses_below)
        || attributes
            .st
            .is_some_and(|step| (current - last).abs() >= step)
}

/// `upper`'s attributes where `lower`, nearer to the value, sets none.
pub(super) fn inherit(upper: Attributes, lower: Attributes) -> Attributes {
    Attributes {
        pmin: lower.pmin.or(upper.pmin),
        pmax: lower.pmax.or(upper.pmax),
        gt: lower.gt.or(upper.gt),
        lt: lower.lt.or(upper.lt),
        st: lower.st.or(upper.st),
        epmin: lower.epmin.or(upper.epmin),
        epmax: lower.epmax.or(upper.epmax),
    }
}
