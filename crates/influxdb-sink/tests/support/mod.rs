//! The time-series sink at a site, and its records.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::path::PathBuf;

use records::{
    AvroResource, ReadContent, RequestKind, ResourceKind, ResourceType, ResourceValue, Response,
    ResponseBody, ResponseCode, ResponseObserve, ResponsePayload,
};
use serde_json::{Value, json};
use service::Context;
use site::{Connectors, Site};

use influxdb_sink::{Args, bind};

/// The sink as a service, with no connectors.
pub async fn start(site: &Site) -> anyhow::Result<Connectors> {
    start_with(site, &[]).await
}

/// The same with these connectors from the start.
pub async fn start_with(site: &Site, connectors: &[PathBuf]) -> anyhow::Result<Connectors> {
    let args = Args {
        connect: Connectors::args(site, connectors),
        influx_url: None,
        influx_username: None,
        influx_password: None,
        influx_token: None,
        influx_tls: Default::default(),
    };
    let context = Context::detached();
    let server = bind(&args, &context).await?;
    Connectors::start(server, context, usual_config()).await
}

fn usual_config() -> Value {
    json!({
        "connector.class": "com.datamountaineer.streamreactor.connect.influx.InfluxSinkConnector",
        "topics": "iot.demo.observations,iot.demo.management.rep",
        "connect.influx.retry.interval": "200",
    })
}

pub fn resource(path: &str, r#type: ResourceType, value: ResourceValue) -> AvroResource {
    let id = path.rsplit('/').next().unwrap_or("0").parse().unwrap_or(0);
    AvroResource {
        id,
        path: path.to_owned(),
        kind: ResourceKind::SingleResource,
        r#type,
        value,
    }
}

fn payload(kind: RequestKind, body: ResponseBody) -> ResponsePayload {
    ResponsePayload {
        code: ResponseCode::Content,
        kind,
        body: Some(body),
    }
}

/// A notification of one number.
pub fn observed(ep: &str, path: &str, timestamp: i64, value: f64) -> ResponseObserve {
    let resource = resource(path, ResourceType::Float, ResourceValue::Double(value));
    observed_body(ep, path, timestamp, ReadContent::Resource(resource))
}

pub fn observed_body(
    ep: &str,
    path: &str,
    timestamp: i64,
    content: ReadContent,
) -> ResponseObserve {
    ResponseObserve {
        ticket: "ticket#1".to_owned(),
        observation_id: "a1b2c3d4".to_owned(),
        server_id: "demo".to_owned(),
        ep: ep.to_owned(),
        path: path.to_owned(),
        timestamp,
        rep: payload(RequestKind::Observe, ResponseBody::Read(content)),
    }
}

/// A reply to a request.
pub fn replied(
    ep: &str,
    path: &str,
    timestamp: i64,
    kind: RequestKind,
    body: ResponseBody,
) -> Response {
    Response {
        ticket: "ticket#2".to_owned(),
        server_id: "demo".to_owned(),
        ep: ep.to_owned(),
        path: path.to_owned(),
        timestamp,
        rep: payload(kind, body),
    }
}

pub const OBSERVATIONS: &str = "iot.demo.observations";
pub const REPLIES: &str = "iot.demo.management.rep";
