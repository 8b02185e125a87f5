//! The server is killed again and again, at moments that a seed chooses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lwm2m::client::Event;
use records::{RequestBody, RequestKind, Response, ResponseCode};

use super::records::{message, write};
use super::site::{Desk, Device, Site, request};

const DEVICES: usize = 3;
const REQUESTS: usize = 60;

/// A sequence as good as any (Knuth's MMIX constants).
struct Sequence(u64);

impl Sequence {
    fn next_in(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        range.start + (self.0 >> 33) % (range.end - range.start)
    }
}

fn ticket(number: usize) -> String {
    format!("k{number:03}")
}

fn is_command(number: usize) -> bool {
    !number.is_multiple_of(4)
}

async fn ask(desk: &Desk, number: usize) {
    let (ep, ticket) = (format!("dev{}", number % DEVICES), ticket(number));
    let asked = match number % 4 {
        0 => request(&ep, &ticket, RequestKind::Read, "/3/0/0", None),
        3 => request(
            &ep,
            &ticket,
            RequestKind::Write,
            "/3/0/15",
            Some(write(&ticket)),
        ),
        _ => {
            let body = Some(RequestBody::Execute(ticket.clone()));
            request(&ep, &ticket, RequestKind::Execute, "/3/0/4", body)
        }
    };
    desk.send(&asked, &[]).await;
}

async fn killed_at_any_moment(site: &Site, seed: u64, kills: u32, longest_ms: u64) {
    let mut server = site.start_process(&[]);
    let mut desk = site.desk().await;
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        let mut device = Device::start(site.coap, &format!("dev{number}")).await;
        device.registered().await;
        devices.push(device);
    }
    let mut chance = Sequence(seed);
    let asking = async {
        for number in 0..REQUESTS {
            ask(&desk, number).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    };
    let killing = async {
        for _ in 0..kills {
            let wait = chance.next_in(20..longest_ms);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            server.kill();
            server = site.start_process(&[]);
        }
    };
    tokio::join!(asking, killing);

    // A server that was killed has its requests again at once, not when its session in the group is over.
    let back = Instant::now();
    ask(&desk, REQUESTS).await;
    let mut replies: BTreeMap<String, Vec<Response>> = BTreeMap::new();
    let mut per_device: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut answered_after = None;
    while replies.len() <= REQUESTS {
        let reply = desk.replies.next().await;
        if reply.ticket == ticket(REQUESTS) {
            answered_after.get_or_insert_with(|| back.elapsed());
        }
        let order = per_device.entry(reply.ep.clone()).or_default();
        order.push(reply.ticket.clone());
        replies.entry(reply.ticket.clone()).or_default().push(reply);
    }
    let answered_after = answered_after.unwrap();
    assert!(
        answered_after < Duration::from_secs(8),
        "{answered_after:?}"
    );
    assert!(
        desk.replies.is_quiet().await,
        "a second reply (seed {seed})"
    );
    for (ticket, replies) in &replies {
        assert_eq!(replies.len(), 1, "{ticket} (seed {seed}): {replies:?}");
    }
    for (device, tickets) in &per_device {
        assert!(tickets.is_sorted(), "{device} (seed {seed}): {tickets:?}");
    }

    let mut executed: BTreeMap<String, usize> = BTreeMap::new();
    for device in &mut devices {
        let mut order = Vec::new();
        for event in device.drain() {
            if let Event::Executed { arguments, .. } = event {
                *executed.entry(arguments.clone()).or_default() += 1;
                order.push(arguments);
            }
        }
        assert!(order.is_sorted(), "(seed {seed}) {order:?}");
    }
    let mut unknown = 0;
    for number in (0..REQUESTS).filter(|number| is_command(*number)) {
        let ticket = ticket(number);
        let reply = &replies[&ticket][0];
        let times = executed.get(&ticket).copied().unwrap_or(0);
        assert!(
            times <= 1,
            "{ticket} was executed {times} times (seed {seed})"
        );
        match reply.rep.code {
            ResponseCode::Changed if number % 4 == 3 => {}
            ResponseCode::Changed => assert_eq!(times, 1, "{ticket} (seed {seed})"),
            ResponseCode::InternalServerError => {
                unknown += 1;
                assert!(message(reply).starts_with("outcome unknown: "), "{reply:?}");
            }
            _ => panic!("{reply:?}"),
        }
    }
    // As many as were on their way when the server was killed, one for each device.
    assert!(
        unknown <= DEVICES * kills as usize,
        "{unknown} (seed {seed})"
    );
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_each_request_has_one_reply_and_no_command_runs_twice() {
    for seed in [1, 20_260_711] {
        let site = Site::with_kafka().await;
        killed_at_any_moment(&site, seed, 8, 400).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_apache_kafka_too_where_replies_are_transactions() {
    let site = Site::with_real_kafka(&[]).await;
    killed_at_any_moment(&site, 7, 6, 1_500).await;
    // Told apart from what an idempotent producer leaves: a transaction ends with a marker that takes an offset.
    let ends = kafka::watermarks(&site.cluster(), "iot.gw.management.rep").await;
    let records: i64 = ends.unwrap().values().sum();
    assert!(
        records > i64::try_from(REQUESTS).unwrap() + 1,
        "{records} offsets: no transactions"
    );
}
