//! Turns the payloads of LwM2M messages into nodes and links, and back.

mod attributes;
mod below;
mod cbor;
mod cbor_value;
mod composite;
mod content;
mod error;
mod format;
pub mod fuzz;
mod json;
mod link;
mod oma_json;
mod record;
mod senml;
mod text;
mod tlv;

pub use attributes::{AttributeError, Attributes};
pub use below::Below;
pub use composite::{
    Timestamped, decode_nodes, decode_paths, decode_timestamped, encode_nodes, encode_paths,
    encode_timestamped, is_relative_time, resolve_time,
};
pub use content::{NewInstance, decode, decode_create, encode, encode_create};
pub use error::{DecodeError, EncodeError};
pub use format::{ContentFormat, UnknownFormat};
pub use link::{
    Link, LinkError, MAX_LINK_ATTRIBUTES, MAX_LINKS, format_links, parse_links, root_path,
};
pub use text::{decode_text, encode_text};
pub use tlv::MAX_ENTRIES;
