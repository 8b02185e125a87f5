//! The cipher suites: those that LwM2M names (TS 1.1 transport, section 5.2), and their kin with a full tag.

/// A cipher suite. All of them have AES with 128 bits and SHA-256 for the PRF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// TLS_PSK_WITH_AES_128_CCM_8 (RFC 6655): what every LwM2M device with a key has.
    PskAes128Ccm8,
    /// TLS_PSK_WITH_AES_128_CCM (RFC 6655).
    PskAes128Ccm,
    /// TLS_PSK_WITH_AES_128_GCM_SHA256 (RFC 5487).
    PskAes128GcmSha256,
    /// TLS_PSK_WITH_AES_128_CBC_SHA256 (RFC 5487).
    PskAes128CbcSha256,
    /// TLS_ECDHE_PSK_WITH_AES_128_CCM_8_SHA256 (RFC 8442).
    EcdhePskAes128Ccm8Sha256,
    /// TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256 (RFC 8442).
    EcdhePskAes128GcmSha256,
    /// TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256 (RFC 5489).
    EcdhePskAes128CbcSha256,
    /// TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8 (RFC 7251): what every LwM2M device with a key pair has.
    EcdheEcdsaAes128Ccm8,
    /// TLS_ECDHE_ECDSA_WITH_AES_128_CCM (RFC 7251).
    EcdheEcdsaAes128Ccm,
    /// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 (RFC 5289).
    EcdheEcdsaAes128GcmSha256,
    /// TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256 (RFC 5289).
    EcdheEcdsaAes128CbcSha256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyExchange {
    Psk,
    EcdhePsk,
    EcdheEcdsa,
}

impl KeyExchange {
    pub(crate) fn has_psk(self) -> bool {
        matches!(self, Self::Psk | Self::EcdhePsk)
    }

    pub(crate) fn has_ecdhe(self) -> bool {
        matches!(self, Self::EcdhePsk | Self::EcdheEcdsa)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    Ccm8,
    Ccm,
    Gcm,
    /// With HMAC-SHA256.
    Cbc,
}

impl CipherSuite {
    /// All of them, in the order in which a client offers them.
    pub const ALL: [CipherSuite; 11] = [
        Self::EcdheEcdsaAes128GcmSha256,
        Self::EcdheEcdsaAes128Ccm,
        Self::EcdheEcdsaAes128Ccm8,
        Self::EcdheEcdsaAes128CbcSha256,
        Self::EcdhePskAes128GcmSha256,
        Self::EcdhePskAes128Ccm8Sha256,
        Self::EcdhePskAes128CbcSha256,
        Self::PskAes128GcmSha256,
        Self::PskAes128Ccm,
        Self::PskAes128Ccm8,
        Self::PskAes128CbcSha256,
    ];

    /// Its number (IANA).
    pub fn id(self) -> u16 {
        match self {
            Self::PskAes128Ccm8 => 0xC0A8,
            Self::PskAes128Ccm => 0xC0A4,
            Self::PskAes128GcmSha256 => 0x00A8,
            Self::PskAes128CbcSha256 => 0x00AE,
            Self::EcdhePskAes128Ccm8Sha256 => 0xD003,
            Self::EcdhePskAes128GcmSha256 => 0xD001,
            Self::EcdhePskAes128CbcSha256 => 0xC037,
            Self::EcdheEcdsaAes128Ccm8 => 0xC0AE,
            Self::EcdheEcdsaAes128Ccm => 0xC0AC,
            Self::EcdheEcdsaAes128GcmSha256 => 0xC02B,
            Self::EcdheEcdsaAes128CbcSha256 => 0xC023,
        }
    }

    /// Its name (IANA).
    pub fn name(self) -> &'static str {
        match self {
            Self::PskAes128Ccm8 => "TLS_PSK_WITH_AES_128_CCM_8",
            Self::PskAes128Ccm => "TLS_PSK_WITH_AES_128_CCM",
            Self::PskAes128GcmSha256 => "TLS_PSK_WITH_AES_128_GCM_SHA256",
            Self::PskAes128CbcSha256 => "TLS_PSK_WITH_AES_128_CBC_SHA256",
            Self::EcdhePskAes128Ccm8Sha256 => "TLS_ECDHE_PSK_WITH_AES_128_CCM_8_SHA256",
            Self::EcdhePskAes128GcmSha256 => "TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256",
            Self::EcdhePskAes128CbcSha256 => "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
            Self::EcdheEcdsaAes128Ccm8 => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
            Self::EcdheEcdsaAes128Ccm => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
            Self::EcdheEcdsaAes128GcmSha256 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            Self::EcdheEcdsaAes128CbcSha256 => "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        }
    }

    pub(crate) fn from_id(id: u16) -> Option<CipherSuite> {
        Self::ALL.into_iter().find(|suite| suite.id() == id)
    }

    pub(crate) fn key_exchange(self) -> KeyExchange {
        match self {
            Self::PskAes128Ccm8
            | Self::PskAes128Ccm
            | Self::PskAes128GcmSha256
            | Self::PskAes128CbcSha256 => KeyExchange::Psk,
            Self::EcdhePskAes128Ccm8Sha256
            | Self::EcdhePskAes128GcmSha256
            | Self::EcdhePskAes128CbcSha256 => KeyExchange::EcdhePsk,
            Self::EcdheEcdsaAes128Ccm8
            | Self::EcdheEcdsaAes128Ccm
            | Self::EcdheEcdsaAes128GcmSha256
            | Self::EcdheEcdsaAes128CbcSha256 => KeyExchange::EcdheEcdsa,
        }
    }

    pub(crate) fn bulk(self) -> Bulk {
        match self {
            Self::PskAes128Ccm8 | Self::EcdhePskAes128Ccm8Sha256 | Self::EcdheEcdsaAes128Ccm8 => {
                Bulk::Ccm8
            }
            Self::PskAes128Ccm | Self::EcdheEcdsaAes128Ccm => Bulk::Ccm,
            Self::PskAes128GcmSha256
            | Self::EcdhePskAes128GcmSha256
            | Self::EcdheEcdsaAes128GcmSha256 => Bulk::Gcm,
            Self::PskAes128CbcSha256
            | Self::EcdhePskAes128CbcSha256
            | Self::EcdheEcdsaAes128CbcSha256 => Bulk::Cbc,
        }
    }
}
