use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::http::{self, HttpServer};
use crate::process::Launch;
use crate::{Child, RunDir, ensure_command, free_port, wait_for};

/// A start with a cold disk takes some seconds.
const START: Duration = Duration::from_secs(60);
/// How long an element may take to be there and to take a click.
const SOON: Duration = Duration::from_secs(15);
/// The name that WebDriver gives the reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium without a window, used as a person does, over WebDriver (W3C): what is hidden or covered can't be clicked.
/// Elements are named by XPath, as they stand on the page.
#[derive(Debug)]
pub struct Browser {
    // The driver ends first; killed, it would leave a browser of its own behind, so this one is ours.
    driver: HttpServer,
    _chromium: Child,
    _dir: RunDir,
    session: String,
}

impl Browser {
    /// Starts one that shows nothing yet.
    ///
    /// # Errors
    /// When it can't be installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        ensure_command("chromium", &["chromium"]).await?;
        ensure_command("chromedriver", &["chromium-driver"]).await?;
        let dir = RunDir::new("chromium")?;
        let (port, driver_port) = (free_port(), free_port());
        let mut chromium = Launch::new("Chromium", "chromium")
            .args([
                "--headless=new",
                // Root, as whom tests run in containers, has no sandbox.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--no-proxy-server",
                "--window-size=1280,900",
                "about:blank",
            ])
            .arg(format!("--remote-debugging-port={port}"))
            .arg(format!("--user-data-dir={}", dir.path().display()))
            .env("HOME", dir.path())
            .spawn(&dir.path().join("chromium.log"))?;
        let version = http::client().get(format!("http://127.0.0.1:{port}/json/version"));
        let answers = async || {
            let request = version.try_clone().context("a request without a body")?;
            http::json(request).await.map(drop)
        };
        chromium.ready(START, answers).await?;

        let url = format!("http://127.0.0.1:{driver_port}");
        let launch =
            Launch::new("chromedriver", "chromedriver").arg(format!("--port={driver_port}"));
        let ready = http::client().get(format!("{url}/status"));
        let driver =
            HttpServer::start(launch, RunDir::new("chromedriver")?, url.clone(), ready).await?;
        let options = json!({"debuggerAddress": format!("127.0.0.1:{port}")});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let begun = http::json(driver.client().post(format!("{url}/session")).json(&wanted));
        let begun = begun.await?;
        let session = begun["value"]["sessionId"].as_str();
        Ok(Self {
            session: session.context("a session of WebDriver")?.to_owned(),
            driver,
            _chromium: chromium,
            _dir: dir,
        })
    }

    /// Shows a page.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.post("url", json!({"url": url})).await.map(drop)
    }

    /// Waits until there is such an element that is on display and has this in its text, and answers the text.
    ///
    /// # Errors
    /// When there is none in time; what it says instead is told.
    pub async fn sees(&self, xpath: &str, text: &str) -> anyhow::Result<String> {
        wait_for(SOON, &format!("{xpath} with {text:?}"), async || {
            let shown = self.text(xpath).await?;
            ensure!(shown.contains(text), "it says {shown:?}");
            Ok(shown)
        })
        .await
    }

    /// The text of an element as it is on display.
    ///
    /// # Errors
    /// When there is no such element.
    pub async fn text(&self, xpath: &str) -> anyhow::Result<String> {
        let id = self.find(xpath).await?;
        let text = self.get(&format!("element/{id}/text")).await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Clicks an element, once it is there and nothing covers it.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn click(&self, xpath: &str) -> anyhow::Result<()> {
        wait_for(SOON, &format!("a click on {xpath}"), async || {
            let id = self.find(xpath).await?;
            self.post(&format!("element/{id}/click"), json!({})).await
        })
        .await
        .map(drop)
    }

    /// Types into a field, in place of what stands there.
    ///
    /// # Errors
    /// When there is no such field that takes it.
    pub async fn fill(&self, xpath: &str, text: &str) -> anyhow::Result<()> {
        wait_for(SOON, &format!("typing into {xpath}"), async || {
            let id = self.find(xpath).await?;
            self.post(&format!("element/{id}/clear"), json!({})).await?;
            let typed = json!({"text": text});
            self.post(&format!("element/{id}/value"), typed).await
        })
        .await
        .map(drop)
    }

    /// Runs a script on the page, the body of a function, and answers what it returns.
    ///
    /// # Errors
    /// When it throws.
    pub async fn run(&self, script: &str) -> anyhow::Result<Value> {
        let body = json!({"script": script, "args": []});
        self.post("execute/sync", body).await
    }

    async fn find(&self, xpath: &str) -> anyhow::Result<String> {
        let body = json!({"using": "xpath", "value": xpath});
        let found = self.post("element", body).await?;
        let id = found[ELEMENT].as_str();
        Ok(id.context("a reference to an element")?.to_owned())
    }

    async fn get(&self, command: &str) -> anyhow::Result<Value> {
        let answer = http::json(self.driver.client().get(self.at(command))).await?;
        Ok(answer["value"].clone())
    }

    async fn post(&self, command: &str, body: Value) -> anyhow::Result<Value> {
        let request = self.driver.client().post(self.at(command)).json(&body);
        let answer = http::json(request).await?;
        Ok(answer["value"].clone())
    }

    fn at(&self, command: &str) -> String {
        format!("{}/session/{}/{command}", self.driver.url(), self.session)
    }
}
