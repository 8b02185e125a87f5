use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::process::{Child, Launch};
use crate::{cache, packages};

/// Fixed versions, so that a test run does not depend on what Maven takes for the newest.
const COPY_DEPENDENCIES: &str =
    "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";
/// The older plugin copies a file even if its parent's POM can't be had, as Apicurio's can't.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy";

/// Copies the `artifacts` (`group:artifact:version`) and all they need at run time into `dir/lib`.
///
/// `-U`: Maven remembers what it did not find, and would not ask again.
pub(crate) async fn copy_dependencies(dir: &Path, artifacts: &[&str]) -> anyhow::Result<()> {
    packages::ensure_java().await?;
    fs::write(dir.join("pom.xml"), pom(artifacts)?)?;
    cache::with_retries(
        &format!("fetching {} with Maven", artifacts.join(", ")),
        async || {
            packages::run(
                "mvn",
                [
                    "-q",
                    "-B",
                    "-U",
                    COPY_DEPENDENCIES,
                    "-DoutputDirectory=lib",
                    "-DincludeScope=runtime",
                ],
                Some(dir),
            )
            .await
        },
    )
    .await
}

/// Copies one file (`group:artifact:version:type:classifier`) into `dir`.
pub(crate) async fn copy_artifact(dir: &Path, artifact: &str) -> anyhow::Result<()> {
    packages::ensure_java().await?;
    let wanted = format!("-Dartifact={artifact}");
    cache::with_retries(&format!("fetching {artifact} with Maven"), async || {
        packages::run(
            "mvn",
            ["-q", "-B", "-U", COPY, &wanted, "-DoutputDirectory=."],
            Some(dir),
        )
        .await
    })
    .await
}

/// Compiles `dir/<file>` against the jars in `dir/lib` into `dir/classes`; `lint` are more options. The encoding is said:
/// javac takes the locale's otherwise, and CI has none.
pub(crate) async fn compile(dir: &Path, file: &str, lint: &[&str]) -> anyhow::Result<()> {
    let libraries = class_path(&dir.join("lib"))?;
    let usual = [
        "-encoding",
        "UTF-8",
        "-cp",
        &libraries,
        "-d",
        "classes",
        file,
    ];
    packages::run("javac", lint.iter().chain(&usual), Some(dir)).await
}

/// All jars in `dir`, in an order that is always the same: a class-data archive holds for one order only.
pub(crate) fn class_path(dir: &Path) -> anyhow::Result<String> {
    let mut jars: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jar"))
        .collect();
    jars.sort();
    Ok(jars
        .iter()
        .map(|jar| jar.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":"))
}

/// A small, quickly started JVM: 512 MiB of heap, one collector thread, the fast compiler only. With `archive`, classes
/// come from there, already parsed.
pub(crate) fn jvm(name: &str, archive: &Path) -> Launch {
    let launch =
        Launch::new(name, "java").args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    if archive.exists() {
        return launch
            .arg("-Xshare:auto")
            .arg(format!("-XX:SharedArchiveFile={}", archive.display()));
    }
    launch.arg(format!("-XX:ArchiveClassesAtExit={}", archive.display()))
}

/// Ends a server that was started without its class-data archive, which writes it. A JVM that can't is no
/// failure: the next starts are slower, that is all.
pub(crate) async fn write_archive(mut child: Child, archive: &Path) -> anyhow::Result<()> {
    let ended = child.terminate(Duration::from_secs(120)).await;
    if !archive.exists() {
        eprintln!(
            "testkit: no class-data archive for {}, its starts will be slower: {ended:?}",
            child.name()
        );
        // An empty file keeps the next starts from trying again: a JVM leaves out an archive that it can't read.
        fs::write(archive, b"")?;
    }
    Ok(())
}

fn pom(artifacts: &[&str]) -> anyhow::Result<String> {
    let mut dependencies = String::new();
    for artifact in artifacts {
        let parts: Vec<&str> = artifact.split(':').collect();
        let [group, name, version] = parts[..] else {
            anyhow::bail!("{artifact} is not group:artifact:version")
        };
        write!(
            dependencies,
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        )?;
    }
    Ok(format!(
        "<project><modelVersion>4.0.0</modelVersion><groupId>testkit</groupId><artifactId>testkit</artifactId>\
         <version>1</version><dependencies>{dependencies}</dependencies></project>\n"
    ))
}
