use records::{ReadingValue, Response, ResponseBody, ResponseObserve, flatten};

/// One value of a device at one time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) ticket: String,
    /// Empty for a reply.
    pub(crate) observation_id: String,
    pub(crate) server_id: String,
    pub(crate) ep: String,
    /// The operation the record answers.
    pub(crate) kind: &'static str,
    /// The resource's own path.
    pub(crate) path: String,
    /// Unix milliseconds.
    pub(crate) time_ms: i64,
    /// Added to the time, below a millisecond.
    pub(crate) time_ns: u32,
    pub(crate) value: ReadingValue,
    /// Whether it is a generic response's message.
    pub(crate) is_message: bool,
}

/// What a record of these topics holds.
pub(crate) enum Answer {
    Reply(Response),
    Notification(ResponseObserve),
}

/// The points of a record, and how many values have no place in a database: NaN and the infinities.
pub(crate) fn points(answer: Answer, disambiguate: bool) -> (Vec<Point>, u64) {
    let observed = match answer {
        Answer::Notification(observed) => observed,
        Answer::Reply(reply) => ResponseObserve {
            ticket: reply.ticket,
            observation_id: String::new(),
            server_id: reply.server_id,
            ep: reply.ep,
            path: reply.path,
            timestamp: reply.timestamp,
            rep: reply.rep,
        },
    };
    let is_message = matches!(observed.rep.body, Some(ResponseBody::Generic(_)));
    let mut dropped = 0;
    let mut points = Vec::new();
    for reading in flatten(&observed.rep, &observed.path) {
        if matches!(reading.value, ReadingValue::Number(v) if !v.is_finite()) {
            dropped += 1;
            continue;
        }
        let time_ns = if disambiguate {
            nanoseconds(&reading.value)
        } else {
            0
        };
        points.push(Point {
            ticket: observed.ticket.clone(),
            observation_id: observed.observation_id.clone(),
            server_id: observed.server_id.clone(),
            ep: observed.ep.clone(),
            kind: reading.kind.name(),
            path: reading.path,
            time_ms: observed.timestamp,
            time_ns,
            value: reading.value,
            is_message,
        });
    }
    (points, dropped)
}

/// Nanoseconds below a millisecond that depend on nothing but the value (FNV-1a), so that two different readings of a
/// series in one millisecond are two points, and a replay gives each the same again.
fn nanoseconds(value: &ReadingValue) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match value {
        ReadingValue::Number(number) => add(&number.to_bits().to_be_bytes()),
        ReadingValue::Text(text) => add(text.as_bytes()),
        ReadingValue::Boolean(yes) => add(&[u8::from(*yes)]),
    }
    // Fold the high bits in: FNV's low bits are the weaker ones for short input.
    let folded = (hash >> 32) ^ hash;
    u32::try_from(folded % 1_000_000).unwrap_or(0)
}
