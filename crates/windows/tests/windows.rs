//! Readings come in any order; the windows say what a patient reader would have counted at the end.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use windows::{
    Added, Count, DEFAULT_GRACE, DEFAULT_MAX_OPEN, Dropped, Max, Progress, RestoreError, Settings,
    SettingsError, TumblingWindows, Window,
};

const SIZE_MS: i64 = 30_000;

fn settings(grace: Duration) -> Settings {
    Settings::new(Duration::from_millis(SIZE_MS as u64))
        .unwrap()
        .with_grace(grace)
        .unwrap()
}

fn window(start_ms: i64) -> Window {
    Window {
        start_ms,
        end_ms: start_ms + SIZE_MS,
    }
}

type Maxima = TumblingWindows<&'static str, Max<&'static str>>;

#[test]
fn every_new_maximum_is_told_with_its_record() {
    let mut maxima = Maxima::new(settings(DEFAULT_GRACE));
    let mut told = |at, value, record| match maxima.add("ep./3303/0/5700", at, (value, record)) {
        Added::Changed(window, max) => Some((window.start_ms, max.value, max.record)),
        Added::Unchanged(_) => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(told(60_001, 21.0, "first"), Some((60_000, 21.0, "first")));
    assert_eq!(told(60_002, 20.0, "colder"), None);
    assert_eq!(told(89_999, 22.5, "warmer"), Some((60_000, 22.5, "warmer")));
    assert_eq!(told(60_003, 22.5, "as warm, later"), None);
    assert_eq!(
        told(90_000, -5.0, "next window"),
        Some((90_000, -5.0, "next window"))
    );
    assert_eq!(
        told(59_999, 30.0, "late for its window"),
        Some((30_000, 30.0, "late for its window"))
    );
    assert_eq!(told(90_001, f64::NAN, "no number"), None);
    assert_eq!(told(200_000, f64::NAN, "no number in a new window"), None);
    assert_eq!(
        told(90_002, f64::INFINITY, "hot"),
        Some((90_000, f64::INFINITY, "hot"))
    );
    assert_eq!(maxima.open_count(), 3);
    assert_eq!(
        maxima
            .open()
            .map(|(_, w, _)| w.start_ms)
            .collect::<Vec<_>>(),
        [30_000, 60_000, 90_000]
    );
}

#[test]
fn keys_are_counted_apart() {
    let mut counts = TumblingWindows::<_, Count>::new(settings(DEFAULT_GRACE));
    assert_eq!(counts.add("a", 1, ()), Added::Changed(window(0), &Count(1)));
    assert_eq!(counts.add("b", 2, ()), Added::Changed(window(0), &Count(1)));
    assert_eq!(
        counts.add("a", 29_999, ()),
        Added::Changed(window(0), &Count(2))
    );
    assert_eq!(
        counts.add("a", 30_000, ()),
        Added::Changed(window(SIZE_MS), &Count(1))
    );
}

#[test]
fn windows_before_1970_are_aligned_like_those_after() {
    let mut counts = TumblingWindows::<_, Count>::new(settings(DEFAULT_GRACE));
    for (at, start_ms) in [
        (-1, -30_000),
        (-30_000, -30_000),
        (-30_001, -60_000),
        (0, 0),
    ] {
        assert_eq!(counts.window_at(at), window(start_ms), "{at}");
        assert!(
            matches!(counts.add("a", at, ()), Added::Changed(w, _) if w == window(start_ms)),
            "{at}"
        );
    }
    assert_eq!(counts.open_count(), 3);
}

#[test]
fn the_ends_of_time_are_windows_too() {
    let mut counts = TumblingWindows::<_, Count>::new(settings(Duration::ZERO));
    for at in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MIN, i64::MAX - 1] {
        counts.add("a", at, ());
    }
    assert_eq!(counts.dropped().late, 1);
    assert_eq!(counts.window_at(i64::MIN).start_ms, i64::MIN);
    assert_eq!(counts.window_at(i64::MAX).end_ms, i64::MAX);
}

