//! How types of other rooms are written down by a store: as the text they show.

/// Anything with `Display` and `FromStr`, as a string.
pub(crate) mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr,
        T::Err: Display,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// A peer as `{"addr": "192.0.2.7:5683", "session": 0}`.
pub(crate) mod peer {
    use std::net::SocketAddr;

    use coap::Peer;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form {
        addr: SocketAddr,
        session: u64,
    }

    pub(crate) fn serialize<S: Serializer>(peer: &Peer, serializer: S) -> Result<S::Ok, S::Error> {
        Form {
            addr: peer.addr,
            session: peer.session,
        }
        .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Peer, D::Error> {
        let form = Form::deserialize(deserializer)?;
        Ok(Peer {
            addr: form.addr,
            session: form.session,
        })
    }
}

/// Links as `[{"url": "/3/0", "attributes": [["ver", "1.1"], ["obs", null]]}]`.
pub(crate) mod links {
    use std::sync::Arc;

    use lwm2m_codec::Link;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Form {
        url: String,
        #[serde(default)]
        attributes: Vec<(String, Option<String>)>,
    }

    pub(crate) fn serialize<S: Serializer>(
        links: &[Link],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(links.iter().map(|link| Form {
            url: link.url.clone(),
            attributes: link.attributes.clone(),
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<[Link]>, D::Error> {
        let forms = Vec::<Form>::deserialize(deserializer)?;
        Ok(forms
            .into_iter()
            .map(|form| Link {
                url: form.url,
                attributes: form.attributes,
            })
            .collect())
    }
}
