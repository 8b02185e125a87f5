//! The program is there. (Small, so that building the program together with a test costs little: see `program.rs`.)

use e2e::Zeelos;

#[tokio::test]
async fn it_says_its_version() -> anyhow::Result<()> {
    let outcome = Zeelos::new("--version").succeed().await?;
    let expected = concat!("zeelos ", env!("CARGO_PKG_VERSION"));
    assert_eq!(outcome.stdout.trim(), expected);
    Ok(())
}
