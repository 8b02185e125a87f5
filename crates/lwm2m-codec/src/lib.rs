//! Turns the payloads of LwM2M messages into nodes and links, and back.

mod attributes;
mod content;
mod error;
mod format;
pub mod fuzz;
mod link;
mod text;
mod tlv;

pub use attributes::{AttributeError, Attributes};
pub use content::{NewInstance, decode, decode_create, encode};
pub use error::{DecodeError, EncodeError};
pub use format::{ContentFormat, UnknownFormat};
pub use link::{
    Link, LinkError, MAX_LINK_ATTRIBUTES, MAX_LINKS, format_links, parse_links, root_path,
};
pub use text::{decode_text, encode_text};
pub use tlv::MAX_ENTRIES;
