//! What registrations make of the graph, in OrientDB and in the embedded one.

mod support;

use asset_sink::{Target, embedded, load_models};
use kafka::{LagProbe, TopicMatch};
use lwm2m_model::Registry;
use serde_json::{Value, json};
use service::Secret;
use site::{PATIENCE, Site};
use support::{REGISTRATIONS, deleted, registered, start, updated};
use testkit::{OrientDb, wait_for};

/// An endpoint that would like to be a statement, a record id, a parameter.
const HOSTILE: &str = "#16:0'; DROP CLASS V UNSAFE; -- \"\\ {:name} ?\n";

/// Waits until a connector has processed everything there is.
async fn caught_up(site: &Site, connector: &str) -> anyhow::Result<()> {
    let topics = TopicMatch::Names(vec![REGISTRATIONS.to_owned()]);
    let probe = LagProbe::new(&site.cluster(), &format!("connect-{connector}"), topics)?;
    wait_for(PATIENCE, "the connector to catch up", async || {
        let lag = probe.lag().await?;
        anyhow::ensure!(lag == 0, "lag {lag}");
        Ok(())
    })
    .await
}

/// Endpoints that come, change, move and go.
async fn produce_all(site: &Site) {
    for event in [
        registered(
            "rock64",
            "stays",
            1_000,
            &[
                "/", "/1/0", "/3/0", "/3303/0", "/3303/1", "/5", "/3/0/1", "/64999/0",
            ],
        ),
        registered("upboard", "stays", 1_001, &["/3/0"]),
        registered("rock64", HOSTILE, 1_002, &["/3/0"]),
        registered("rock64", "goes", 1_003, &["/3/0"]),
        updated(
            "rock64",
            "stays",
            2_000,
            Some(&["/3/0", "/3303/1", "/3303/2"]),
        ),
        updated("rock64", "never seen", 2_001, Some(&["/3/0"])),
        deleted("rock64", "goes", 3_000, true),
        deleted("rock64", "never seen", 3_001, false),
        updated("rock64", "again", 3_900, None),
        registered("rock64", "again", 4_000, &["/3/0"]),
        updated("rock64", "again", 4_001, None),
        registered("rock64", "again", 4_002, &["/1/0"]),
    ] {
        site.produce(REGISTRATIONS, &event).await;
    }
    site.produce_bytes(REGISTRATIONS, Some(b"not a registration"))
        .await;
    site.produce(REGISTRATIONS, &records::AvroKey { ep: "x".to_owned() })
        .await;
}

/// An endpoint of OrientDB with its links, without what only OrientDB has.
async fn orient_endpoints(orient: &OrientDb) -> anyhow::Result<Vec<Value>> {
    let answer = orient
        .command("SELECT serverId, name, regDate, regId, regPort, regAddress, port, address, lt, expired, ver, bnd, regLastUpdate, online, sms, attributes, in('hasEndpoint').name AS servers, outE('hasObject'):{instance, in.id AS object} AS links FROM Endpoints ORDER BY regLastUpdate")
        .await?;
    let mut rows = answer["result"].as_array().cloned().unwrap_or_default();
    for row in &mut rows {
        if let Some(links) = row["links"].as_array_mut() {
            links.sort_by_key(|link| (link["object"].as_u64(), link["instance"].as_u64()));
        }
    }
    Ok(rows)
}

fn orient_keys(orient: &OrientDb) -> Value {
    let url = orient.url();
    json!({"tinkerpop3.url": format!("{url}/{}", orient.database()), "tinkerpop3.user": orient.user(), "tinkerpop3.password": orient.password()})
}

