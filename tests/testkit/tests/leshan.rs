//! The Leshan client registers at a server of a few lines, and is read, rebooted and told a value.

use std::net::SocketAddr;
use std::time::Duration;

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};
use testkit::LeshanClient;
use tokio::net::UdpSocket;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers a registration with 2.01 and `/rd/7`, and returns its packet and whom it came from.
async fn accept_registration(socket: &UdpSocket) -> anyhow::Result<(Packet, SocketAddr)> {
    loop {
        let (packet, device) = receive(socket).await?;
        if packet.header.code == MessageClass::Request(RequestType::Post) {
            acknowledge(socket, &packet, device, ResponseType::Created).await?;
            return Ok((packet, device));
        }
    }
}

async fn acknowledge(
    socket: &UdpSocket,
    request: &Packet,
    device: SocketAddr,
    code: ResponseType,
) -> anyhow::Result<()> {
    let mut reply = Packet::new();
    reply.header.set_type(MessageType::Acknowledgement);
    reply.header.code = MessageClass::Response(code);
    reply.header.message_id = request.header.message_id;
    reply.set_token(request.get_token().to_vec());
    if code == ResponseType::Created {
        reply.add_option(CoapOption::LocationPath, b"rd".to_vec());
        reply.add_option(CoapOption::LocationPath, b"7".to_vec());
    }
    socket
        .send_to(&reply.to_bytes().expect("a small packet"), device)
        .await?;
    Ok(())
}

fn queries(packet: &Packet) -> Vec<String> {
    let values = packet
        .get_option(CoapOption::UriQuery)
        .into_iter()
        .flatten();
    values
        .map(|query| String::from_utf8_lossy(query).into_owned())
        .collect()
}

/// Sends a request and waits for the piggybacked answer.
async fn ask(
    socket: &UdpSocket,
    device: SocketAddr,
    method: RequestType,
    path: &str,
    id: u16,
) -> anyhow::Result<Packet> {
    let mut request = Packet::new();
    request.header.set_type(MessageType::Confirmable);
    request.header.code = MessageClass::Request(method);
    request.header.message_id = id;
    request.set_token(id.to_be_bytes().to_vec());
    for segment in path.split('/') {
        request.add_option(CoapOption::UriPath, segment.as_bytes().to_vec());
    }
    // 0: plain text.
    request.add_option(CoapOption::Accept, Vec::new());
    socket
        .send_to(&request.to_bytes().expect("a small packet"), device)
        .await?;
    loop {
        let (packet, _) = receive(socket).await?;
        if packet.get_token() == id.to_be_bytes() {
            return Ok(packet);
        }
    }
}

async fn receive(socket: &UdpSocket) -> anyhow::Result<(Packet, SocketAddr)> {
    let mut datagram = [0; 2048];
    let (length, from) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut datagram)).await??;
    Ok((
        Packet::from_bytes(&datagram[..length]).expect("a CoAP packet"),
        from,
    ))
}

#[tokio::test]
async fn it_registers_answers_and_obeys() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let mut client =
        LeshanClient::start(&format!("coap://{}", socket.local_addr()?), "device-1").await?;

    let (registration, device) = accept_registration(&socket).await?;
    assert_eq!(client.registered(PATIENCE).await?, "/rd/7");
    let queries = queries(&registration);
    assert!(
        queries.contains(&"ep=device-1".to_owned()) && queries.contains(&"lwm2m=1.1".to_owned()),
        "{queries:?}"
    );
    let links = String::from_utf8(registration.payload)?;
    for link in ["</3/0>", "</3303/0>", "</3303/1>"] {
        assert!(links.contains(link), "no {link} in {links}");
    }

    // It changes by itself, and no longer once it is set.
    client
        .wait_for_line(PATIENCE, "value /3303/1/5700 30.1")
        .await?;
    client.set("3303/1/5700", 41.25)?;
    client
        .wait_for_line(PATIENCE, "value /3303/1/5700 41.25")
        .await?;
    client
        .wait_for_line(PATIENCE, "value /3303/0/5700 20.3")
        .await?;
    let answer = ask(&socket, device, RequestType::Get, "3303/1/5700", 1).await?;
    assert_eq!(
        answer.header.code,
        MessageClass::Response(ResponseType::Content)
    );
    assert_eq!(answer.payload, b"41.25");

    let answer = ask(&socket, device, RequestType::Post, "3/0/4", 2).await?;
    assert_eq!(
        answer.header.code,
        MessageClass::Response(ResponseType::Changed)
    );
    client.wait_for_line(PATIENCE, "executed /3/0/4").await?;
    Ok(())
}

#[tokio::test]
async fn it_updates_and_deregisters_with_a_lifetime_of_its_own() -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let uri = format!("coap://{}", socket.local_addr()?);
    let builder = LeshanClient::builder().lifetime(Duration::from_secs(77));
    let mut client = builder.start(&uri, "brief").await?;

    let (registration, _) = accept_registration(&socket).await?;
    client.registered(PATIENCE).await?;
    assert!(queries(&registration).contains(&"lt=77".to_owned()));

    client.update()?;
    let (update, device) = receive(&socket).await?;
    assert_eq!(update.header.code, MessageClass::Request(RequestType::Post));
    acknowledge(&socket, &update, device, ResponseType::Changed).await?;
    client.wait_for_line(PATIENCE, "updated").await?;

    client.deregister()?;
    let (farewell, device) = receive(&socket).await?;
    assert_eq!(
        farewell.header.code,
        MessageClass::Request(RequestType::Delete)
    );
    acknowledge(&socket, &farewell, device, ResponseType::Deleted).await?;
    client.wait_for_line(PATIENCE, "deregistered").await?;
    Ok(())
}
