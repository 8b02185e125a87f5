use coap::Token;
use serde::{Deserialize, Serialize};

use crate::Target;

/// An observation: the server asked a device to report a path, or a list of them, and wants it to go on.
///
/// Plain data that a store can keep. It outlives the registration it was made under: when the device registers anew the
/// server asks again, under the same token, and then emits this with the new registration's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The device's endpoint name.
    pub endpoint: String,
    /// The registration under which the device last confirmed the observation.
    pub registration_id: String,
    /// What is observed; stored as `path`.
    #[serde(rename = "path", with = "crate::serde_forms::text")]
    pub target: Target,
    /// The CoAP token of its notifications, the same for the observation's whole life.
    #[serde(with = "crate::serde_forms::text")]
    pub token: Token,
    /// What the observer attached to it (the ticket of the request that started it); `None` where nothing was.
    pub context: Option<String>,
    /// The content format that was asked for, as CoAP's number; `None` counts as TLV, and for
    /// a list as SenML CBOR.
    #[serde(default)]
    pub content_format: Option<u16>,
}

/// Whether notifications of an observation are to be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObservationState {
    /// The device confirmed it.
    Active,
    /// The device registered anew and is being asked again.
    Establishing,
    /// The device is gone, did not answer, or refused: it is asked again when it next registers. One that did not
    /// answer is also asked after its next update, one that refused after its next update with a list of objects.
    Dormant,
}
