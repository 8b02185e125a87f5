//! One answer for each request.

mod admin;
mod configs;
mod fetch;
mod group;
mod metadata;
mod offsets;
mod produce;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, ResponseHeader, TopicName,
        api_versions_response::ApiVersion,
    },
    protocol::{Decodable, Encodable, StrBytes},
};

pub(crate) use self::fetch::blocking;
use crate::{
    groups::Code,
    metrics,
    protocol::{APIS, Header, RequestError, read_body},
    shared::{Ends, Shared},
};

/// An answer, with its length in front; `None` where the client wants none (produce with acks=0).
pub(crate) type Answer = Option<Bytes>;

/// A request being answered.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ends: Arc<Ends>,
    pub(crate) header: Header,
    body: Bytes,
}

impl Call {
    fn version(&self) -> i16 {
        self.header.version
    }

    fn request<T: Decodable>(&self) -> Result<T, RequestError> {
        read_body(
            &self.header,
            self.body.clone(),
            self.shared.config.limits.request_elements,
        )
    }

    fn reply<T: Encodable>(&self, response: &T) -> Result<Answer, RequestError> {
        encode(
            self.header.api,
            self.header.version,
            self.header.correlation_id,
            response,
        )
        .map(Some)
    }
}

/// Answers one request.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    ends: &Arc<Ends>,
    header: Header,
    body: Bytes,
) -> Result<Answer, RequestError> {
    let call = Call {
        shared: shared.clone(),
        ends: ends.clone(),
        header,
        body,
    };
    let api = call.header.api;
    let answer = match api {
        ApiKey::Produce => produce::produce(call).await,
        ApiKey::Fetch => fetch::fetch(call).await,
        ApiKey::ListOffsets => blocking(move || offsets::list_offsets(&call)).await,
        ApiKey::OffsetForLeaderEpoch => offsets::offset_for_leader_epoch(&call),
        ApiKey::Metadata => blocking(move || metadata::metadata(&call)).await,
        ApiKey::DescribeCluster => metadata::describe_cluster(&call),
        ApiKey::FindCoordinator => metadata::find_coordinator(&call),
        ApiKey::ApiVersions => api_versions(&call),
        ApiKey::InitProducerId => produce::init_producer_id(&call),
        ApiKey::CreateTopics => blocking(move || admin::create_topics(&call)).await,
        ApiKey::DeleteTopics => blocking(move || admin::delete_topics(&call)).await,
        ApiKey::CreatePartitions => blocking(move || admin::create_partitions(&call)).await,
        ApiKey::DeleteRecords => blocking(move || admin::delete_records(&call)).await,
        ApiKey::DescribeLogDirs => admin::describe_log_dirs(&call),
        ApiKey::DescribeConfigs => configs::describe(&call),
        ApiKey::AlterConfigs => blocking(move || configs::alter(&call)).await,
        ApiKey::IncrementalAlterConfigs => {
            blocking(move || configs::alter_incrementally(&call)).await
        }
        ApiKey::JoinGroup => group::join(call).await,
        ApiKey::SyncGroup => group::sync(call).await,
        ApiKey::Heartbeat => group::heartbeat(&call),
        ApiKey::LeaveGroup => group::leave(&call),
        ApiKey::OffsetCommit => group::commit(&call),
        ApiKey::OffsetFetch => group::fetch_offsets(&call),
        ApiKey::OffsetDelete => group::delete_offsets(&call),
        ApiKey::ListGroups => group::list(&call),
        ApiKey::DescribeGroups => group::describe(&call),
        ApiKey::DeleteGroups => group::delete(&call),
        other => Err(RequestError::Api(other as i16)),
    }?;
    metrics::REQUESTS
        .with_label_values(&[&format!("{api:?}")])
        .inc();
    Ok(answer)
}

/// Tells a client that asked in a version we don't know which ones we do (KIP-511).
pub(crate) fn unknown_api_versions(correlation_id: i32) -> Result<Bytes, RequestError> {
    let response = ApiVersionsResponse::default()
        .with_error_code(Code::UnsupportedVersion.code())
        .with_api_keys(spoken());
    encode(ApiKey::ApiVersions, 0, correlation_id, &response)
}

fn api_versions(call: &Call) -> Result<Answer, RequestError> {
    let _: ApiVersionsRequest = call.request()?;
    call.reply(&ApiVersionsResponse::default().with_api_keys(spoken()))
}

fn spoken() -> Vec<ApiVersion> {
    let version = |(api, low, high): &(ApiKey, i16, i16)| {
        ApiVersion::default()
            .with_api_key(*api as i16)
            .with_min_version(*low)
            .with_max_version(*high)
    };
    APIS.iter().map(version).collect()
}

fn encode<T: Encodable>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    response: &T,
) -> Result<Bytes, RequestError> {
    let failed = |error| RequestError::Body {
        api,
        version,
        reason: format!("its answer can't be written: {error}"),
    };
    let size = response.compute_size(version).map_err(failed)?;
    let mut frame = BytesMut::with_capacity(size + 16);
    frame.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header
        .encode(&mut frame, api.response_header_version(version))
        .map_err(failed)?;
    response.encode(&mut frame, version).map_err(failed)?;
    let length = (frame.len() - 4) as u32;
    frame[0..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// The wire's error code of an outcome.
fn code_of<T>(result: &Result<T, Code>) -> i16 {
    result.as_ref().err().map_or(0, |code| code.code())
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// An error message for an operator, with the error's cause spelled out.
fn message(error: &impl std::fmt::Display) -> Option<StrBytes> {
    Some(text(error.to_string()))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}
