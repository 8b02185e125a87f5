//! OMA's enabler test cases for LwM2M 1.1, with Leshan's client as the device: each by its number (docs/interop.md says
//! where the numbers were read).

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use anyhow::{Context as _, ensure};
use interop::{Gateway, Library, Peer, Rest, story};
use records::{ReadContent, RequestKind, ResourceValue, ResponseBody, ResponseCode};
use serde_json::{Value, json};
use site::request;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use tokio::time::sleep;

/// The device that most cases are about; each has it to itself.
const EP: &str = "enabler";

async fn device() -> (&'static Gateway, MutexGuard<'static, Peer>) {
    static DEVICE: OnceCell<Mutex<Peer>> = OnceCell::const_new();
    let gateway = Gateway::shared().await;
    let start = async || {
        let uri = format!("coap://{}", gateway.coap);
        let peer = Peer::start(Library::Leshan, &uri, EP, &[]).await.unwrap();
        gateway.rest.registration(EP).await.unwrap();
        Mutex::new(peer)
    };
    (gateway, DEVICE.get_or_init(start).await.lock().await)
}

/// One of its own, for what changes its registration.
async fn another(
    endpoint: &str,
    settings: &[(&str, &str)],
) -> anyhow::Result<(&'static Gateway, Peer)> {
    let gateway = Gateway::shared().await;
    let uri = format!("coap://{}", gateway.coap);
    let peer = Peer::start(Library::Leshan, &uri, endpoint, settings).await?;
    Ok((gateway, peer))
}

