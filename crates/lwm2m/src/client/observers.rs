//! When to tell an observer of a change (TS 1.1 core, section 5.1.2 and table 5.1.2-2).

use std::time::{Duration, Instant};

use lwm2m_codec::{Attributes, ContentFormat};
use lwm2m_model::ObjectPath;

use crate::Target;

/// Somebody who asked to be told of changes at a path, or at one of several.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    pub(super) target: Target,
    /// What was asked for, `None` for the default.
    pub(super) accept: Option<ContentFormat>,
    /// One for each path: what is worth telling at one of them, and when, is told with all of them.
    pub(super) parts: Vec<Part>,
}

/// A path that is observed.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: ObjectPath,
    last_sent: Instant,
    /// The number that was last sent, where the path has one number.
    last_number: Option<f64>,
    /// A change waits for `pmin` to be over.
    changed: bool,
    last_evaluated: Option<Instant>,
    /// A change waits to be looked at until `epmin` is over.
    unevaluated: bool,
}

impl Observer {
    /// An observer that has just been told what is there; `numbers` by path, where it has one number.
    pub(super) fn new(
        target: Target,
        accept: Option<ContentFormat>,
        now: Instant,
        numbers: impl Fn(&ObjectPath) -> Option<f64>,
    ) -> Self {
        let parts = target.paths().iter().map(|path| Part {
            path: *path,
            last_sent: now,
            last_number: numbers(path),
            changed: false,
            last_evaluated: None,
            unevaluated: false,
        });
        Self {
            parts: parts.collect(),
            target,
            accept,
        }
    }

    /// When to notify, or to look at a change, next, as things stand.
    pub(super) fn due_at(&self, attributes: impl Fn(&ObjectPath) -> Attributes) -> Option<Instant> {
        self.parts
            .iter()
            .filter_map(|part| part.due_at(&attributes(&part.path)))
            .min()
    }

    /// Whether to notify now; looks at the changes that waited for it. `numbers`: what is there now.
    pub(super) fn is_due(
        &mut self,
        now: Instant,
        attributes: impl Fn(&ObjectPath) -> Attributes,
        numbers: impl Fn(&ObjectPath) -> Option<f64>,
    ) -> bool {
        let mut due = false;
        for part in &mut self.parts {
            let attributes = attributes(&part.path);
            if part.unevaluated && part.evaluation(&attributes).is_none_or(|at| at <= now) {
                part.evaluate(now, numbers(&part.path), &attributes);
            }
            due |= part.notification(&attributes).is_some_and(|at| at <= now);
        }
        due
    }

    pub(super) fn sent(&mut self, now: Instant, numbers: impl Fn(&ObjectPath) -> Option<f64>) {
        for part in &mut self.parts {
            part.last_sent = now;
            part.last_number = numbers(&part.path);
            part.changed = false;
            part.unevaluated = false;
        }
    }
}

impl Part {
    /// Something at the path changed; the number there, if it has one, is now `number`.
    pub(super) fn note_change(
        &mut self,
        now: Instant,
        number: Option<f64>,
        attributes: &Attributes,
    ) {
        match self.evaluation(attributes) {
            Some(at) if at > now => self.unevaluated = true,
            _ => self.evaluate(now, number, attributes),
        }
    }

    fn evaluate(&mut self, now: Instant, number: Option<f64>, attributes: &Attributes) {
        self.unevaluated = false;
        self.last_evaluated = Some(now);
        self.changed |= is_worth_telling(self.last_number, number, attributes);
    }

    /// When the next change may be looked at: `epmin` after the last one. A change is looked at when it happens, so
    /// `epmax`, the longest time until then, always holds.
    fn evaluation(&self, attributes: &Attributes) -> Option<Instant> {
        self.last_evaluated?
            .checked_add(attributes.epmin.unwrap_or_default())
    }

    fn notification(&self, attributes: &Attributes) -> Option<Instant> {
        let after = |wait: Duration| self.last_sent.checked_add(wait);
        if self.changed {
            after(attributes.pmin.unwrap_or_default())
        } else {
            attributes.effective_pmax().and_then(after)
        }
    }

    fn due_at(&self, attributes: &Attributes) -> Option<Instant> {
        let evaluation = self
            .unevaluated
            .then(|| self.evaluation(attributes))
            .flatten();
        [self.notification(attributes), evaluation]
            .into_iter()
            .flatten()
            .min()
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
