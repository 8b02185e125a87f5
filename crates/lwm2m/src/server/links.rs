//! Lists of links, kept once for all devices that have the same.

use std::collections::HashSet;
use std::sync::Arc;

use lwm2m_codec::Link;

/// The lists in use. A fleet of like devices has few: a list is most of what a registration weighs.
#[derive(Debug, Default)]
pub(super) struct SharedLinks {
    known: HashSet<Arc<[Link]>>,
    /// How many there may be before those that nobody has any more are looked for.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 64;

impl SharedLinks {
    /// The list, shared with whoever has the same.
    pub(super) fn share(&mut self, links: Arc<[Link]>) -> Arc<[Link]> {
        if let Some(known) = self.known.get(&links) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|links| Arc::strong_count(links) > 1);
            // Twice what is left: the work is shared by as many registrations.
            self.sweep_at = (2 * self.known.len()).max(FIRST_SWEEP);
        }
        self.known.insert(Arc::clone(&links));
        links
    }
}
