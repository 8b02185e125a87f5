use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::cache::{self, Entry};

/// Makes sure that `command` is on `PATH`, by installing Debian's `packages` if it is not.
pub async fn ensure_command(command: &str, packages: &[&str]) -> anyhow::Result<()> {
    if find_on_path(command).is_some() {
        return Ok(());
    }
    let names = packages.join(" ");
    install(packages)
    .await
    .with_context(|| format!("the tests need `{command}`; install it by hand (Debian: apt-get install {names}), or run them as root"))?;
    if find_on_path(command).is_none() {
        bail!("apt-get installed {names}, yet there is no `{command}` on PATH");
    }
    Ok(())
}

/// Installs Debian's `packages`.
pub(crate) async fn install(packages: &[&str]) -> anyhow::Result<()> {
    let names = packages.join(" ");
    cache::with_retries(&format!("apt-get install {names}"), async || {
        // An install needs the package lists, and a new machine has none.
        run("apt-get", ["update", "-q"], None).await?;
        let mut args = vec![
            "install",
            "-y",
            "-q",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
        ];
        args.extend(packages);
        run("apt-get", args, None).await
    })
    .await
}

/// Makes sure that `java`, `javac`, `jar` and `mvn` are there.
pub(crate) async fn ensure_java() -> anyhow::Result<()> {
    ensure_command("javac", &["openjdk-17-jdk-headless"]).await?;
    ensure_command("mvn", &["maven"]).await
}

/// The program `command`: the one on `PATH`, or else `path` inside Debian's package `package`, which is unpacked
/// into the cache and not installed, so that no service of it is ever set up or started on the machine.
pub(crate) async fn program(command: &str, package: &str, path: &str) -> anyhow::Result<PathBuf> {
    if let Some(found) = find_on_path(command) {
        return Ok(found);
    }
    let missing = match cache::entry(package, path).await? {
        Entry::Whole(dir) => return Ok(dir.join(path)),
        Entry::Missing(missing) => missing,
    };
    let draft = missing.draft();
    cache::with_retries(&format!("apt-get download {package}"), || {
        download(package, draft)
    })
    .await?;
    let mut files = fs::read_dir(draft)?.flatten().map(|entry| entry.path());
    let archive = files.find(|path| path.extension() == Some(OsStr::new("deb")));
    let archive = archive.with_context(|| format!("apt-get download {package} left no file"))?;
    let unpack = [OsStr::new("-x"), archive.as_os_str(), draft.as_os_str()];
    run("dpkg-deb", unpack, None).await?;
    if !draft.join(path).exists() {
        bail!("Debian's package {package} has no {path}");
    }
    missing.place()?;
    Ok(missing.whole()?.join(path))
}

async fn download(package: &str, dir: &Path) -> anyhow::Result<()> {
    let args = ["download", "-q", package];
    if run("apt-get", args, Some(dir)).await.is_ok() {
        return Ok(());
    }
    // A new machine has no package lists, and old lists name files that are gone.
    run("apt-get", ["update", "-q"], None).await?;
    run("apt-get", args, Some(dir)).await
}

/// Runs a command to its end; its output is in the error when it fails.
pub(crate) async fn run(
    program: &str,
    args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    dir: Option<&Path>,
) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!("{program} failed ({}):\n{end}", output.status);
    }
    Ok(())
}

fn find_on_path(command: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian keeps some servers in the administrator's directories, which a user's PATH lacks.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(command))
        .find(|file| file.is_file())
}
