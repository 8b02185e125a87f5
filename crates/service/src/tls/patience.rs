//! How long a connection of HTTP may take for what it does. The server above has no times of its own, and connections
//! have places: one that does nothing must not keep its place for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long a client may leave bytes that it asked for unread.
const STALLED: Duration = Duration::from_secs(30);
/// How long a request may take to come in, from its first byte on.
const COMING_IN: Duration = Duration::from_secs(60);
/// How long a connection may be silent between an answer and the next request, or before the first.
const BETWEEN: Duration = Duration::from_secs(75);
/// How long an answer may take: longer than any request to a device.
const ANSWERING: Duration = Duration::from_secs(660);

/// What a connection does, and by when it has to be done with it.
pub(super) struct Patience {
    does: Does,
    timer: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It has had its answer, or said nothing yet.
    Nothing { since: Instant },
    /// It says something, or waits for the answer.
    Asks { since: Instant, last: Instant },
    /// It does not take what is written.
    Stalls { since: Instant },
}

impl Does {
    fn until(self) -> Instant {
        match self {
            Self::Nothing { since } => since + BETWEEN,
            Self::Asks { last, .. } => last + ANSWERING,
            Self::Stalls { since } => since + STALLED,
        }
    }

    /// Bytes came in. `Err`: they come too slowly.
    fn read(self, now: Instant) -> Result<Self, ()> {
        match self {
            Self::Nothing { .. } => Ok(Self::Asks {
                since: now,
                last: now,
            }),
            Self::Asks { since, .. } if now - since <= COMING_IN => {
                Ok(Self::Asks { since, last: now })
            }
            Self::Asks { .. } => Err(()),
            stalls @ Self::Stalls { .. } => Ok(stalls),
        }
    }

    /// Bytes are waiting to be taken.
    fn waits(self, now: Instant) -> Self {
        match self {
            stalls @ Self::Stalls { .. } => stalls,
            _ => Self::Stalls { since: now },
        }
    }
}

impl Patience {
    pub(super) fn new() -> Self {
        let does = Does::Nothing {
            since: Instant::now(),
        };
        Self {
            does,
            timer: Box::pin(tokio::time::sleep_until(does.until())),
        }
    }

    /// After a read, which took so many bytes.
    pub(super) fn after_read(
        &mut self,
        cx: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        bytes: usize,
    ) -> Poll<io::Result<()>> {
        match read {
            Poll::Ready(Ok(())) if bytes > 0 => match self.does.read(Instant::now()) {
                Ok(does) => {
                    self.does = does;
                    read
                }
                Err(()) => Poll::Ready(Err(late("the request took too long to come in"))),
            },
            Poll::Pending if self.is_over(cx) => Poll::Ready(Err(late("nothing came in"))),
            read => read,
        }
    }

    /// After a write or a flush.
    pub(super) fn after_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => {
                self.does = self.does.waits(Instant::now());
                if self.is_over(cx) {
                    return Poll::Ready(Err(late("the answer was not taken")));
                }
                Poll::Pending
            }
            written => written,
        }
    }

    /// Bytes were written.
    pub(super) fn wrote(&mut self) {
        self.does = Does::Nothing {
            since: Instant::now(),
        };
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let until = self.does.until();
        if self.timer.deadline() != until {
            self.timer.as_mut().reset(until);
        }
        self.timer.as_mut().poll(cx).is_ready()
    }
}

fn late(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_its_time() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let silent = Does::Nothing { since: now };
        assert_eq!(silent.until(), at(75));
        // A device may take its time.
        let asks = silent.read(at(10)).unwrap();
        assert_eq!(asks.until(), at(670));
        let more = asks.read(at(70)).unwrap();
        assert_eq!(more.until(), at(730));
        // A byte now and then is no request.
        assert_eq!(more.read(at(71)), Err(()));
        // Who asks for much and reads nothing.
        let stalls = more.waits(at(80)).waits(at(90));
        assert_eq!(stalls.until(), at(110));
        assert_eq!(stalls.read(at(100)), Ok(stalls));
    }
}
