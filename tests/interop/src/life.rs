use anyhow::{Context as _, ensure};
use records::{ReadContent, RequestBody, RequestKind, ResourceValue, ResponseBody, ResponseCode};
use serde_json::json;

use crate::{Gateway, Library, Peer};

/// Longer than one block, and no two blocks alike.
fn long_text() -> String {
    (0..600).map(|n| format!("{n:05}")).collect()
}

/// What any device can be asked: told over CoAP and over DTLS with every library, through REST and through Kafka.
///
/// # Errors
/// At the first thing that is not as it must be.
pub async fn live(
    gateway: &Gateway,
    library: Library,
    uri: &str,
    endpoint: &str,
    settings: &[(&str, &str)],
) -> anyhow::Result<()> {
    let secure = uri.starts_with("coaps:");
    let rest = &gateway.rest;
    let mut peer = Peer::start(library, uri, endpoint, settings).await?;
    let registration = rest.registration(endpoint).await?;
    ensure!(registration["secure"] == secure, "{registration}");
    ensure!(registration["lifetime"] == 300, "{registration}");
    ensure!(registration["lwM2mVersion"] == "1.1", "{registration}");

    let model = match library {
        Library::LibcoapOpenSsl
        | Library::LibcoapGnuTls
        | Library::LibcoapMbedTls
        | Library::LibcoapWolfSsl => "libcoap",
        Library::Aiocoap => "aiocoap",
        Library::GoCoap => "go-coap",
        Library::Leshan => "Leshan client",
    };
    for format in ["TEXT", "TLV"] {
        let read = rest.value(&format!("{endpoint}/3/0/1"), format).await?;
        ensure!(read == model, "{format}: {read}");
    }
    let device = format!("clients/{endpoint}/3/0");
    let whole = rest.get(&format!("{device}?format=TLV")).await?;
    let members = whole["content"]["resources"].as_array();
    let members = members.with_context(|| format!("{whole}"))?;
    ensure!(
        members.iter().any(|one| one["value"] == model),
        "no {model} in {whole}"
    );
    let discovered = rest.get(&format!("{device}/discover")).await?;
    let links = discovered["objectLinks"].to_string();
    ensure!(
        links.contains("\"/3/0\"") && links.contains("\"/3/0/15\""),
        "{discovered}"
    );
    let missing = rest.get(&format!("{device}/99?format=TLV")).await?;
    ensure!(missing["status"] == "NOT_FOUND(404)", "{missing}");

    for format in ["TEXT", "TLV"] {
        let zone = format!("Europe/{format}");
        let body = json!({"id": 15, "kind": "singleResource", "type": "string", "value": zone});
        let answer = rest
            .put(&format!("{device}/15?format={format}"), &body)
            .await?;
        ensure!(answer["status"] == "CHANGED(204)", "{answer}");
        peer.line(&format!("written /3/0/15 {zone}")).await?;
        let read = rest.value(&format!("{endpoint}/3/0/15"), format).await?;
        ensure!(read == zone.as_str(), "{read}");
    }
    blocks(gateway, &mut peer, endpoint).await?;
    through_kafka(gateway, &mut peer, endpoint).await?;

    let before = rest.registration(endpoint).await?["lastUpdate"].clone();
    peer.tell("update")?;
    peer.line("updated").await?;
    let after = rest.registration(endpoint).await?["lastUpdate"].clone();
    ensure!(after.as_i64() > before.as_i64(), "{before} then {after}");
    peer.tell("deregister")?;
    rest.gone(endpoint).await
}

/// Block1 when it is written, Block2 when it is read.
async fn blocks(gateway: &Gateway, peer: &mut Peer, endpoint: &str) -> anyhow::Result<()> {
    let (rest, long) = (&gateway.rest, long_text());
    let path = format!("clients/{endpoint}/3303/0/5750?format=TEXT");
    let body = json!({"id": 5750, "kind": "singleResource", "type": "string", "value": long});
    let answer = rest.put(&path, &body).await?;
    ensure!(answer["status"] == "CHANGED(204)", "{answer}");
    peer.line(&format!("written /3303/0/5750 {long}")).await?;
    let instance = format!("clients/{endpoint}/3303/0?format=TLV");
    let whole = rest.get(&instance).await?;
    ensure!(whole.to_string().contains(&long), "{whole}");
    Ok(())
}

/// Commands and notifications on the way that the cloud uses.
async fn through_kafka(gateway: &Gateway, peer: &mut Peer, endpoint: &str) -> anyhow::Result<()> {
    let mut desk = gateway.desk().await;
    let ticket = |name: &str| format!("{endpoint}-{name}");
    let read = ticket("read");
    let reply = desk
        .ask(endpoint, &read, RequestKind::Read, "/3/0/0", None)
        .await;
    ensure!(reply.rep.code == ResponseCode::Content, "{reply:?}");

    let arguments = Some(RequestBody::Execute("0='now'".to_owned()));
    let execute = ticket("execute");
    let kind = RequestKind::Execute;
    let reply = desk.ask(endpoint, &execute, kind, "/3/0/4", arguments);
    let reply = reply.await;
    ensure!(reply.rep.code == ResponseCode::Changed, "{reply:?}");
    peer.line("executed /3/0/4 0='now'").await?;

    const TEMPERATURE: &str = "/3303/0/5700";
    let observe = ticket("observe");
    let kind = RequestKind::Observe;
    let first = desk.ask(endpoint, &observe, kind, TEMPERATURE, None).await;
    ensure!(first.rep.code == ResponseCode::Content, "{first:?}");
    for value in [21.5, 22.25, -40.0] {
        peer.tell(&format!("set {TEMPERATURE} {value}"))?;
        let seen = desk.observations.find(|one| {
            one.ticket == observe && matches!(number(one.rep.body.as_ref()), Some(n) if n == value)
        });
        let seen = seen.await;
        ensure!(seen.ep == endpoint && seen.path == TEMPERATURE, "{seen:?}");
    }
    let kind = RequestKind::ObserveCancel;
    let cancel = ticket("cancel");
    let reply = desk.ask(endpoint, &cancel, kind, TEMPERATURE, None).await;
    ensure!(reply.rep.code == ResponseCode::Deleted, "{reply:?}");
    // The device finds out by the reset that its next notification gets; what is asked behind that shows it lives on.
    peer.tell(&format!("set {TEMPERATURE} 1.5"))?;
    peer.line(&format!("value {TEMPERATURE} 1.5")).await?;
    let after = ticket("after");
    let kind = RequestKind::Read;
    let reply = desk.ask(endpoint, &after, kind, TEMPERATURE, None).await;
    ensure!(number(reply.rep.body.as_ref()) == Some(1.5), "{reply:?}");
    Ok(())
}

fn number(body: Option<&ResponseBody>) -> Option<f64> {
    match body {
        Some(ResponseBody::Read(ReadContent::Resource(resource))) => match resource.value {
            ResourceValue::Double(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}
