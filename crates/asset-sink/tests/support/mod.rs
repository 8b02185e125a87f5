//! The asset sink at a site, and its records.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use records::{
    AvroLink, Bnd, RegistrationDelete, RegistrationNew, RegistrationResponse, RegistrationUpdate,
};
use serde_json::{Value, json};
use service::Context;
use site::{Connectors, Site};

use asset_sink::{Args, bind};

/// The sink as a service, with no connectors.
pub async fn start(site: &Site) -> anyhow::Result<Connectors> {
    start_with(site, &[]).await
}

/// The same with these connectors from the start.
pub async fn start_with(site: &Site, connectors: &[PathBuf]) -> anyhow::Result<Connectors> {
    let args = Args {
        connect: Connectors::args(site, connectors),
        graph_url: None,
        graph_user: None,
        graph_password: None,
        graph_tls: Default::default(),
    };
    let context = Context::detached();
    let server = bind(&args, &context).await?;
    Connectors::start(server, context, usual_config()).await
}

fn usual_config() -> Value {
    json!({
        "connector.class": "io.zeelos.leshan.kafka.connect.sink.asset.LeshanSinkAssetConnector",
        "topics": REGISTRATIONS,
        "tinkerpop3.retry.interval": "200",
    })
}

pub const REGISTRATIONS: &str = "iot.demo.registrations";

fn links(urls: &[&str]) -> Vec<AvroLink> {
    let link = |url: &&str| AvroLink {
        url: (*url).to_owned(),
        at: BTreeMap::new(),
    };
    urls.iter().map(link).collect()
}

pub fn registered(server: &str, ep: &str, at: i64, urls: &[&str]) -> RegistrationResponse {
    RegistrationResponse::New(RegistrationNew {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        reg_date: at,
        address: "10.0.0.7".to_owned(),
        port: 40_000,
        reg_addr: "0.0.0.0".to_owned(),
        reg_port: 5683,
        lt: 300,
        sms: None,
        ver: "1.0".to_owned(),
        bnd: Bnd::U,
        reg_id: format!("reg-{at}"),
        links: links(urls),
        attributes: None,
        root: "/".to_owned(),
        last_up: at,
    })
}

pub fn updated(server: &str, ep: &str, at: i64, urls: Option<&[&str]>) -> RegistrationResponse {
    RegistrationResponse::Update(RegistrationUpdate {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        reg_id: "reg".to_owned(),
        address: "10.0.0.8".to_owned(),
        port: 40_001,
        lt: None,
        sms: Some("+491234".to_owned()),
        bnd: None,
        links: urls.map(links),
        attributes: Some(BTreeMap::from([
            ("b".to_owned(), "UQ".to_owned()),
            ("@class".to_owned(), "V".to_owned()),
        ])),
        last_up: at,
    })
}

pub fn deleted(server: &str, ep: &str, at: i64, expired: bool) -> RegistrationResponse {
    RegistrationResponse::Delete(RegistrationDelete {
        ep: ep.to_owned(),
        server_id: server.to_owned(),
        expired,
        last_up: at,
    })
}
