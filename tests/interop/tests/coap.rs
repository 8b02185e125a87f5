//! A device's life over CoAP, with each library.

use interop::{Gateway, Library, live, story};

async fn over_coap(library: Library, endpoint: &str) -> anyhow::Result<()> {
    let gateway = Gateway::shared().await;
    let uri = format!("coap://{}", gateway.coap);
    live(gateway, library, &uri, endpoint, &[]).await
}

#[test]
fn libcoap() {
    story(over_coap(Library::LibcoapOpenSsl, "libcoap"));
}

#[test]
fn aiocoap() {
    story(over_coap(Library::Aiocoap, "aiocoap"));
}

#[test]
fn go_coap() {
    story(over_coap(Library::GoCoap, "go-coap"));
}

#[test]
fn go_coap_over_ipv6() {
    story(async {
        let gateway = Gateway::shared().await;
        let uri = format!("coap://{}", Gateway::over_ipv6(&gateway.coap));
        live(gateway, Library::GoCoap, &uri, "go-coap-6", &[]).await
    });
}

#[test]
fn leshan() {
    story(over_coap(Library::Leshan, "leshan"));
}
