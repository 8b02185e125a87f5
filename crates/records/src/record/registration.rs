use std::collections::BTreeMap;

use crate::wire::{Cursor, Datum, DecodeError, avro_enum, avro_record};

avro_enum! {
    /// `AvroBnd`: the binding modes of LwM2M 1.0.
    pub enum Bnd {
        U = "U",
        Uq = "UQ",
        S = "S",
        Sq = "SQ",
        Us = "US",
        Uqs = "UQS",
    }
}

impl Bnd {
    /// The mode for a binding as registered and, in LwM2M 1.1, the queue mode flag beside it. Letters this enum does
    /// not know (`T`, `N`, `M`) are passed over; nothing known is `U`, LwM2M's default. There is no `USQ` apart from `UQS`.
    pub fn from_binding(binding: &str, queue_mode: bool) -> Self {
        let has = |letter: char| binding.chars().any(|c| c.eq_ignore_ascii_case(&letter));
        match (has('U'), has('S'), queue_mode || has('Q')) {
            (true, true, false) => Self::Us,
            (true, true, true) => Self::Uqs,
            (false, true, false) => Self::S,
            (false, true, true) => Self::Sq,
            (_, false, false) => Self::U,
            (_, false, true) => Self::Uq,
        }
    }

    /// Whether the device sleeps between its updates.
    pub fn is_queue_mode(self) -> bool {
        matches!(self, Self::Uq | Self::Sq | Self::Uqs)
    }
}

avro_record! {
    /// `AvroLink`: a link of the registration's object list.
    pub struct AvroLink {
        /// The target, such as `/3303/0`.
        pub url: String,
        /// Its attributes; one without a value has an empty one.
        pub at: BTreeMap<String, String>,
    }
}

avro_record! {
    /// `AvroRegistrationNew`: a device has registered.
    pub struct RegistrationNew {
        pub ep: String,
        pub server_id: String,
        /// When it registered: Unix milliseconds.
        pub reg_date: i64,
        /// The device's address and port.
        pub address: String,
        pub port: i32,
        /// The server's own address and port the device registered at.
        pub reg_addr: String,
        pub reg_port: i32,
        /// Lifetime, in seconds.
        pub lt: i64,
        pub sms: Option<String>,
        /// The LwM2M version, such as `1.0`.
        pub ver: String,
        pub bnd: Bnd,
        pub reg_id: String,
        pub links: Vec<AvroLink>,
        /// What else the device sent with its registration; the binding as sent stands under `b`.
        pub attributes: Option<BTreeMap<String, String>>,
        /// The path the device's objects lie under, `/` as a rule.
        pub root: String,
        /// The last update, which at first is the registration: Unix milliseconds.
        pub last_up: i64,
    }
}

avro_record! {
    /// `AvroRegistrationUpdate`: a device has updated its registration; what it did not send is null.
    pub struct RegistrationUpdate {
        pub ep: String,
        pub server_id: String,
        pub reg_id: String,
        pub address: String,
        pub port: i32,
        /// Lifetime, in seconds.
        pub lt: Option<i64>,
        pub sms: Option<String>,
        pub bnd: Option<Bnd>,
        pub links: Option<Vec<AvroLink>>,
        pub attributes: Option<BTreeMap<String, String>>,
        /// Unix milliseconds.
        pub last_up: i64,
    }
}

avro_record! {
    /// `AvroRegistrationDelete`: a registration has ended.
    pub struct RegistrationDelete {
        pub ep: String,
        pub server_id: String,
        /// Whether its lifetime ran out; else the device deregistered.
        pub expired: bool,
        /// Unix milliseconds.
        pub last_up: i64,
    }
}

avro_enum! {
    /// `AvroRegistrationKind`
    pub enum RegistrationKind {
        New = "NEW",
        Update = "UPDATE",
        Delete = "DELETE",
    }
}

/// `AvroRegistrationResponse`: what became of a registration. The record's `kind` is the body's.
#[derive(Clone, Debug, PartialEq)]
pub enum RegistrationResponse {
    New(RegistrationNew),
    Update(RegistrationUpdate),
    Delete(RegistrationDelete),
}

impl RegistrationResponse {
    pub fn kind(&self) -> RegistrationKind {
        match self {
            Self::New(_) => RegistrationKind::New,
            Self::Update(_) => RegistrationKind::Update,
            Self::Delete(_) => RegistrationKind::Delete,
        }
    }

    pub fn ep(&self) -> &str {
        match self {
            Self::New(new) => &new.ep,
            Self::Update(update) => &update.ep,
            Self::Delete(delete) => &delete.ep,
        }
    }

    pub fn server_id(&self) -> &str {
        match self {
            Self::New(new) => &new.server_id,
            Self::Update(update) => &update.server_id,
            Self::Delete(delete) => &delete.server_id,
        }
    }

    /// The time of the event: Unix milliseconds.
    pub fn last_up(&self) -> i64 {
        match self {
            Self::New(new) => new.last_up,
            Self::Update(update) => update.last_up,
            Self::Delete(delete) => delete.last_up,
        }
    }
}

impl Datum for RegistrationResponse {
    fn write(&self, out: &mut Vec<u8>) {
        self.kind().write(out);
        crate::wire::put_long(out, self.kind() as i64);
        match self {
            Self::New(new) => new.write(out),
            Self::Update(update) => update.write(out),
            Self::Delete(delete) => delete.write(out),
        }
    }

    fn read(from: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let kind = RegistrationKind::read(from)?;
        let record = match from.branch(RegistrationKind::ALL.len())? {
            0 => Self::New(RegistrationNew::read(from)?),
            1 => Self::Update(RegistrationUpdate::read(from)?),
            _ => Self::Delete(RegistrationDelete::read(from)?),
        };
        // A record at odds with itself has no meaning a reader could choose.
        if record.kind() != kind {
            return Err(DecodeError::KindMismatch { kind: kind.name() });
        }
        Ok(record)
    }
}
