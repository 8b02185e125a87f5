use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The content formats of LwM2M by their CoAP ids (TS 1.1 core, table 7.4-1; TS 1.0 section 6.4 for the old ids).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum ContentFormat {
    /// `text/plain`
    Text = 0,
    /// `application/link-format` (RFC 6690)
    Link = 40,
    /// `application/octet-stream`
    Opaque = 42,
    /// `application/cbor`
    Cbor = 60,
    /// `application/senml+json` (RFC 8428)
    SenmlJson = 110,
    /// `application/senml+cbor`
    SenmlCbor = 112,
    /// `application/senml-etch+json` (RFC 8790)
    SenmlEtchJson = 320,
    /// `application/senml-etch+cbor`
    SenmlEtchCbor = 322,
    /// TLV under the id used before the first release of LwM2M 1.0.
    OldTlv = 1542,
    /// JSON under the id used before the first release of LwM2M 1.0.
    OldJson = 1543,
    /// `application/vnd.oma.lwm2m+tlv`
    Tlv = 11542,
    /// `application/vnd.oma.lwm2m+json`
    Json = 11543,
    /// `application/vnd.oma.lwm2m+cbor` (LwM2M 1.2)
    Lwm2mCbor = 11544,
}

impl ContentFormat {
    pub const ALL: [Self; 13] = [
        Self::Text,
        Self::Link,
        Self::Opaque,
        Self::Cbor,
        Self::SenmlJson,
        Self::SenmlCbor,
        Self::SenmlEtchJson,
        Self::SenmlEtchCbor,
        Self::OldTlv,
        Self::OldJson,
        Self::Tlv,
        Self::Json,
        Self::Lwm2mCbor,
    ];

    /// The format with this CoAP id; `None` for ids LwM2M has no use for. The ids used before the first release of
    /// LwM2M 1.0 for text (1541) and octets (1544) mean the formats that have other ids today.
    pub fn from_id(id: u16) -> Option<Self> {
        let id = match id {
            1541 => Self::Text.id(),
            1544 => Self::Opaque.id(),
            id => id,
        };
        Self::ALL.into_iter().find(|format| format.id() == id)
    }

    /// The id in CoAP's Content-Format and Accept options.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// The name the server's REST interface uses, such as `TLV`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Link => "LINK",
            Self::Opaque => "OPAQUE",
            Self::Cbor => "CBOR",
            Self::SenmlJson => "SENML_JSON",
            Self::SenmlCbor => "SENML_CBOR",
            Self::SenmlEtchJson => "SENML_ETCH_JSON",
            Self::SenmlEtchCbor => "SENML_ETCH_CBOR",
            Self::OldTlv => "OLD_TLV",
            Self::OldJson => "OLD_JSON",
            Self::Tlv => "TLV",
            Self::Json => "JSON",
            Self::Lwm2mCbor => "LWM2M_CBOR",
        }
    }

    /// Whether [`encode`](crate::encode) and [`decode`](crate::decode) handle nodes in this format.
    pub fn carries_nodes(self) -> bool {
        !matches!(
            self,
            Self::Link | Self::SenmlEtchJson | Self::SenmlEtchCbor | Self::Lwm2mCbor
        )
    }

    /// Whether values of several paths, and values with times, can stand in this format: SenML only.
    /// The ETCH formats (RFC 8790) are SenML too.
    pub fn is_composite(self) -> bool {
        matches!(
            self,
            Self::SenmlJson | Self::SenmlCbor | Self::SenmlEtchJson | Self::SenmlEtchCbor
        )
    }
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.id())
    }
}

/// A text that names no content format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no content format of LwM2M: write a name such as TLV, TEXT, OPAQUE or SENML_JSON, or its number"
)]
pub struct UnknownFormat(pub String);

impl FromStr for ContentFormat {
    type Err = UnknownFormat;

    /// Takes [`name`](Self::name) in any case, or the id.
    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        let by_id = || text.parse().ok().and_then(Self::from_id);
        let by_name = || {
            Self::ALL
                .into_iter()
                .find(|format| format.name().eq_ignore_ascii_case(text))
        };
        by_id()
            .or_else(by_name)
            .ok_or_else(|| UnknownFormat(text.chars().take(64).collect()))
    }
}
