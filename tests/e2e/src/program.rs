use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The built `zeelos` program, brought up to date on the first call of a test process.
///
/// Cargo gives a test the path of its own package's programs only, so this asks cargo. `ZEELOS_PROGRAM` names another
/// program to test, such as a release build.
///
/// # Panics
/// When it does not build: no test of this crate means anything then.
pub fn zeelos() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("ZEELOS_PROGRAM") {
        Some(given) => PathBuf::from(given),
        None => build(),
    })
}

/// Runs cargo, which has a lock of its own against other builds; it holds none while tests run.
fn build() -> PathBuf {
    let this_test = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args([
        "build",
        "--locked",
        "--quiet",
        "--message-format=json-render-diagnostics",
        // The same selection of features as `cargo test --workspace`, of which the development dependencies are a
        // part once a test is built too: so all but the program itself is there already.
        "--workspace",
        "--bin=zeelos",
        "--test=program",
    ]);
    if let Some(target) = target_dir(&this_test) {
        command.arg("--target-dir").arg(target);
    }
    if let Some(profile) = profile(&this_test) {
        command.arg("--profile").arg(profile);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs, as it ran this test");
    assert!(
        output.status.success(),
        "the zeelos program does not build: {command:?}"
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "zeelos")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program that it built")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate lies two levels below the workspace")
}

/// The folder this test was built into, which cargo marks with a file of its own.
fn target_dir(this_test: &Path) -> Option<&Path> {
    this_test
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists())
}

/// `…/<profile>/deps/<test>`; the folder `debug` holds the profile `dev`.
fn profile(this_test: &Path) -> Option<String> {
    let folder = this_test.ancestors().nth(2)?.file_name()?.to_str()?;
    Some(match folder {
        "debug" => "dev".to_owned(),
        other => other.to_owned(),
    })
}
