//! Which requests are understood, and how one is read safely.

pub(crate) mod shape;

use bytes::{Buf, Bytes};
use kafka_protocol::{
    messages::{ApiKey, RequestHeader},
    protocol::Decodable,
};
use thiserror::Error;

/// The APIs and versions spoken.
///
/// Lower ends reach back to what the oldest supported clients use (Kafka 4 clients start higher, KIP-896); upper ends
/// are what the codec and this broker's features cover. Produce is announced from 0 though 0–2 are refused, as Kafka 4
/// does: older librdkafka takes it for the sign that compression works.
pub(crate) const APIS: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 12),
    (ApiKey::Fetch, 4, 17),
    (ApiKey::ListOffsets, 1, 9),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::FindCoordinator, 0, 5),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::DescribeLogDirs, 1, 4),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeCluster, 0, 2),
];

/// The lowest Produce version that carries message format 2.
const PRODUCE_FROM: i16 = 3;

/// Why a request can't be read.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error("a request of {0} bytes has no header")]
    Short(usize),
    #[error("API {0} is not supported by this broker")]
    Api(i16),
    #[error("version {version} of {api:?} is not supported by this broker")]
    Version { api: ApiKey, version: i16 },
    #[error(
        "Produce version {0} carries message formats before 2, which this broker does not store: use a client made for Kafka 0.11 or later"
    )]
    OldProduce(i16),
    #[error("the body of {api:?} version {version} is malformed: {reason}")]
    Body {
        api: ApiKey,
        version: i16,
        reason: String,
    },
    #[error("the broker is stopping")]
    Stopping,
    #[error("a produce request that wants no answer could not be stored")]
    Unanswerable,
}

/// What every request starts with.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: String,
}

/// A request as far as it was read.
#[derive(Debug)]
pub(crate) enum Incoming {
    Request(Header, Bytes),
    /// ApiVersions in a version we don't have: the client is told ours in version 0, which all understand (KIP-511).
    UnknownApiVersions {
        correlation_id: i32,
    },
}

/// Reads a request's header. `frame` is what follows the four length bytes.
pub(crate) fn read_header(mut frame: Bytes) -> Result<Incoming, RequestError> {
    if frame.len() < 8 {
        return Err(RequestError::Short(frame.len()));
    }
    let mut start = frame.slice(0..8);
    let (key, version, correlation_id) = (start.get_i16(), start.get_i16(), start.get_i32());
    let api = ApiKey::try_from(key).map_err(|()| RequestError::Api(key))?;
    let (_, low, high) = *APIS
        .iter()
        .find(|(known, ..)| *known == api)
        .ok_or(RequestError::Api(key))?;
    if !(low..=high).contains(&version) {
        return match api {
            ApiKey::ApiVersions => Ok(Incoming::UnknownApiVersions { correlation_id }),
            _ => Err(RequestError::Version { api, version }),
        };
    }
    if api == ApiKey::Produce && version < PRODUCE_FROM {
        return Err(RequestError::OldProduce(version));
    }
    let body = |reason: String| RequestError::Body {
        api,
        version,
        reason,
    };
    let flexible = api.request_header_version(version);
    let header =
        RequestHeader::decode(&mut frame, flexible).map_err(|error| body(error.to_string()))?;
    let client_id = header
        .client_id
        .map(|id| id.chars().take(255).collect())
        .unwrap_or_default();
    Ok(Incoming::Request(
        Header {
            api,
            version,
            correlation_id,
            client_id,
        },
        frame,
    ))
}

/// Reads a request's body, after checking that its arrays are as long as they say and hold at most `max_elements`.
pub(crate) fn read_body<T: Decodable>(
    header: &Header,
    mut body: Bytes,
    max_elements: usize,
) -> Result<T, RequestError> {
    let (api, version) = (header.api, header.version);
    let malformed = |reason: String| RequestError::Body {
        api,
        version,
        reason,
    };
    shape::check(api, version, &body, max_elements)
        .map_err(|error| malformed(error.to_string()))?;
    T::decode(&mut body, version).map_err(|error| malformed(error.to_string()))
}

/// Reads a request of any kind and drops it: what fuzzing and the layouts' test call.
pub(crate) fn decode_any(
    header: &Header,
    body: Bytes,
    max_elements: usize,
) -> Result<(), RequestError> {
    use kafka_protocol::messages as m;
    macro_rules! any {
        ($($api:ident => $request:ident,)*) => {
            match header.api {
                $(ApiKey::$api => read_body::<m::$request>(header, body, max_elements).map(|_| ()),)*
                other => Err(RequestError::Api(other as i16)),
            }
        };
    }
    any! {
        Produce => ProduceRequest,
        Fetch => FetchRequest,
        ListOffsets => ListOffsetsRequest,
        Metadata => MetadataRequest,
        OffsetCommit => OffsetCommitRequest,
        OffsetFetch => OffsetFetchRequest,
        FindCoordinator => FindCoordinatorRequest,
        JoinGroup => JoinGroupRequest,
        Heartbeat => HeartbeatRequest,
        LeaveGroup => LeaveGroupRequest,
        SyncGroup => SyncGroupRequest,
        DescribeGroups => DescribeGroupsRequest,
        ListGroups => ListGroupsRequest,
        ApiVersions => ApiVersionsRequest,
        CreateTopics => CreateTopicsRequest,
        DeleteTopics => DeleteTopicsRequest,
        DeleteRecords => DeleteRecordsRequest,
        InitProducerId => InitProducerIdRequest,
        OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
        DescribeConfigs => DescribeConfigsRequest,
        AlterConfigs => AlterConfigsRequest,
        DescribeLogDirs => DescribeLogDirsRequest,
        CreatePartitions => CreatePartitionsRequest,
        DeleteGroups => DeleteGroupsRequest,
        IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
        OffsetDelete => OffsetDeleteRequest,
        DescribeCluster => DescribeClusterRequest,
    }
}