fn links(pairs: &[(u16, u16)]) -> Value {
    let link = |(object, instance): &(u16, u16)| json!({"instance": instance, "object": object});
    pairs.iter().map(link).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn orientdb_follows_the_registrations_and_a_replay_gives_the_same_graph() -> anyhow::Result<()>
{
    let (site, orient) = (Site::start().await, OrientDb::start().await?);
    let sink = start(&site).await?;
    produce_all(&site).await;
    sink.create("one", &orient_keys(&orient)).await?;
    caught_up(&site, "one").await?;

    let found = orient_endpoints(&orient).await?;
    let at = |server: &str, name: &str| {
        let row = found
            .iter()
            .find(|row| row["serverId"] == server && row["name"] == name);
        row.unwrap_or_else(|| panic!("{name} is not in {found:?}"))
    };
    assert_eq!(found.len(), 5, "{found:?}");
    let stays = at("rock64", "stays");
    assert_eq!(stays["servers"], json!(["rock64"]));
    assert_eq!(stays["links"], links(&[(3, 0), (3303, 1), (3303, 2)]));
    assert_eq!(stays["regDate"], 1_000);
    assert_eq!(stays["regLastUpdate"], 2_000);
    assert_eq!(stays["regPort"], 5683);
    assert_eq!(stays["address"], "10.0.0.8");
    assert_eq!(stays["lt"], 300);
    assert_eq!(stays["bnd"], "U");
    assert_eq!(stays["online"], true);
    assert_eq!(stays["sms"], "+491234");
    assert_eq!(stays["attributes"], json!({"b": "UQ", "_@class": "V"}));
    assert_eq!(at("upboard", "stays")["links"], links(&[(3, 0)]));
    assert_eq!(at("rock64", HOSTILE)["links"], links(&[(3, 0)]));
    let gone = at("rock64", "goes");
    assert_eq!(
        (&gone["online"], &gone["expired"]),
        (&json!(false), &json!(true))
    );
    let again = at("rock64", "again");
    assert_eq!(again["links"], links(&[(1, 0)]));
    assert_eq!(
        again["sms"],
        Value::Null,
        "a new registration is a new endpoint"
    );

    let aside = site.read(&format!("{REGISTRATIONS}.dlq"), 2).await;
    assert_eq!(
        aside[0].header("zeelos-dlq-reason"),
        Some(b"not_framed".as_slice())
    );
    assert_eq!(
        aside[1].header("zeelos-dlq-reason"),
        Some(b"other_record".as_slice())
    );

    let models = orient.command("SELECT name, multiple, mandatory, out('hasResource').size() AS resources FROM Objects WHERE id = 3303").await?;
    assert_eq!(models["result"][0]["multiple"], "Multiple");
    let in_registry = Registry::oma()
        .object(3303)
        .map(|model| model.resources.len());
    assert_eq!(
        models["result"][0]["resources"].as_u64(),
        in_registry.map(|n| n as u64)
    );
    let value = orient.command("SELECT name, operations, type, units FROM Resources WHERE objectId = 3303 AND id = 5700").await?;
    assert_eq!(value["result"][0]["type"], "Float");
    assert_eq!(value["result"][0]["operations"], "R");

    sink.create("two", &orient_keys(&orient)).await?;
    caught_up(&site, "two").await?;
    assert_eq!(orient_endpoints(&orient).await?, found);
    let edges = orient
        .command("SELECT count(*) AS edges FROM hasObject")
        .await?;
    assert_eq!(edges["result"][0]["edges"], 7);

    // The models once more: nothing doubles.
    let target = Target::parse(
        &format!("{}/{}", orient.url(), orient.database()),
        orient.user(),
        Secret::new(orient.password()),
    )?;
    let loaded = load_models(&target, &Registry::oma()).await?;
    let counts = orient
        .command("SELECT count(*) AS n FROM Resources")
        .await?;
    assert_eq!(counts["result"][0]["n"], loaded.resources);
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orientdb_that_is_away_is_waited_for_and_nothing_is_lost() -> anyhow::Result<()> {
    let (site, mut orient) = (Site::start().await, OrientDb::start().await?);
    orient.stop().await?;
    let sink = start(&site).await?;
    sink.create("patient", &orient_keys(&orient)).await?;
    site.produce(REGISTRATIONS, &registered("rock64", "first", 1, &["/3/0"]))
        .await;
    let trouble = wait_for(PATIENCE, "the trouble to show", async || {
        let (_, answer) = sink.get("/connectors/patient/status").await?;
        let task = &answer["tasks"][0];
        anyhow::ensure!(
            task["state"] == "RUNNING" && task["trace"].is_string(),
            "{answer}"
        );
        Ok(task["trace"].to_string())
    })
    .await?;
    assert!(
        trouble.contains("OrientDB") && trouble.contains("does not answer"),
        "{trouble}"
    );
    orient.restart().await?;
    caught_up(&site, "patient").await?;

    orient.stop().await?;
    site.produce(REGISTRATIONS, &registered("rock64", "second", 2, &["/3/0"]))
        .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let mut hasty = orient_keys(&orient);
    hasty["tinkerpop3.max.retries"] = json!("1");
    sink.create("hasty", &hasty).await?;
    let trace = sink.wait_task("hasty", "FAILED").await?.unwrap_or_default();
    assert!(trace.contains("gave up after 1 retries"), "{trace}");
    orient.restart().await?;
    caught_up(&site, "patient").await?;
    assert_eq!(orient_endpoints(&orient).await?.len(), 2);
    assert_eq!(
        sink.post("/connectors/hasty/tasks/0/restart", "").await?.0,
        204
    );
    sink.wait_task("hasty", "RUNNING").await?;
    caught_up(&site, "hasty").await?;
    assert_eq!(orient_endpoints(&orient).await?.len(), 2);
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_graph_follows_them_too() -> anyhow::Result<()> {
    let site = Site::start().await;
    let graph = site.folder().join("graph.db");
    let keys = json!({"tinkerpop3.url": format!("sqlite:{}", graph.display())});
    assert_eq!(embedded::endpoint(&graph, "stays")?, None);
    let sink = start(&site).await?;
    produce_all(&site).await;
    sink.create("one", &keys).await?;
    caught_up(&site, "one").await?;
    let found = embedded::endpoints(&graph)?;
    assert_eq!(found.len(), 5, "{found:?}");
    let stays = embedded::endpoint(&graph, "stays")?.unwrap();
    assert_eq!(stays.server, "rock64");
    assert_eq!(stays.objects, [(3, 0), (3303, 1), (3303, 2)]);
    assert_eq!(stays.last_update, Some(2_000));
    assert_eq!(stays.reg_date, Some(1_000));
    assert!(stays.online && !stays.expired);
    assert_eq!(stays.sms.as_deref(), Some("+491234"));
    assert_eq!(
        embedded::endpoint(&graph, HOSTILE)?.unwrap().objects,
        [(3, 0)]
    );
    let gone = embedded::endpoint(&graph, "goes")?.unwrap();
    assert!(!gone.online && gone.expired);
    let again = embedded::endpoint(&graph, "again")?.unwrap();
    assert_eq!(
        (again.objects.as_slice(), again.sms),
        ([(1, 0)].as_slice(), None)
    );

    sink.create("two", &keys).await?;
    caught_up(&site, "two").await?;
    assert_eq!(embedded::endpoints(&graph)?, found);
    sink.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_connector_file_is_posted_unchanged() -> anyhow::Result<()> {
    let site = Site::start().await;
    let sink = start(&site).await?;
    let file = include_str!("walkthrough/upboard_leshan_asset_sink.json");
    let (status, created) = sink.post("/connectors", file).await?;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["config"]["tinkerpop3.password"], "***");
    for path in ["status", "status/"] {
        let (_, answer) = sink
            .get(&format!("/connectors/upboard_leshan_asset_sink/{path}"))
            .await?;
        assert_eq!(answer["connector"]["state"], "RUNNING");
    }
    let wrong = file.replace("remote:orientdb/zeelosdb", "plocal:/data");
    let wrong = wrong.replace("upboard_leshan", "other_leshan");
    let (status, answer) = sink.post("/connectors", &wrong).await?;
    assert_eq!(status, 400);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("tinkerpop3.url"),
        "{answer}"
    );
    sink.stop().await;
    Ok(())
}
