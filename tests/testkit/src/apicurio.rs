use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{self, Entry};
use crate::http::{self, HttpServer};
use crate::{Child, RunDir, free_port, java, packages};

const ARTIFACT: &str = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all";

/// Apicurio Registry, a schema registry that speaks Confluent's API too, keeping all in memory.
///
/// Its default compatibility level is `NONE`, where Confluent's own is `BACKWARD`.
#[derive(Debug)]
pub struct Apicurio {
    server: HttpServer,
}

impl Apicurio {
    pub async fn start() -> anyhow::Result<Self> {
        let installed = install().await?;
        Ok(Self {
            server: start(&installed).await?,
        })
    }

    /// The base of the Confluent-compatible API; `/subjects` follows it.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The process, to pause it or to read its log.
    pub fn process(&mut self) -> &mut Child {
        self.server.process()
    }

    /// Kills it: all schemas are gone, as it has no store on disk.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Starts it again, empty, on the same port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.server.restart().await
    }
}

/// Fetches it, and starts it once to write the class-data archive.
async fn install() -> anyhow::Result<PathBuf> {
    let missing = match cache::entry("apicurio-3.0.9", ARTIFACT).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    java::copy_artifact(dir, ARTIFACT).await?;
    let packed = "apicurio-registry-app-3.0.9-all.tar.gz";
    packages::run("tar", ["-xzf", packed], Some(dir)).await?;
    fs::remove_file(dir.join(packed))?;
    let dir = missing.place()?;
    let (child, _data) = start(dir).await?.into_parts();
    java::write_archive(child, &archive(dir)).await?;
    missing.whole()
}

fn archive(installed: &Path) -> PathBuf {
    installed.join("apicurio.jsa")
}

async fn start(installed: &Path) -> anyhow::Result<HttpServer> {
    let dir = RunDir::new("apicurio")?;
    let (port, management) = (free_port(), free_port());
    let launch = java::jvm("Apicurio Registry", &archive(installed))
        .args([
            "-Dquarkus.http.host=127.0.0.1",
            "-Dquarkus.management.host=127.0.0.1",
        ])
        .arg(format!("-Dquarkus.http.port={port}"))
        .arg(format!("-Dquarkus.management.port={management}"))
        .arg("-jar")
        .arg(installed.join("apicurio-registry-app-3.0.9-runner.jar"))
        .current_dir(dir.path());
    let url = format!("http://127.0.0.1:{port}/apis/ccompat/v7");
    let ready = http::client().get(format!("{url}/subjects"));
    HttpServer::start(launch, dir, url, ready).await
}
