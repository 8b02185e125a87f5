use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether a service can do its work, as a set of named conditions with a reason for each that fails.
///
/// A service is ready when every condition holds. It starts with the condition `startup` failing,
/// until [`Health::set_ready`].
#[derive(Clone, Debug)]
pub struct Health {
    failing: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Default for Health {
    fn default() -> Self {
        let failing = BTreeMap::from([(STARTUP, "still starting".to_owned())]);
        Self {
            failing: Arc::new(Mutex::new(failing)),
        }
    }
}

const STARTUP: &str = "startup";

impl Health {
    /// The service has started: from here on only its conditions count.
    pub fn set_ready(&self) {
        self.lock().remove(STARTUP);
    }

    /// The service as a whole can't work, for a reason that is not one of its conditions.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.lock().insert(STARTUP, reason.into());
    }

    /// A named part of the service's health, such as `kafka` or `database`.
    pub fn condition(&self, name: &'static str) -> Condition {
        Condition {
            name,
            health: self.clone(),
        }
    }

    /// What fails now and why; empty when the service is ready.
    pub fn failing(&self) -> BTreeMap<&'static str, String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One named condition of a service's [`Health`].
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

impl Condition {
    /// It holds; logs the recovery when it did not hold before.
    pub fn ok(&self) {
        if self.health.lock().remove(self.name).is_some() {
            tracing::info!(condition = self.name, "recovered");
        }
    }

    /// It fails, and why; logs the first failure and each new reason.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let before = self.health.lock().insert(self.name, reason.clone());
        if before.as_deref() != Some(reason.as_str()) {
            tracing::warn!(condition = self.name, %reason, "not ready");
        }
    }
}
