use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ::kafka::{OutRecord, Producer, ProducerSettings};
use records::{
    AvroContentFormat, Request, RequestBody, RequestKind, RequestPayload, Response, ResponseObserve,
};

use crate::{Site, Topic};

/// An operator of one gateway's devices at a site: requests out, replies in.
pub struct Desk {
    producer: Producer,
    requests: String,
    encoder: ::kafka::RecordEncoder,
    pub replies: Topic<Response>,
}

impl Desk {
    pub async fn open(site: &Site, gateway: &str) -> Self {
        let settings = ProducerSettings {
            linger: Duration::ZERO,
            ..ProducerSettings::default()
        };
        Self {
            producer: Producer::new(&site.cluster(), &settings).unwrap(),
            requests: format!("iot.{gateway}.management.req"),
            encoder: ::kafka::RecordEncoder::new(site.registry.client()),
            replies: site.topic(&format!("iot.{gateway}.management.rep")).await,
        }
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(
        &mut self,
        ep: &str,
        ticket: &str,
        kind: RequestKind,
        path: &str,
        body: Option<RequestBody>,
    ) -> Response {
        self.send(&request(ep, ticket, kind, path, body), &[]).await;
        self.replies.find(|reply| reply.ticket == ticket).await
    }

    pub async fn send(&self, request: &Request, headers: &[(&str, &str)]) {
        let value = self.encoder.value(&self.requests, request).await.unwrap();
        self.send_raw(Some(&value), headers).await;
    }

    /// Many at once.
    pub async fn send_all(&self, requests: &[Request]) {
        let mut deliveries = Vec::with_capacity(requests.len());
        for request in requests {
            let value = self.encoder.value(&self.requests, request).await.unwrap();
            let record = OutRecord {
                topic: &self.requests,
                value: Some(&value),
                ..OutRecord::default()
            };
            deliveries.push(self.producer.send(record).await.unwrap());
        }
        for delivery in deliveries {
            delivery.await.unwrap();
        }
    }

    /// Anything at all on the topic of requests.
    pub async fn send_raw(&self, value: Option<&[u8]>, headers: &[(&str, &str)]) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec())))
            .collect();
        let record = OutRecord {
            topic: &self.requests,
            value,
            headers: &headers,
            ..OutRecord::default()
        };
        self.producer.send(record).await.unwrap().await.unwrap();
    }
}

/// The same with what devices report.
pub struct WatchingDesk {
    desk: Desk,
    pub observations: Topic<ResponseObserve>,
}

impl WatchingDesk {
    pub async fn open(site: &Site, gateway: &str) -> Self {
        Self {
            desk: Desk::open(site, gateway).await,
            observations: site.topic(&format!("iot.{gateway}.observations")).await,
        }
    }
}

impl Deref for WatchingDesk {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl DerefMut for WatchingDesk {
    fn deref_mut(&mut self) -> &mut Desk {
        &mut self.desk
    }
}

/// A request as an operator writes it, for TLV.
pub fn request(
    ep: &str,
    ticket: &str,
    kind: RequestKind,
    path: &str,
    body: Option<RequestBody>,
) -> Request {
    Request {
        server_id: "server1".to_owned(),
        ep: ep.to_owned(),
        ticket: ticket.to_owned(),
        payload: RequestPayload {
            kind,
            path: path.to_owned(),
            content_format: AvroContentFormat::Tlv,
            body,
        },
    }
}
