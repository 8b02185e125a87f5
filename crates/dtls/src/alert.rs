//! Alerts (RFC 5246 section 7.2): what one end tells the other when it ends a session.

use std::fmt;

use openssl::error::ErrorStack;

/// Why an end was made, in the protocol's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alert(pub(crate) u8);

impl Alert {
    pub(crate) const CLOSE_NOTIFY: Alert = Alert(0);
    pub(crate) const UNEXPECTED_MESSAGE: Alert = Alert(10);
    pub(crate) const HANDSHAKE_FAILURE: Alert = Alert(40);
    pub(crate) const BAD_CERTIFICATE: Alert = Alert(42);
    pub(crate) const CERTIFICATE_EXPIRED: Alert = Alert(45);
    pub(crate) const CERTIFICATE_UNKNOWN: Alert = Alert(46);
    pub(crate) const ILLEGAL_PARAMETER: Alert = Alert(47);
    pub(crate) const UNKNOWN_CA: Alert = Alert(48);
    pub(crate) const DECODE_ERROR: Alert = Alert(50);
    pub(crate) const DECRYPT_ERROR: Alert = Alert(51);
    pub(crate) const PROTOCOL_VERSION: Alert = Alert(70);
    pub(crate) const INTERNAL_ERROR: Alert = Alert(80);
    pub(crate) const NO_RENEGOTIATION: Alert = Alert(100);

    /// Its number on the wire.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            90 => "user_canceled",
            100 => "no_renegotiation",
            110 => "unsupported_extension",
            115 => "unknown_psk_identity",
            other => return write!(f, "alert {other}"),
        };
        f.write_str(name)
    }
}

impl From<ErrorStack> for Alert {
    fn from(_: ErrorStack) -> Alert {
        Alert::INTERNAL_ERROR
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Warning = 1,
    Fatal = 2,
}

/// What an alert record holds; `None` if it is none.
pub(crate) fn parse(body: &[u8]) -> Option<(Level, Alert)> {
    match *body {
        [1, code] => Some((Level::Warning, Alert(code))),
        [2, code] => Some((Level::Fatal, Alert(code))),
        _ => None,
    }
}