/// Kafka Streams' rule: a window is over once stream time has reached its end and the grace.
#[test]
fn a_late_record_counts_until_the_grace_is_over() {
    let mut counts = TumblingWindows::<_, Count>::new(settings(Duration::from_secs(60)));
    counts.add("a", 10_000, ());
    counts.add("a", 89_999, ());
    assert_eq!(
        counts.add("a", 10_001, ()),
        Added::Changed(window(0), &Count(2)),
        "a millisecond before"
    );
    counts.add("b", 90_000, ());
    assert_eq!(counts.add("a", 10_002, ()), Added::Late(window(0)));
    assert_eq!(counts.add("a", 29_999, ()), Added::Late(window(0)));
    assert!(matches!(counts.add("a", 30_000, ()), Added::Changed(..)));
    assert_eq!(
        counts.dropped(),
        Dropped {
            late: 2,
            full: 0,
            closed_early: 0
        }
    );
    assert_eq!(
        counts.progress(),
        Progress {
            stream_time_ms: 90_000,
            closed_before_ms: 30_000
        }
    );
    assert!(
        counts.open().all(|(_, w, _)| w.start_ms >= 30_000),
        "what is closed is forgotten"
    );
}

#[test]
fn the_default_grace_is_a_day() {
    let hour_ms = 3_600_000;
    let day = Settings::new(Duration::from_secs(60)).unwrap();
    assert_eq!(
        (day.grace(), day.max_open()),
        (Duration::from_secs(86_400), DEFAULT_MAX_OPEN)
    );
    let mut counts = TumblingWindows::<_, Count>::new(day);
    counts.add("a", 24 * hour_ms, ());
    assert!(matches!(counts.add("a", 0, ()), Added::Changed(..)));
    counts.add("a", 24 * hour_ms + 60_000, ());
    assert!(matches!(counts.add("a", 0, ()), Added::Late(..)));
}

#[test]
fn when_all_windows_are_open_the_oldest_are_closed_early() {
    let mut counts =
        TumblingWindows::<_, Count>::new(settings(DEFAULT_GRACE).with_max_open(3).unwrap());
    counts.add("a", 0, ());
    counts.add("b", 0, ());
    counts.add("a", SIZE_MS, ());
    assert!(
        matches!(
            counts.add("a", SIZE_MS + 1, ()),
            Added::Changed(_, Count(2))
        ),
        "a known window needs no room"
    );
    assert!(
        matches!(counts.add("a", 2 * SIZE_MS, ()), Added::Changed(..)),
        "both of the oldest start have gone"
    );
    assert_eq!((counts.open_count(), counts.dropped().closed_early), (2, 2));
    assert_eq!(counts.progress().closed_before_ms, SIZE_MS);
    assert_eq!(
        counts.add("b", 0, ()),
        Added::Late(window(0)),
        "a window closed early never starts anew"
    );

    counts.add("b", SIZE_MS, ());
    assert_eq!(
        counts.add("c", SIZE_MS, ()),
        Added::Full(window(SIZE_MS)),
        "the newcomer is among the oldest"
    );
    assert_eq!(
        counts.dropped(),
        Dropped {
            late: 1,
            full: 1,
            closed_early: 2
        }
    );
    assert_eq!(counts.open_count(), 3);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let nanosecond = Duration::from_nanos(1);
    assert_eq!(
        Settings::new(Duration::ZERO),
        Err(SettingsError::BadSize(Duration::ZERO))
    );
    assert_eq!(
        Settings::new(nanosecond),
        Err(SettingsError::BadSize(nanosecond))
    );
    assert_eq!(
        Settings::new(Duration::MAX),
        Err(SettingsError::BadSize(Duration::MAX))
    );
    let minute = Settings::new(Duration::from_secs(60)).unwrap();
    assert_eq!(
        minute.with_grace(nanosecond),
        Err(SettingsError::BadGrace(nanosecond))
    );
    assert_eq!(minute.with_max_open(0), Err(SettingsError::NoWindows));
}

