use windows::{Added, Aggregate, Progress, RestoreError, Settings, TumblingWindows, Window};

/// What a window is kept for: a path of an endpoint, or the endpoint as a whole where `path` is empty (a reading's own
/// path never is).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SeriesKey {
    pub(crate) ep: String,
    pub(crate) path: String,
}

/// What a reading contributes to one key.
#[derive(Debug)]
pub(crate) struct Item<I> {
    /// The reading's place in its batch. Items of one reading follow one another.
    pub(crate) reading: usize,
    pub(crate) key: SeriesKey,
    pub(crate) timestamp_ms: i64,
    pub(crate) input: I,
}

/// A window with a new aggregate, and the reading that brought it.
#[derive(Debug)]
pub(crate) struct Change<A> {
    pub(crate) reading: usize,
    pub(crate) key: SeriesKey,
    pub(crate) window: Window,
    pub(crate) aggregate: A,
}

#[derive(Debug)]
pub(crate) struct Folded<A> {
    /// In the order of the readings.
    pub(crate) changes: Vec<Change<A>>,
    pub(crate) progress: Progress,
    /// Readings whose window was closed.
    pub(crate) late: u64,
}

/// Takes one partition's items into the windows `known` of them.
///
/// Stream time is the partition's own, as in Kafka Streams: the outcome depends on the partition's records alone and
/// not on how they were interleaved with others', so a batch that is delivered again comes out the same.
pub(crate) fn fold<A: Aggregate + Clone>(
    settings: Settings,
    progress: Progress,
    known: Vec<(SeriesKey, i64, A)>,
    items: Vec<Item<A::Input>>,
) -> Result<Folded<A>, RestoreError> {
    let mut open = TumblingWindows::restore(settings, progress, known)?;
    let mut changes = Vec::new();
    let mut late = 0;
    let mut last_late = None;
    for item in items {
        let key = item.key.clone();
        match open.add(item.key, item.timestamp_ms, item.input) {
            Added::Changed(window, aggregate) => changes.push(Change {
                reading: item.reading,
                key,
                window,
                aggregate: aggregate.clone(),
            }),
            Added::Unchanged(_) => {}
            Added::Late(_) | Added::Full(_) => {
                if last_late.replace(item.reading) != Some(item.reading) {
                    late += 1;
                }
            }
        }
    }
    Ok(Folded {
        changes,
        progress: open.progress(),
        late,
    })
}
