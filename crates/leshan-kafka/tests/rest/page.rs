//! The page: used in a real browser as a person does, and what no other page can do in its place.

use lwm2m_model::Value;
use reqwest::{Method, header};
use testkit::{Browser, wait_for};

use crate::access::closed;
use crate::device::Device;
use crate::done;
use crate::gateway::{Gateway, PATIENCE, answer};

/// A button, by what it is called.
fn button(name: &str) -> String {
    format!("//button[normalize-space()='{name}' and not(ancestor::*[@hidden])]")
}

/// The row of a resource in the view of a device.
fn row(path: &str) -> String {
    format!("//div[@class='row'][.//small='{path}']")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_logs_in_watches_a_value_writes_one_and_logs_out() {
    let (gateway, _, _folder) = closed().await;
    let device = Device::start(gateway.coap, "thermo-1");
    let browser = Browser::start().await.unwrap();
    browser.open(&gateway.url).await.unwrap();

    // Nothing of devices is there before somebody has logged in, and a wrong password is told.
    let log_in = async |password: &str| {
        let field = |name: &str| format!("//dialog[@open]//input[@name='{name}']");
        browser.fill(&field("user"), "operator").await.unwrap();
        browser.fill(&field("password"), password).await.unwrap();
        browser.click(&button("Log in")).await.unwrap();
    };
    log_in("wrong horse").await;
    let error = "//dialog[@open]//p[@role='alert']";
    browser.sees(error, "wrong").await.unwrap();
    assert_eq!(browser.text("//ul[@id='devices']").await.unwrap(), "");
    log_in("correct horse").await;
    browser.sees("//p[@id='me']", "operator").await.unwrap();
    browser.sees("//p[@id='link']", "live").await.unwrap();

    // The device; its objects open, and their values are read.
    let card = "//ul[@id='devices']//button[.//b='thermo-1']";
    browser.click(card).await.unwrap();
    browser
        .sees("//section[@id='device']//h2", "thermo-1")
        .await
        .unwrap();
    let instance = |path: &str| format!("//summary[span='{path}']");
    browser.click(&instance("/3303/0")).await.unwrap();
    let temperature = row("/3303/0/5700");
    let value = format!("{temperature}//div[@class='value']");
    browser.sees(&value, "19.1").await.unwrap();

    // What it measures comes without asking once it is observed.
    browser
        .click(&format!("{temperature}//button[.='Observe']"))
        .await
        .unwrap();
    browser
        .sees(
            &format!("{temperature}//button[@aria-pressed='true']"),
            "Observing",
        )
        .await
        .unwrap();
    for measured in [23.5, -4.25] {
        device.set("/3303/0/5700", Value::Float(measured)).await;
        let value = format!("{temperature}//div[contains(@class, 'value')]");
        browser.sees(&value, &measured.to_string()).await.unwrap();
    }

    // A write reaches the device.
    browser.click(&instance("/3/0")).await.unwrap();
    let timezone = row("/3/0/15");
    browser
        .click(&format!("{timezone}//button[.='Write']"))
        .await
        .unwrap();
    browser
        .fill(&format!("{timezone}//form//input"), "Europe/Athens")
        .await
        .unwrap();
    browser
        .click(&format!("{timezone}//form//button[.='Write']"))
        .await
        .unwrap();
    wait_for(PATIENCE, "the device to have it", async || {
        let there = device.get("/3/0/15").await;
        anyhow::ensure!(there.contains("Europe/Athens"), "{there}");
        Ok(())
    })
    .await
    .unwrap();
    let value = format!("{timezone}//div[contains(@class, 'value')]");
    browser.sees(&value, "Europe/Athens").await.unwrap();

    // Logged out, there is nothing to see, and nothing to get with what the browser still has.
    browser.click(&button("Log out")).await.unwrap();
    browser.sees("//dialog[@open]//h2", "Log in").await.unwrap();
    let devices = "//ul[@id='devices']";
    assert_eq!(browser.text(devices).await.unwrap(), "");
    let status = browser.run(
        "const request = new XMLHttpRequest(); request.open('GET', '/api/clients', false); request.send(); return request.status;",
    );
    assert_eq!(status.await.unwrap(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_runs_only_what_is_its_own() {
    let (gateway, device) = Gateway::with_device("dev1").await;
    let response = gateway.request(Method::GET, "/").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'sha256-"));
    assert!(!policy.contains("unsafe"));
    assert!(response.text().await.unwrap().contains("<script>"));

    // A page of another site that somebody looks at can't reach the devices through the browser.
    let from = |origin: &str| {
        gateway
            .request(Method::POST, "/api/clients/dev1/3/0/12")
            .header(header::ORIGIN, origin)
    };
    for origin in ["http://elsewhere.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(answer(from(origin)).await.0, 403, "{origin}");
    }
    assert_eq!(device.executed().await, "");
    assert_eq!(answer(from(&gateway.url)).await, done("CHANGED(204)"));
    assert_eq!(device.executed().await, "/3/0/12 ");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_logins_no_site_reads_through_the_browser_of_a_user() {
    let gateway = Gateway::start().await;
    let at = |method: Method, path: &str, host: &str| {
        answer(
            gateway
                .request(method, path)
                .header(header::HOST, host.to_owned()),
        )
    };
    for host in ["localhost", "gateway:8080", "192.0.2.7:8080", "[::1]:8080"] {
        assert_eq!(at(Method::GET, "/api/clients", host).await.0, 200, "{host}");
    }
    // Its own name led to its own page a moment ago, and leads here now.
    let rebound = "attacker.example:8080";
    for (method, path) in [
        (Method::GET, "/"),
        (Method::GET, "/api/clients"),
        (Method::GET, "/event"),
        (Method::POST, "/api/clients/dev1/3/0/12"),
        (Method::PUT, "/api/security/clients"),
    ] {
        let (status, reason) = at(method.clone(), path, rebound).await;
        assert_eq!(status, 403, "{method} {path}");
        assert!(reason.to_string().contains("--users-file"), "{reason}");
    }

    let from = |site: &'static str, path: &str| {
        answer(
            gateway
                .request(Method::GET, path)
                .header("sec-fetch-site", site),
        )
    };
    // A link to the page may stand anywhere.
    let link = gateway
        .request(Method::GET, "/")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(link.send().await.unwrap().status(), 200);
    for path in ["/api/clients", "/api/clients/dev1/3/0/0", "/api/event"] {
        assert_eq!(from("cross-site", path).await.0, 403, "{path}");
    }
    for site in ["same-origin", "same-site", "none"] {
        assert_eq!(from(site, "/api/clients").await.0, 200, "{site}");
    }
}