#[test]
fn state_of_another_window_size_is_not_taken() {
    let progress = Progress {
        stream_time_ms: 60_000,
        closed_before_ms: i64::MIN,
    };
    let error =
        TumblingWindows::restore(settings(DEFAULT_GRACE), progress, [("a", 45_000, Count(1))])
            .unwrap_err();
    assert_eq!(
        error,
        RestoreError::NotAStart {
            start_ms: 45_000,
            size_ms: SIZE_MS
        }
    );
}

#[test]
fn a_shorter_grace_closes_what_was_kept_for_longer() {
    let progress = Progress {
        stream_time_ms: 90_000,
        closed_before_ms: i64::MIN,
    };
    let kept = [("a", 0, Count(1)), ("a", 60_000, Count(2))];
    let mut counts = TumblingWindows::restore(settings(Duration::ZERO), progress, kept).unwrap();
    assert_eq!(counts.open_count(), 0);
    assert!(matches!(counts.add("a", 60_000, ()), Added::Late(_)));
}

/// A reading: which of five keys, when, how much.
fn readings() -> impl Strategy<Value = Vec<(u8, i64, f64)>> {
    let value =
        prop_oneof![8 => -50.0..50.0_f64, 1 => Just(f64::NAN), 1 => Just(f64::NEG_INFINITY)];
    proptest::collection::vec((0..5_u8, -400_000..400_000_i64, value), 0..300)
}

/// What a reader of the update stream, and of what is kept, has in the end.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    counts: BTreeMap<(u8, i64), u64>,
    maxima: BTreeMap<(u8, i64), f64>,
}

impl Outcome {
    fn batch(readings: &[(u8, i64, f64)]) -> Self {
        let mut outcome = Self::default();
        for (key, at, value) in readings {
            let window = (*key, at.div_euclid(SIZE_MS) * SIZE_MS);
            *outcome.counts.entry(window).or_default() += 1;
            if !value.is_nan() {
                let max = outcome.maxima.entry(window).or_insert(*value);
                *max = max.max(*value);
            }
        }
        outcome
    }
}

#[derive(Clone)]
struct Both {
    counts: TumblingWindows<u8, Count>,
    maxima: TumblingWindows<u8, Max<(u8, i64)>>,
}

impl Both {
    fn new(settings: Settings) -> Self {
        Self {
            counts: TumblingWindows::new(settings),
            maxima: TumblingWindows::new(settings),
        }
    }

