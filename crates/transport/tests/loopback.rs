//! Sockets on this machine.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coap::{
    Code, Config, Endpoint, Event, Method, Peer, Request, RequestOptions, Response, Transmit,
};
use transport::{Batch, BindError, SendReport, UdpConfig, UdpTransport};

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn bind(address: SocketAddr) -> UdpTransport {
    UdpTransport::bind(address, &UdpConfig::default()).expect("a socket on this machine")
}

fn to(peer: Peer, payload: impl Into<Bytes>) -> Transmit {
    Transmit {
        to: peer,
        payload: payload.into(),
    }
}

#[tokio::test]
async fn a_batch_takes_what_is_ready_and_keeps_the_rest_for_the_next() {
    let (a, b) = (bind(HERE), bind(HERE));
    let target = Peer::plain(b.local_addr().unwrap());
    let report = a
        .send_all((0..10_u8).map(|n| to(target, vec![n; 100 * usize::from(n)])))
        .await;
    assert_eq!(
        report,
        SendReport {
            sent: 10,
            ..SendReport::default()
        }
    );

    let mut batch = Batch::new(4);
    let mut got = Vec::new();
    while got.len() < 10 {
        b.recv_batch(&mut batch).await.unwrap();
        assert!((1..=4).contains(&batch.len()));
        for (from, datagram) in &batch {
            assert_eq!(from, Peer::plain(a.local_addr().unwrap()));
            got.push(datagram.to_vec());
        }
    }
    let sent: Vec<_> = (0..10_u8).map(|n| vec![n; 100 * usize::from(n)]).collect();
    assert_eq!(got, sent, "an empty datagram is one as well");
    assert_eq!(
        (a.stats().sent, b.stats().received, b.stats().received_bytes),
        (10, 10, 4_500)
    );
}

#[tokio::test]
async fn the_largest_datagrams_come_whole() {
    let (a, b) = (bind(HERE), bind(HERE));
    let target = Peer::plain(b.local_addr().unwrap());
    a.send_all((0..5_u8).map(|n| to(target, vec![n; 65_507])))
        .await;
    let mut batch = Batch::default();
    let mut got = 0;
    while got < 5 {
        b.recv_batch(&mut batch).await.unwrap();
        for (_, datagram) in batch.iter() {
            assert_eq!(datagram, vec![got; 65_507]);
            got += 1;
        }
    }
}

#[tokio::test]
async fn a_closed_port_and_an_impossible_datagram_harm_nobody_else() {
    let (a, b) = (bind(HERE), bind(HERE));
    let gone = bind(HERE).local_addr().unwrap();
    let (gone, here) = (Peer::plain(gone), Peer::plain(b.local_addr().unwrap()));
    let secure = Peer { session: 7, ..here };
    let transmits = [
        to(gone, "x"),
        to(gone, "y"),
        to(here, vec![0; 70_000]),
        to(secure, "secret"),
        to(here, "arrives"),
    ];
    let report = a.send_all(transmits).await;
    assert_eq!((report.failed, report.not_plain), (1, 1));
    let mut batch = Batch::default();
    b.recv_batch(&mut batch).await.unwrap();
    assert_eq!(
        batch
            .iter()
            .map(|(_, datagram)| datagram)
            .collect::<Vec<_>>(),
        [b"arrives"]
    );

    // The refusals are no reason to stop listening either.
    let back = Peer::plain(a.local_addr().unwrap());
    b.send_all([to(back, "back")]).await;
    a.recv_batch(&mut batch).await.unwrap();
    assert_eq!(batch.iter().next().unwrap().1, b"back");
}

#[tokio::test]
async fn a_flood_is_taken_and_answered_in_batches_with_nobody_mixed_up() {
    let server = bind(HERE);
    let target = Peer::plain(server.local_addr().unwrap());
    let devices: Vec<UdpTransport> = (0..100).map(|_| bind(HERE)).collect();
    for (number, device) in (0..100_u8).zip(&devices) {
        device.send_all([to(target, vec![number; 20])]).await;
    }
    let mut batch = Batch::default();
    let mut answers = Vec::new();
    assert!(
        server.try_recv_batch(&mut batch).is_ok(),
        "it does not wait"
    );
    while answers.len() < 100 {
        for (from, datagram) in &batch {
            answers.push(to(from, vec![datagram[0]; 3]));
        }
        if answers.len() < 100 {
            server.recv_batch(&mut batch).await.unwrap();
        }
    }
    assert_eq!(server.send_all(answers).await.sent, 100);
    for (number, device) in (0..100_u8).zip(&devices) {
        device.recv_batch(&mut batch).await.unwrap();
        let all: Vec<_> = batch.iter().collect();
        assert_eq!(all, [(target, &[number; 3][..])]);
    }
    assert!(!server.try_recv_batch(&mut batch).unwrap() && batch.is_empty());
}

