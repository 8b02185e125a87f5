//! A client that sends exactly what it is told, which no polite client does.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, CreateTopicsRequest, FetchRequest, FetchResponse, InitProducerIdRequest,
        ListOffsetsRequest, MetadataRequest, ProduceRequest, RequestHeader, ResponseHeader,
        TopicName,
        create_topics_request::CreatableTopic,
        fetch_request::{FetchPartition, FetchTopic},
        fetch_response::PartitionData,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
        produce_response::PartitionProduceResponse,
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::PATIENCE;

/// One connection.
pub(crate) struct Raw {
    stream: TcpStream,
    correlation_id: i32,
}

impl Raw {
    pub(crate) async fn connect(bootstrap: &str) -> Self {
        let stream = TcpStream::connect(bootstrap).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            correlation_id: 0,
        }
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.answer::<R>(version).await
    }

    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut frame = BytesMut::new();
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("raw")));
        header
            .encode(&mut frame, R::header_version(version))
            .unwrap();
        request.encode(&mut frame, version).unwrap();
        self.send_frame(&frame).await;
    }

    pub(crate) async fn send_frame(&mut self, frame: &[u8]) {
        let mut bytes = BytesMut::new();
        bytes.put_i32(frame.len() as i32);
        bytes.put_slice(frame);
        self.send_bytes(&bytes).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn answer<R: Request>(&mut self, version: i16) -> R::Response {
        let mut frame = self
            .frame()
            .await
            .expect("the broker closed the connection");
        let header =
            ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation_id);
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(
            !frame.has_remaining(),
            "{} bytes follow the answer",
            frame.remaining()
        );
        response
    }

    /// The next frame; `None` when the broker closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.stream.read_i32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("the broker neither answered nor closed")
    }

    pub(crate) async fn create_topic(&mut self, topic: &str, partitions: i32) {
        let asked = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![asked])
            .with_timeout_ms(30_000);
        let response = self.call(5, &request).await;
        assert_eq!(
            response.topics[0].error_code, 0,
            "{:?}",
            response.topics[0].error_message
        );
        // Apache Kafka's brokers learn of a topic a moment after its controller made it.
        loop {
            let ask = MetadataRequestTopic::default().with_name(Some(name(topic)));
            let request = MetadataRequest::default()
                .with_topics(Some(vec![ask]))
                .with_allow_auto_topic_creation(false);
            let found = self.call(9, &request).await;
            if found.topics[0].error_code == 0
                && found.topics[0].partitions.iter().all(|p| p.error_code == 0)
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn producer_id(&mut self) -> i64 {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(0);
        loop {
            let response = self.call(4, &request).await;
            // Apache Kafka's coordinator loads when it is first asked.
            if !matches!(response.error_code, 14..=16) {
                assert_eq!(response.error_code, 0);
                return response.producer_id.0;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Produces bytes as one partition's records.
    pub(crate) async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> PartitionProduceResponse {
        let data = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(records));
        let topic = TopicProduceData::default()
            .with_name(name(topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        self.call(9, &request)
            .await
            .responses
            .remove(0)
            .partition_responses
            .remove(0)
    }

    pub(crate) async fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        max_bytes: i32,
    ) -> PartitionData {
        let request = fetch_request(topic, partition, offset, max_bytes, 0);
        data_of(self.call(11, &request).await)
    }

    /// Offset and timestamp by time (or -1 latest, -2 earliest, -3 the largest timestamp's).
    pub(crate) async fn offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> (i64, i64) {
        let ask = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![ask]);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![topic]);
        let response = self.call(7, &request).await;
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.error_code, 0);
        (found.offset, found.timestamp)
    }
}

pub(crate) fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

pub(crate) fn fetch_request(
    topic: &str,
    partition: i32,
    offset: i64,
    max_bytes: i32,
    wait_ms: i32,
) -> FetchRequest {
    let ask = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(max_bytes);
    let topic = FetchTopic::default()
        .with_topic(name(topic))
        .with_partitions(vec![ask]);
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

pub(crate) fn data_of(mut response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, 0);
    response.responses.remove(0).partitions.remove(0)
}

/// A record batch of format 2, uncompressed, checksum included.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) values: Vec<Vec<u8>>,
    pub(crate) timestamps: Vec<i64>,
    pub(crate) producer: (i64, i16, i32),
}

impl Batch {
    pub(crate) fn of(values: &[&str]) -> Self {
        let now = crate::support::now_ms();
        Self {
            values: values
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect(),
            timestamps: vec![now; values.len()],
            producer: (-1, -1, -1),
        }
    }

    pub(crate) fn by(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    pub(crate) fn at(mut self, timestamps: &[i64]) -> Self {
        self.timestamps = timestamps.to_vec();
        self
    }

    pub(crate) fn bytes(&self) -> Bytes {
        let base = self.timestamps[0];
        let mut records = BytesMut::new();
        for (index, (value, timestamp)) in self.values.iter().zip(&self.timestamps).enumerate() {
            let mut record = BytesMut::new();
            record.put_u8(0);
            varint(&mut record, timestamp - base);
            varint(&mut record, index as i64);
            varint(&mut record, -1);
            varint(&mut record, value.len() as i64);
            record.put_slice(value);
            varint(&mut record, 0);
            varint(&mut records, record.len() as i64);
            records.put_slice(&record);
        }
        let mut covered = BytesMut::new();
        covered.put_i16(0);
        covered.put_i32(self.values.len() as i32 - 1);
        covered.put_i64(base);
        covered.put_i64(*self.timestamps.iter().max().unwrap());
        covered.put_i64(self.producer.0);
        covered.put_i16(self.producer.1);
        covered.put_i32(self.producer.2);
        covered.put_i32(self.values.len() as i32);
        covered.put_slice(&records);
        let mut batch = BytesMut::new();
        batch.put_i64(0);
        batch.put_i32(covered.len() as i32 + 9);
        batch.put_i32(-1);
        batch.put_i8(2);
        batch.put_u32(crc32c::crc32c(&covered));
        batch.put_slice(&covered);
        batch.freeze()
    }
}

fn varint(buffer: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

/// A request header for a frame that is made by hand.
pub(crate) fn header(api: ApiKey, version: i16) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i16(api as i16);
    frame.put_i16(version);
    frame.put_i32(1);
    frame.put_i16(-1);
    frame
}
