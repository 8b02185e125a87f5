//! Access rules that come later.

use std::time::Duration;

use records::RequestKind;

use super::site::{self, Device, Site};

const ACLS: &str = "org.apache.kafka.tools.AclCommand";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_are_transactions_as_soon_as_that_is_allowed() {
    let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    let mut site = Site::with_real_kafka(&[
        ("authorizer.class.name", authorizer),
        ("allow.everyone.if.no.acl.found", "true"),
    ])
    .await;
    let bootstrap = site.kafka.to_string();
    let rule = |what: &'static str| {
        let words = ["--bootstrap-server", &bootstrap, what, "--force"];
        let deny = ["--deny-principal", "User:*", "--operation", "All"];
        let id = ["--transactional-id", "leshan-server-kafka-gw-replies"];
        [&words[..], &deny, &id]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let tool = async |site: &mut Site, what| {
        let words = rule(what);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        site.real_kafka().tool(ACLS, &words).await.unwrap();
    };
    tool(&mut site, "--add").await;
    let server = site.start_server();
    let mut desk = site.desk().await;
    let mut device = Device::start(site.coap, "dev1").await;
    device.registered().await;
    desk.ask("dev1", "t0", RequestKind::Read, "/3/0/0", None)
        .await;
    let transactional = || site::metric("zeelos_replies_transactional");
    assert_eq!(transactional().to_bits(), 0.0_f64.to_bits());

    tool(&mut site, "--remove").await;
    for number in 1.. {
        assert!(number < 60, "not tried again");
        tokio::time::sleep(Duration::from_millis(500)).await;
        desk.ask(
            "dev1",
            &format!("t{number}"),
            RequestKind::Read,
            "/3/0/0",
            None,
        )
        .await;
        // Told when the next one is produced.
        if transactional() > 0.0 {
            break;
        }
    }
    let reply = desk
        .ask("dev1", "last", RequestKind::Read, "/3/0/0", None)
        .await;
    assert_eq!(reply.ep, "dev1");
    server.stop().await;
}