/// `PUT` of one resource.
async fn write(
    rest: &Rest,
    path: &str,
    format: &str,
    r#type: &str,
    value: Value,
) -> anyhow::Result<()> {
    let id: u16 = path.rsplit('/').next().unwrap_or_default().parse()?;
    let body = json!({"id": id, "kind": "singleResource", "type": r#type, "value": value});
    let answer = rest
        .put(&format!("clients/{EP}/{path}?format={format}"), &body)
        .await?;
    ensure!(
        answer["status"] == "CHANGED(204)",
        "{path} as {format}: {answer}"
    );
    Ok(())
}

async fn read(rest: &Rest, path: &str, format: &str) -> anyhow::Result<Value> {
    let answer = rest
        .get(&format!("clients/{EP}/{path}?format={format}"))
        .await?;
    ensure!(
        answer["status"] == "CONTENT(205)",
        "{path} as {format}: {answer}"
    );
    Ok(answer["content"].clone())
}

/// A resource of an instance that was read.
fn member(instance: &Value, id: u16) -> anyhow::Result<&Value> {
    let all = instance["resources"].as_array().context("an instance")?;
    all.iter()
        .find(|one| one["id"] == id)
        .with_context(|| format!("no {id} in {instance}"))
}

/// The Device object's facts, as this device has them.
fn is_the_device(instance: &Value) -> anyhow::Result<()> {
    for (id, value) in [
        (0, "zeelos testkit"),
        (1, "Leshan client"),
        (2, "TK-0001"),
        (3, "1.0"),
        (16, "U"),
    ] {
        ensure!(
            member(instance, id)?["value"] == value,
            "{id} of {instance}"
        );
    }
    ensure!(member(instance, 11)?["values"]["0"] == "0", "{instance}");
    ensure!(
        member(instance, 6)?["values"] == json!({"0": "1", "1": "5"}),
        "{instance}"
    );
    Ok(())
}

#[test]
fn int_101_initial_registration() {
    story(async {
        let (gateway, _peer) = another("int-101", &[]).await?;
        let registration = gateway.rest.registration("int-101").await?;
        ensure!(registration["lwM2mVersion"] == "1.1", "{registration}");
        ensure!(registration["lifetime"] == 300, "{registration}");
        let links = registration["objectLinks"].to_string();
        for link in ["\"/1/0\"", "\"/3/0\"", "\"/3303/0\"", "\"/3303/1\""] {
            ensure!(links.contains(link), "no {link} in {links}");
        }
        Ok(())
    });
}

#[test]
fn int_102_registration_update() {
    story(async {
        let (gateway, mut peer) = another("int-102", &[]).await?;
        let before = gateway.rest.registration("int-102").await?;
        peer.tell("update")?;
        peer.line("updated").await?;
        let after = gateway.rest.registration("int-102").await?;
        ensure!(
            after["lastUpdate"].as_i64() > before["lastUpdate"].as_i64(),
            "{after}"
        );
        ensure!(
            after["registrationId"] == before["registrationId"],
            "{after}"
        );
        Ok(())
    });
}

#[test]
fn int_103_deregistration() {
    story(async {
        let (gateway, mut peer) = another("int-103", &[]).await?;
        peer.tell("deregister")?;
        peer.line("deregistered").await?;
        gateway.rest.gone("int-103").await
    });
}

#[test]
fn int_104_registration_update_trigger() {
    story(async {
        let (gateway, mut peer) = another("int-104", &[]).await?;
        let answer = gateway.rest.execute("int-104/1/0/8", "").await?;
        ensure!(answer["status"] == "CHANGED(204)", "{answer}");
        peer.line("updated").await.map(drop)
    });
}

#[test]
fn int_107_extending_the_lifetime() {
    story(async {
        let (gateway, mut peer) = another("int-107", &[("lifetime", "12")]).await?;
        let before = gateway.rest.registration("int-107").await?;
        ensure!(before["lifetime"] == 12, "{before}");
        // It updates by itself before its time is over, and is there after it.
        peer.line("updated").await?;
        sleep(Duration::from_secs(4)).await;
        let after = gateway.rest.registration("int-107").await?;
        ensure!(
            after["registrationId"] == before["registrationId"],
            "{after}"
        );
        Ok(())
    });
}

#[test]
fn int_108_and_109_queue_mode() {
    story(async {
        // It is to listen for a second after each message of its own.
        let window = json!({"awakeWindow": 1});
        let rest = &Gateway::shared().await.rest;
        rest.put("clients/int-109/queue", &window).await?;
        let (gateway, mut peer) = another("int-109", &[("queue", "true")]).await?;
        let registration = gateway.rest.registration("int-109").await?;
        ensure!(registration["queuemode"] == true, "{registration}");
        sleep(Duration::from_secs(2)).await;
        let asleep = gateway.rest.registration("int-109").await?;
        ensure!(asleep["sleeping"] == true, "{asleep}");
        let mut desk = gateway.desk().await;
        let read = request("int-109", "int-109", RequestKind::Read, "/3/0/1", None);
        desk.send(&read, &[]).await;
        let waiting = async || {
            let queue = gateway.rest.get("clients/int-109/queue").await?;
            ensure!(queue.to_string().contains("/3/0/1"), "{queue}");
            Ok(())
        };
        testkit::wait_for(Duration::from_secs(10), "the request to wait", waiting).await?;
        peer.tell("update")?;
        let reply = desk.replies.find(|reply| reply.ticket == "int-109").await;
        ensure!(reply.rep.code == ResponseCode::Content, "{reply:?}");
        Ok(())
    });
}

#[test]
fn int_201_querying_in_plain_text() {
    story(async {
        let (gateway, _device) = device().await;
        for (path, value) in [
            ("3/0/0", "zeelos testkit"),
            ("3/0/1", "Leshan client"),
            ("3/0/2", "TK-0001"),
        ] {
            let content = read(&gateway.rest, path, "TEXT").await?;
            ensure!(content["value"] == value, "{content}");
        }
        Ok(())
    });
}

async fn query_the_device(format: &str) -> anyhow::Result<()> {
    let (gateway, _device) = device().await;
    is_the_device(&read(&gateway.rest, "3/0", format).await?)
}

#[test]
fn int_203_querying_in_tlv() {
    story(query_the_device("TLV"));
}

#[test]
fn int_204_querying_in_json() {
    story(query_the_device("JSON"));
}

#[test]
fn int_231_querying_in_senml_json() {
    story(query_the_device("SENML_JSON"));
}

#[test]
fn int_232_querying_in_senml_cbor() {
    story(query_the_device("SENML_CBOR"));
}

#[test]
fn int_211_querying_in_cbor() {
    story(async {
        let (gateway, _device) = device().await;
        ensure!(read(&gateway.rest, "3/0/0", "CBOR").await?["value"] == "zeelos testkit");
        ensure!(read(&gateway.rest, "3/0/9", "CBOR").await?["value"] == "95");
        ensure!(read(&gateway.rest, "1/0/6", "CBOR").await?["value"] == false);
        Ok(())
    });
}

/// One resource after the other is written and read back.
async fn set_one_by_one(format: &str) -> anyhow::Result<()> {
    let (gateway, _device) = device().await;
    let rest = &gateway.rest;
    for zone in [format!("Europe/{format}"), "UTC".to_owned()] {
        write(rest, "3/0/15", format, "string", json!(zone)).await?;
        ensure!(read(rest, "3/0/15", format).await?["value"] == zone.as_str());
    }
    for stores in [true, false] {
        write(rest, "1/0/6", format, "boolean", json!(stores)).await?;
        ensure!(read(rest, "1/0/6", format).await?["value"] == stores);
    }
    Ok(())
}

#[test]
fn int_205_setting_in_plain_text() {
    story(set_one_by_one("TEXT"));
}

#[test]
fn int_212_setting_in_cbor() {
    story(set_one_by_one("CBOR"));
}

/// Several resources of an instance are updated in one request, the others stay.
async fn set_an_instance(format: &str) -> anyhow::Result<()> {
    let (gateway, _device) = device().await;
    let rest = &gateway.rest;
    let resource = |id: u16, value: &str| json!({"id": id, "kind": "singleResource", "type": "string", "value": value});
    for (offset, zone) in [("+05:30", format), ("+02:00", "UTC")] {
        let body = json!({"kind": "instance", "id": 0, "resources": [resource(14, offset), resource(15, zone)]});
        let path = format!("clients/{EP}/3/0?format={format}&replace=false");
        let answer = rest.put(&path, &body).await?;
        ensure!(answer["status"] == "CHANGED(204)", "{answer}");
        let instance = read(rest, "3/0", format).await?;
        ensure!(member(&instance, 14)?["value"] == offset, "{instance}");
        ensure!(member(&instance, 15)?["value"] == zone, "{instance}");
        is_the_device(&instance)?;
    }
    Ok(())
}

#[test]
fn int_215_setting_in_tlv() {
    story(set_an_instance("TLV"));
}

#[test]
fn int_220_setting_in_json() {
    story(set_an_instance("JSON"));
}

#[test]
fn int_226_write_partial_update_on_an_instance() {
    story(set_an_instance("TLV"));
}

#[test]
fn int_233_setting_in_senml_cbor() {
    story(set_an_instance("SENML_CBOR"));
}

#[test]
fn int_234_setting_in_senml_json() {
    story(set_an_instance("SENML_JSON"));
}

#[test]
fn int_221_nothing_can_be_done_to_the_security_object() {
    story(async {
        let (gateway, _device) = device().await;
        let rest = &gateway.rest;
        // Leshan's client takes attributes there, which do nothing; values it neither shows nor takes.
        let key = json!({"id": 0, "kind": "singleResource", "type": "string", "value": "coap://elsewhere"});
        for answer in [
            rest.get(&format!("clients/{EP}/0/0?format=TLV")).await?,
            rest.put(&format!("clients/{EP}/0/0/0?format=TLV"), &key)
                .await?,
        ] {
            ensure!(answer["failure"] == true, "{answer}");
            let status = answer["status"].to_string();
            ensure!(
                status.contains("401") || status.contains("404") || status.contains("405"),
                "{answer}"
            );
        }
        Ok(())
    });
}

#[test]
fn int_222_read_on_an_object() {
    story(async {
        let (gateway, _device) = device().await;
        let object = read(&gateway.rest, "3", "TLV").await?;
        is_the_device(&object["instances"][0])?;
        let sensors = read(&gateway.rest, "3303", "SENML_CBOR").await?;
        let instances = sensors["instances"].as_array().context("instances")?;
        ensure!(instances.len() == 2, "{sensors}");
        Ok(())
    });
}

#[test]
fn int_223_read_on_an_instance() {
    story(query_the_device("TLV"));
}

#[test]
fn int_224_read_on_a_resource() {
    story(async {
        let (gateway, _device) = device().await;
        ensure!(read(&gateway.rest, "1/0/1", "TLV").await?["value"] == "300");
        ensure!(read(&gateway.rest, "1/0/7", "TLV").await?["value"] == "U");
        Ok(())
    });
}

#[test]
fn int_225_read_on_a_resource_instance() {
    story(async {
        let (gateway, _device) = device().await;
        for format in ["TEXT", "TLV", "SENML_JSON", "SENML_CBOR"] {
            let content = read(&gateway.rest, "3/0/7/1", format).await?;
            ensure!(content["value"] == "5000", "{format}: {content}");
        }
        Ok(())
    });
}

#[test]
fn int_227_write_replace_on_a_resource() {
    story(set_one_by_one("TLV"));
}

/// Paths in one composite read: what came, by path.
async fn composite(rest: &Rest, paths: &str, format: &str) -> anyhow::Result<Value> {
    let query = format!("paths={paths}&pathformat={format}&nodeformat={format}");
    let answer = rest.get(&format!("clients/{EP}/composite?{query}")).await?;
    ensure!(answer["status"] == "CONTENT(205)", "{format}: {answer}");
    Ok(answer["content"].clone())
}

#[test]
fn int_229_read_composite() {
    story(async {
        let (gateway, _device) = device().await;
        for format in ["SENML_JSON", "SENML_CBOR"] {
            let content = composite(&gateway.rest, "/3,/1/0", format).await?;
            is_the_device(&content["/3"]["instances"][0])?;
            ensure!(member(&content["/1/0"], 1)?["value"] == "300", "{content}");
            let content = composite(&gateway.rest, "/1/0/1,/3/0/11/0", format).await?;
            ensure!(content["/1/0/1"]["value"] == "300", "{content}");
            ensure!(content["/3/0/11/0"]["value"] == "0", "{content}");
        }
        Ok(())
    });
}

async fn write_composite() -> anyhow::Result<()> {
    let (gateway, _device) = device().await;
    let text = |id: u16, value: &str| json!({"id": id, "kind": "singleResource", "type": "string", "value": value});
    for format in ["SENML_JSON", "SENML_CBOR"] {
        for (zone, kind) in [(format, "wind"), ("UTC", "test")] {
            let body = json!({"/3/0/15": text(15, zone), "/3303/0/5750": text(5750, kind)});
            let query = format!("pathformat={format}&nodeformat={format}");
            let path = format!("clients/{EP}/composite?{query}");
            let answer = gateway.rest.put(&path, &body).await?;
            ensure!(answer["status"] == "CHANGED(204)", "{answer}");
            ensure!(read(&gateway.rest, "3/0/15", "TLV").await?["value"] == zone);
            ensure!(read(&gateway.rest, "3303/0/5750", "TLV").await?["value"] == kind);
        }
    }
    Ok(())
}

#[test]
fn int_230_write_composite() {
    story(write_composite());
}

#[test]
fn int_257_write_composite() {
    story(write_composite());
}

#[test]
fn int_236_and_281_read_composite_where_a_part_is_absent() {
    story(async {
        let (gateway, _device) = device().await;
        let content = composite(&gateway.rest, "/1/0/1,/1/0/7,/3339/0/5522", "SENML_CBOR").await?;
        ensure!(content["/1/0/1"]["value"] == "300", "{content}");
        ensure!(content["/1/0/7"]["value"] == "U", "{content}");
        ensure!(content["/3339/0/5522"].is_null(), "{content}");
        Ok(())
    });
}

#[test]
fn int_280_successful_read_composite() {
    story(async {
        let (gateway, _device) = device().await;
        let content = composite(&gateway.rest, "/3/0/16,/3/0/11/0,/1/0", "SENML_JSON").await?;
        ensure!(content["/3/0/16"]["value"] == "U", "{content}");
        ensure!(content["/3/0/11/0"]["value"] == "0", "{content}");
        ensure!(member(&content["/1/0"], 7)?["value"] == "U", "{content}");
        Ok(())
    });
}

#[test]
fn int_237_read_on_an_object_without_a_format() {
    story(async {
        let (gateway, _device) = device().await;
        let answer = gateway.rest.get(&format!("clients/{EP}/3")).await?;
        is_the_device(&answer["content"]["instances"][0])
    });
}

#[test]
fn int_241_rebooting_the_device() {
    story(async {
        let (gateway, mut device) = device().await;
        let answer = gateway.rest.execute(&format!("{EP}/3/0/4"), "").await?;
        ensure!(answer["status"] == "CHANGED(204)", "{answer}");
        device.line("executed /3/0/4").await.map(drop)
    });
}

#[test]
fn int_256_write_failure() {
    story(async {
        let (gateway, _device) = device().await;
        let body =
            json!({"id": 0, "kind": "singleResource", "type": "string", "value": "somebody else"});
        let answer = gateway
            .rest
            .put(&format!("clients/{EP}/3/0/0?format=TLV"), &body)
            .await?;
        ensure!(answer["status"] == "METHOD_NOT_ALLOWED(405)", "{answer}");
        ensure!(read(&gateway.rest, "3/0/0", "TLV").await?["value"] == "zeelos testkit");
        Ok(())
    });
}

#[test]
fn int_260_discover() {
    story(async {
        let (gateway, _device) = device().await;
        let rest = &gateway.rest;
        let answer = rest.get(&format!("clients/{EP}/3/discover")).await?;
        let links = answer["objectLinks"].as_array().context("links")?;
        for url in ["/3", "/3/0", "/3/0/0", "/3/0/4", "/3/0/7", "/3/0/16"] {
            ensure!(
                links.iter().any(|link| link["url"] == url),
                "no {url} in {answer}"
            );
        }
        let sources = links.iter().find(|link| link["url"] == "/3/0/7");
        ensure!(
            sources.context("7")?["attributes"]["dim"] == "2",
            "{answer}"
        );
        let answer = rest
            .put(
                &format!("clients/{EP}/3/0/7/attributes?pmin=10&pmax=200"),
                &Value::Null,
            )
            .await?;
        ensure!(answer["status"] == "CHANGED(204)", "{answer}");
        let answer = rest.get(&format!("clients/{EP}/3/0/7/discover")).await?;
        let first = &answer["objectLinks"][0];
        ensure!(
            first["attributes"]["pmin"] == "10" && first["attributes"]["pmax"] == "200",
            "{answer}"
        );
        Ok(())
    });
}

/// What an observation's record says, where it is of one number.
fn number(body: Option<&ResponseBody>) -> Option<f64> {
    match body {
        Some(ResponseBody::Read(ReadContent::Resource(resource))) => match resource.value {
            ResourceValue::Double(value) => Some(value),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn int_301_and_302_observation_and_its_cancellation_by_reset() {
    story(async {
        let (gateway, mut device) = device().await;
        let mut desk = gateway.desk().await;
        let path = "/3303/1/5700";
        let first = desk
            .ask(EP, "int-301", RequestKind::Observe, path, None)
            .await;
        ensure!(first.rep.code == ResponseCode::Content, "{first:?}");
        for value in [31.25, 32.5] {
            device.tell(&format!("set {path} {value}"))?;
            let wanted = |body: Option<&ResponseBody>| number(body) == Some(value);
            let is_it = |one: &records::ResponseObserve| {
                one.ticket == "int-301" && wanted(one.rep.body.as_ref())
            };
            desk.observations.find(is_it).await;
        }
        // Passive: the next notification is answered with a reset.
        let gone = desk
            .ask(EP, "int-302", RequestKind::ObserveCancel, path, None)
            .await;
        ensure!(gone.rep.code == ResponseCode::Deleted, "{gone:?}");
        device.tell(&format!("set {path} 33.75"))?;
        device.line(&format!("value {path} 33.75")).await?;
        let mut later = gateway.desk().await;
        let read = later
            .ask(EP, "int-302-after", RequestKind::Read, path, None)
            .await;
        ensure!(number(read.rep.body.as_ref()) == Some(33.75), "{read:?}");
        ensure!(desk.observations.is_quiet().await, "it goes on");
        Ok(())
    });
}

#[test]
fn int_303_cancellation_by_observe() {
    story(async {
        let (gateway, mut device) = device().await;
        let path = format!("clients/{EP}/3303/0/5602/observe");
        let answer = gateway.rest.post(&path, &Value::Null).await?;
        ensure!(answer["status"] == "CONTENT(205)", "{answer}");
        let answer = gateway.rest.delete(&format!("{path}?active=true")).await?;
        ensure!(answer["status"] == "CONTENT(205)", "{answer}");
        // Nobody is told of the new maximum.
        let mut desk = gateway.desk().await;
        device.tell("set /3303/0/5700 900.5")?;
        device.line("value /3303/0/5700 900.5").await?;
        sleep(Duration::from_secs(1)).await;
        let read = desk
            .ask(EP, "int-303", RequestKind::Read, "/3303/0/5602", None)
            .await;
        ensure!(number(read.rep.body.as_ref()) == Some(900.5), "{read:?}");
        let all = gateway.site.kafka.all("iot.gw.observations").await;
        let mut decoder = gateway.site.decoder::<records::ResponseObserve>();
        for record in all {
            let seen = decoder.decode(&record.value.context("a value")?).await?;
            ensure!(number(seen.rep.body.as_ref()) != Some(900.5), "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn int_304_305_and_310_observe_composite() {
    story(async {
        let (gateway, mut device) = device().await;
        let mut desk = gateway.desk().await;
        let query = "paths=/3303/0/5750,/3/0/14&pathformat=SENML_CBOR&nodeformat=SENML_CBOR";
        let path = format!("clients/{EP}/composite/observe?{query}");
        let answer = gateway.rest.post(&path, &Value::Null).await?;
        ensure!(answer["status"] == "CONTENT(205)", "{answer}");
        ensure!(
            answer["content"]["/3/0/14"]["value"] == "+02:00",
            "{answer}"
        );
        write(&gateway.rest, "3/0/14", "TLV", "string", json!("+09:00")).await?;
        device.line("written /3/0/14 +09:00").await?;
        let seen = desk.observations.find(|one| {
            one.path == "/3/0/14"
                && matches!(&one.rep.body, Some(ResponseBody::Read(ReadContent::Resource(resource)))
                    if resource.value == ResourceValue::String("+09:00".to_owned()))
        });
        let seen = seen.await;
        ensure!(seen.ep == EP, "{seen:?}");
        gateway
            .rest
            .delete(&format!(
                "clients/{EP}/composite/observe?paths=/3303/0/5750,/3/0/14"
            ))
            .await?;
        write(&gateway.rest, "3/0/14", "TLV", "string", json!("+02:00")).await
    });
}

#[test]
fn int_306_and_311_send() {
    story(async {
        let (gateway, mut device) = device().await;
        let mut desk = gateway.desk().await;
        for (format, value) in [("SENML_JSON", 501.5), ("SENML_CBOR", 502.5)] {
            device.tell(&format!("set /3303/0/5700 {value}"))?;
            device.line(&format!("value /3303/0/5700 {value}")).await?;
            device.tell(&format!("send {format} /3303/0/5700 /3/0/9"))?;
            device.line("sent CHANGED").await?;
            let seen = desk.observations.find(|one| {
                one.ep == EP
                    && one.ticket == "unset"
                    && number(one.rep.body.as_ref()) == Some(value)
            });
            let seen = seen.await;
            ensure!(seen.path == "/3303/0/5700", "{seen:?}");
        }
        // Two values of one path, each with its time, in one message.
        for value in [601.5, 602.5] {
            device.tell(&format!("set /3303/0/5700 {value}"))?;
            device.line(&format!("value /3303/0/5700 {value}")).await?;
            device.tell("collect /3303/0/5700")?;
            device.line("collected").await?;
            sleep(Duration::from_millis(1_100)).await;
        }
        device.tell("send SENML_CBOR")?;
        let mut times = Vec::new();
        for value in [601.5, 602.5] {
            let is_it =
                |one: &records::ResponseObserve| number(one.rep.body.as_ref()) == Some(value);
            times.push(desk.observations.find(is_it).await.timestamp);
        }
        ensure!(times[1] - times[0] >= 1_000, "{times:?}");
        Ok(())
    });
}