    fn run(&mut self, readings: &[(u8, i64, f64)], outcome: &mut Outcome) {
        for (key, at, value) in readings {
            if let Added::Changed(window, count) = self.counts.add(*key, *at, ()) {
                outcome.counts.insert((*key, window.start_ms), count.0);
            }
            if let Added::Changed(window, max) = self.maxima.add(*key, *at, (*value, (*key, *at))) {
                assert_eq!(
                    max.record,
                    (*key, *at),
                    "the record is the one that brought the maximum"
                );
                outcome.maxima.insert((*key, window.start_ms), max.value);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// All within the grace: whatever the order, the last update of each window is the batch's result.
    #[test]
    fn any_order_within_the_grace_gives_the_batchs_result(readings in readings().prop_shuffle()) {
        let mut outcome = Outcome::default();
        let mut both = Both::new(settings(Duration::from_secs(800)));
        both.run(&readings, &mut outcome);
        prop_assert_eq!(both.counts.dropped(), Dropped::default());
        prop_assert_eq!(&outcome, &Outcome::batch(&readings));
        let open: BTreeMap<_, _> = both.counts.open().map(|(key, w, count)| ((*key, w.start_ms), count.0)).collect();
        prop_assert_eq!(open, outcome.counts);
    }

    /// With a short grace too: what is not reported as dropped is counted, and it is dropped by Kafka Streams' rule.
    #[test]
    fn what_is_late_is_dropped_and_nothing_else(readings in readings(), grace_ms in 0..300_000_u64) {
        let mut counts = TumblingWindows::<u8, Count>::new(settings(Duration::from_millis(grace_ms)));
        let (mut in_time, mut late, mut stream_time) = (Vec::new(), 0, i64::MIN);
        let mut outcome = BTreeMap::new();
        for reading in &readings {
            let (key, at, _) = *reading;
            stream_time = stream_time.max(at);
            let end = at.div_euclid(SIZE_MS) * SIZE_MS + SIZE_MS;
            if end > stream_time - grace_ms as i64 { in_time.push(*reading) } else { late += 1 }
            if let Added::Changed(window, count) = counts.add(key, at, ()) {
                outcome.insert((key, window.start_ms), count.0);
            }
        }
        prop_assert_eq!(counts.dropped(), Dropped { late, ..Dropped::default() });
        prop_assert_eq!(outcome, Outcome::batch(&in_time).counts);
    }

    /// A service keeps each change and the progress as JSON, dies, and goes on from there: nobody sees a difference.
    #[test]
    fn a_restart_changes_nothing(readings in readings(), at in any::<prop::sample::Index>(), grace_ms in 0..300_000_u64, max_open in 1..40_usize) {
        let settings = settings(Duration::from_millis(grace_ms)).with_max_open(max_open).unwrap();
        let at = at.index(readings.len() + 1);
        let mut before = Both::new(settings);
        before.run(&readings[..at], &mut Outcome::default());

        let progress = serde_json::to_string(&(before.counts.progress(), before.maxima.progress())).unwrap();
        let counts: Vec<_> = before.counts.open().map(|(k, w, c)| (*k, w.start_ms, *c)).collect();
        let maxima: Vec<_> = before.maxima.open().map(|(k, w, m)| (*k, w.start_ms, *m)).collect();
        let kept = serde_json::to_string(&(counts, maxima)).unwrap();

        let (counts_at, maxima_at): (Progress, Progress) = serde_json::from_str(&progress).unwrap();
        let (counts, maxima): (Vec<(u8, i64, Count)>, Vec<_>) = serde_json::from_str(&kept).unwrap();
        let mut after = Both {
            counts: TumblingWindows::restore(settings, counts_at, counts).unwrap(),
            maxima: TumblingWindows::restore(settings, maxima_at, maxima).unwrap(),
        };

        let (mut expected, mut outcome) = (Outcome::default(), Outcome::default());
        before.run(&readings[at..], &mut expected);
        after.run(&readings[at..], &mut outcome);
        prop_assert_eq!(outcome, expected);
        prop_assert_eq!(before.counts.progress(), after.counts.progress());
        prop_assert!(before.counts.open().eq(after.counts.open()));
        prop_assert!(before.maxima.open().eq(after.maxima.open()));
    }

    #[test]
    fn no_more_windows_are_open_than_may_be(readings in readings(), max_open in 1..20_usize) {
        let mut counts = TumblingWindows::<u8, Count>::new(settings(DEFAULT_GRACE).with_max_open(max_open).unwrap());
        let mut last = BTreeMap::new();
        for (key, at, _) in &readings {
            if let Added::Changed(window, count) = counts.add(*key, *at, ()) {
                // A window never starts anew: its counts only ever grow by one.
                let previous = last.insert((*key, window.start_ms), count.0).unwrap_or(0);
                prop_assert_eq!(count.0, previous + 1);
            }
            prop_assert!(counts.open_count() <= max_open);
            prop_assert_eq!(counts.open().count(), counts.open_count());
        }
        let dropped = counts.dropped();
        prop_assert_eq!(last.values().sum::<u64>() + dropped.late + dropped.full, readings.len() as u64);
    }
}
