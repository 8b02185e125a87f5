use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cache::{self, Entry};
use crate::http::{self, HttpServer};
use crate::{Child, RunDir, free_port, java};

const ARTIFACTS: [&str; 2] = [
    "com.orientechnologies:orientdb-server:3.2.36",
    "com.orientechnologies:orientdb-graphdb:3.2.36",
];
const DATABASE: &str = "zeelosdb";
const USER: &str = "root";
const PASSWORD: &str = "testkit";

/// OrientDB 3.2 with its REST API and one empty database.
#[derive(Debug)]
pub struct OrientDb {
    server: HttpServer,
}

impl OrientDb {
    pub async fn start() -> anyhow::Result<Self> {
        let installed = install().await?;
        let orientdb = Self {
            server: start(&installed).await?,
        };
        let request = orientdb.server.client().post(format!(
            "{}/database/{DATABASE}/plocal/document",
            orientdb.url()
        ));
        http::text(request.basic_auth(USER, Some(PASSWORD))).await?;
        Ok(orientdb)
    }

    /// The base of the REST API: `/command/…`, `/batch/…` and so on follow it.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    pub fn database(&self) -> &str {
        DATABASE
    }

    pub fn user(&self) -> &str {
        USER
    }

    pub fn password(&self) -> &str {
        PASSWORD
    }

    /// Runs one SQL statement; its rows are under `result`.
    pub async fn command(&self, sql: &str) -> anyhow::Result<Value> {
        let request = self
            .server
            .client()
            .post(format!("{}/command/{DATABASE}/sql", self.url()))
            .basic_auth(USER, Some(PASSWORD))
            .body(sql.to_owned());
        http::json(request).await
    }

    /// The process, to pause it or to read its log.
    pub fn process(&mut self) -> &mut Child {
        self.server.process()
    }

    /// Ends it in good order; its data stays. (Killed within seconds of creating a database, this version loses it: its
    /// own recovery then ends in a null pointer, and clients get a 401.)
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.server.stop_in_order().await
    }

    /// Starts it again on the same port and data, ending it first if it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.stop_in_order().await?;
        self.server.restart().await
    }
}

/// Fetches it, and starts it once to write the class-data archive.
async fn install() -> anyhow::Result<PathBuf> {
    let missing = match cache::entry("orientdb-3.2.36", &ARTIFACTS.join(" ")).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    java::copy_dependencies(dir, &ARTIFACTS).await?;
    let dir = missing.place()?;
    let (child, _data) = start(dir).await?.into_parts();
    java::write_archive(child, &archive(dir)).await?;
    missing.whole()
}

fn archive(installed: &Path) -> PathBuf {
    installed.join("orientdb.jsa")
}

async fn start(installed: &Path) -> anyhow::Result<HttpServer> {
    let dir = RunDir::new("orientdb")?;
    let port = free_port();
    let config = dir.path().join("orientdb-server-config.xml");
    fs::write(&config, server_config(port))?;
    let launch = java::jvm("OrientDB", &archive(installed))
        // What it reaches into by reflection, as its own start script allows.
        .args(
            [
                "java.base/java.lang=ALL-UNNAMED",
                "java.base/sun.security.x509=ALL-UNNAMED",
                "jdk.unsupported/sun.misc=ALL-UNNAMED",
            ]
            .map(|opened| format!("--add-opens={opened}")),
        )
        // MiB outside the heap; without it, it takes most of the machine's memory.
        .arg("-Dstorage.diskCache.bufferSize=256")
        .arg(format!("-DORIENTDB_HOME={}", dir.path().display()))
        .arg(format!("-Dorientdb.config.file={}", config.display()))
        .arg("-cp")
        .arg(java::class_path(&installed.join("lib"))?)
        .arg("com.orientechnologies.orient.server.OServerMain")
        .env("ORIENTDB_ROOT_PASSWORD", PASSWORD)
        .current_dir(dir.path());
    let url = format!("http://127.0.0.1:{port}");
    // It listens before it knows its users.
    let ready = http::client()
        .get(format!("{url}/server"))
        .basic_auth(USER, Some(PASSWORD));
    HttpServer::start(launch, dir, url, ready).await
}

/// The HTTP listener alone, and the one user.
fn server_config(port: u16) -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<orient-server>
  <network>
    <protocols>
      <protocol name="http" implementation="com.orientechnologies.orient.server.network.protocol.http.ONetworkProtocolHttpDb"/>
    </protocols>
    <listeners>
      <listener protocol="http" ip-address="127.0.0.1" port-range="{port}"/>
    </listeners>
  </network>
  <users>
    <user name="{USER}" password="{PASSWORD}" resources="*"/>
  </users>
  <properties/>
</orient-server>
"#
    )
}