#[tokio::test]
async fn waiting_ends_at_the_deadline() {
    let a = bind(HERE);
    let start = Instant::now();
    let mut batch = Batch::default();
    a.wait(&mut batch, Some(start + Duration::from_millis(30)))
        .await
        .unwrap();
    assert!(batch.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_setting_to_change() {
    let taken = bind(HERE).local_addr().unwrap();
    let _holder = bind(taken);
    let config = UdpConfig {
        port_setting: "-lp".to_owned(),
        ..UdpConfig::default()
    };
    let error = UdpTransport::bind(taken, &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "port {}/udp is in use: stop the program that listens on {taken}, or choose another port with -lp",
            taken.port()
        )
    );
    let elsewhere = UdpTransport::bind(([192, 0, 2, 1], 0).into(), &config).unwrap_err();
    assert!(
        matches!(elsewhere, BindError::NotHere { .. }),
        "{elsewhere}"
    );
}

#[tokio::test]
async fn a_socket_for_all_addresses_knows_an_ipv4_peer_by_its_ipv4_address() {
    let any = bind((Ipv6Addr::UNSPECIFIED, 0).into());
    let v4 = bind(HERE);
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, any.local_addr().unwrap().port()));
    v4.send_all([to(Peer::plain(target), "hello")]).await;
    let mut batch = Batch::default();
    any.recv_batch(&mut batch).await.unwrap();
    let (from, _) = batch.iter().next().unwrap();
    assert_eq!(from.addr, v4.local_addr().unwrap());
    assert_eq!(any.send_all([to(from, "and back")]).await.sent, 1);
    v4.recv_batch(&mut batch).await.unwrap();
    assert_eq!(
        batch.iter().next().unwrap(),
        (Peer::plain(target), &b"and back"[..])
    );
}

#[tokio::test]
async fn two_endpoints_talk_through_it() {
    two_endpoints_talk(bind(HERE), bind(HERE)).await;
}

#[tokio::test]
async fn two_endpoints_talk_over_ipv6() {
    let here = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    two_endpoints_talk(bind(here), bind(here)).await;
}

async fn two_endpoints_talk(client: UdpTransport, server: UdpTransport) {
    let target = Peer::plain(server.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut endpoint = Endpoint::new(Config::default(), [1; 32]);
        let mut batch = Batch::default();
        loop {
            server
                .wait(&mut batch, endpoint.next_timeout())
                .await
                .unwrap();
            for (peer, datagram) in &batch {
                endpoint.handle_datagram(Instant::now(), peer, datagram);
            }
            endpoint.handle_timeout(Instant::now());
            while let Some(event) = endpoint.poll_event() {
                if let Event::Request {
                    exchange, request, ..
                } = event
                {
                    let response = Response {
                        payload: request.payload,
                        ..Response::new(Code::CHANGED)
                    };
                    endpoint.respond(Instant::now(), exchange, response);
                }
            }
            server
                .send_all(std::iter::from_fn(|| endpoint.poll_transmit()))
                .await;
        }
    });
    let mut endpoint = Endpoint::new(Config::default(), [2; 32]);
    let body = Bytes::from(vec![b'z'; 20_000]);
    let request = Request {
        payload: body.clone(),
        ..Request::new(Method::Put, ["5", "0", "0"])
    };
    endpoint
        .send_request(Instant::now(), target, request, RequestOptions::default())
        .unwrap();
    let mut batch = Batch::default();
    let answer = loop {
        client
            .send_all(std::iter::from_fn(|| endpoint.poll_transmit()))
            .await;
        if let Some(event) = endpoint.poll_event() {
            break event;
        }
        client
            .wait(&mut batch, endpoint.next_timeout())
            .await
            .unwrap();
        for (peer, datagram) in &batch {
            endpoint.handle_datagram(Instant::now(), peer, datagram);
        }
        endpoint.handle_timeout(Instant::now());
    };
    assert!(matches!(answer, Event::Response { response, .. } if response.payload == body));
    serving.abort();
}
