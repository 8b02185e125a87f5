//! Answers over REST that say that something is kept: given when it is.

use lwm2m::DeviceResponse;
use lwm2m::server::TooManyWindows;
use tokio::sync::oneshot;

use super::{Answer, AskError};

/// An answer that waits for this turn's commit.
pub(super) enum Told {
    /// A request was taken out of a queue.
    Cancelled(oneshot::Sender<bool>, bool),
    WindowSet(
        oneshot::Sender<Result<(), TooManyWindows>>,
        Result<(), TooManyWindows>,
    ),
    /// A device's answer: an observation may stand since then.
    Asked(Answer, Box<Result<DeviceResponse, AskError>>),
}

impl Told {
    pub(super) fn tell(self) {
        // Whoever asked may have gone away meanwhile.
        match self {
            Self::Cancelled(answer, cancelled) => {
                let _ = answer.send(cancelled);
            }
            Self::WindowSet(answer, set) => {
                let _ = answer.send(set);
            }
            Self::Asked(answer, result) => {
                let _ = answer.send(*result);
            }
        }
    }
}
