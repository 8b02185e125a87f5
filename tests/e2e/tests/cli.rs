//! The command line: what each tool prints, how it ends, and where its settings come from.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use e2e::{Outcome, Service, Site, Tap, Zeelos, zeelos};
use testkit::{Launch, RunDir, free_port};
use tokio::sync::OnceCell;

/// An embedded broker and registry for all tests here; each uses topics of its own.
async fn site() -> anyhow::Result<&'static Site> {
    static SITE: OnceCell<(Site, [Service; 2])> = OnceCell::const_new();
    let started = SITE.get_or_try_init(|| async {
        let bootstrap = format!("127.0.0.1:{}", free_port());
        let listen = format!("127.0.0.1:{}", free_port());
        let kafka = Service::start(
            "embedded-kafka",
            ["--data-dir", "data", "--listen", &bootstrap],
        );
        let kafka = kafka.await?;
        let arguments = ["--listen", &listen, "--kafka-bootstrap-server", &bootstrap];
        let registry = Service::start("schema-registry", arguments).await?;
        let site = Site {
            bootstrap,
            registry: format!("http://{listen}"),
        };
        anyhow::Ok((site, [kafka, registry]))
    });
    Ok(&started.await?.0)
}

const NOBODY: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

/// Fails with this code, and says all these things on standard error without a panic.
fn fails(outcome: &Outcome, code: i32, says: &[&str]) {
    assert_eq!(outcome.code(), Some(code), "{outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    for words in says {
        assert!(outcome.stderr.contains(words), "no '{words}': {outcome}");
    }
}

fn request(ep: &str, ticket: &str) -> String {
    format!(
        r#"{{"serverId": "x", "ep": "{ep}", "ticket": "{ticket}", "payload": {{"kind": "read", "path": "/3/0/0", "contentFormat": "TLV", "body": null}}}}"#
    )
}

#[tokio::test]
async fn topics_are_made_listed_and_deleted() -> anyhow::Result<()> {
    let site = site().await?;
    let topics = |words: &str| Zeelos::new(&format!("topics {words}")).at(site);
    topics("create some.topic --partitions 3 --topic-config retention.ms=60000")
        .succeed()
        .await?;
    let list = topics("list").succeed().await?;
    let line = list
        .stdout
        .lines()
        .find(|line| line.starts_with("some.topic "));
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    assert_eq!(words, ["some.topic", "3", "0"], "{list}");

    let again = topics("create some.topic").run().await?;
    fails(&again, 1, &["'some.topic' exists already"]);
    let odd = topics("create other --topic-config retention")
        .run()
        .await?;
    fails(&odd, 1, &["--topic-config 'retention': expected key=value"]);

    topics("delete some.topic").succeed().await?;
    let list = topics("list").succeed().await?;
    assert!(!list.stdout.contains("some.topic"), "{list}");
    let gone = topics("delete some.topic").run().await?;
    fails(&gone, 1, &["some.topic"]);
    Ok(())
}

#[tokio::test]
async fn what_is_produced_is_consumed() -> anyhow::Result<()> {
    let site = site().await?;
    let topic = "iot.lines.management.req";
    let lines = [
        format!("a\u{2192}{}", request("ep-1", "first")),
        "no separator".to_owned(),
        String::new(),
        "b\u{2192}{\"not\": \"a request\"}".to_owned(),
        format!("c\u{2192}{}", request("ep-2", "second")),
    ];
    let produced = Zeelos::new(&format!("produce --topic {topic} --key-separator \u{2192}"))
        .at(site)
        .input(lines.join("\n"))
        .run()
        .await?;
    // The good lines went through; the bad ones are named by their numbers.
    fails(
        &produced,
        1,
        &[
            "line 2: no separator",
            "line 4: ",
            "there is no field `not`",
        ],
    );

    let consumed = Zeelos::new("consume --from-beginning --max-messages 2 --print-key --topic")
        .arg(topic)
        .at(site)
        .succeed()
        .await?;
    let mut seen: Vec<(&str, serde_json::Value)> = Vec::new();
    for line in consumed.stdout.lines() {
        let (key, value) = line.split_once('\t').with_context(|| line.to_owned())?;
        seen.push((key, serde_json::from_str(value)?));
    }
    let first: serde_json::Value = serde_json::from_str(&request("ep-1", "first"))?;
    let second: serde_json::Value = serde_json::from_str(&request("ep-2", "second"))?;
    assert_eq!(seen, [("a", first), ("c", second)]);
    Ok(())
}

#[tokio::test]
async fn a_topic_outside_the_contract_wants_its_schema() -> anyhow::Result<()> {
    let site = site().await?;
    let produce = || {
        Zeelos::new("produce --topic weather")
            .at(site)
            .input("{\"rain\": true}")
    };
    let refused = produce().run().await?;
    fails(
        &refused,
        1,
        &[
            "'weather' is none of the contract's topics",
            "--value-schema FILE",
        ],
    );

    let dir = RunDir::new("schema")?;
    let file = dir.path().join("weather.avsc");
    fs::write(
        &file,
        r#"{"type": "record", "name": "Weather", "fields": ["#,
    )?;
    let broken = produce().arg("--value-schema").arg(&file).run().await?;
    fails(&broken, 1, &["weather.avsc"]);
    let missing = produce()
        .args(["--value-schema", "missing.avsc"])
        .run()
        .await?;
    fails(&missing, 1, &["can't read the schema missing.avsc"]);

    let schema =
        r#"{"type": "record", "name": "Weather", "fields": [{"name": "rain", "type": "boolean"}]}"#;
    fs::write(&file, schema)?;
    produce().arg("--value-schema").arg(&file).succeed().await?;
    let consumed = Zeelos::new("consume --topic weather --from-beginning --max-messages 1")
        .at(site)
        .succeed()
        .await?;
    assert_eq!(consumed.stdout.trim(), r#"{"rain":true}"#);
    Ok(())
}

#[tokio::test]
async fn who_is_not_there_is_named() -> anyhow::Result<()> {
    let site = site().await?;
    let missing = Zeelos::new("consume --topic iot.none.observations")
        .at(site)
        .run();
    let broker = Site {
        bootstrap: NOBODY[0].to_owned(),
        ..site.clone()
    };
    let registry = Site {
        registry: format!("http://{}", NOBODY[1]),
        ..site.clone()
    };
    let line = request("ep", "t");
    let produce = |site: &Site| {
        Zeelos::new("produce --topic iot.unreachable.management.req")
            .at(site)
            .input(line.clone())
            .run()
    };
    let send = |site: &Site| {
        Zeelos::new("send demo ep read /3/0/0 --timeout 5")
            .at(site)
            .run()
    };
    let consume = Zeelos::new("consume --topic x").at(&broker).run();
    let (missing, consume, no_broker, no_registry, send_broker, send_registry) = tokio::try_join!(
        missing,
        consume,
        produce(&broker),
        produce(&registry),
        send(&broker),
        send(&registry),
    )?;
    fails(
        &missing,
        1,
        &[
            "there is no topic 'iot.none.observations'",
            "zeelos topics list",
        ],
    );
    fails(&consume, 1, &["no Kafka broker at 127.0.0.1:1 answers"]);
    fails(&no_broker, 1, &["127.0.0.1:1"]);
    fails(&no_registry, 1, &["127.0.0.1:2"]);
    fails(&send_broker, 1, &["127.0.0.1:1"]);
    fails(&send_registry, 1, &["127.0.0.1:2"]);
    Ok(())
}

/// The address that is tried tells where the setting came from.
#[tokio::test]
async fn a_flag_beats_the_environment_beats_a_file_beats_the_default() -> anyhow::Result<()> {
    let dir = RunDir::new("config")?;
    let config = dir.path().join("zeelos.toml");
    fs::write(&config, "kafka-bootstrap-server = \"127.0.0.1:11\"\n")?;
    let section = dir.path().join("section.toml");
    let text = "kafka-bootstrap-server = \"127.0.0.1:11\"\n[topics]\nkafka-bootstrap-server = \"127.0.0.1:12\"\n";
    fs::write(&section, text)?;
    let secret = dir.path().join("bootstrap");
    fs::write(&secret, "127.0.0.1:13\n")?;

    let list = || Zeelos::new("topics list");
    let from_file = || list().arg("--config").arg(&config);
    let variable = "KAFKA_BOOTSTRAP_SERVER";
    let with_file = || from_file().env("KAFKA_BOOTSTRAP_SERVER_FILE", &secret);
    let tries = [
        (from_file(), "127.0.0.1:11"),
        (list().env("ZEELOS_CONFIG", &config), "127.0.0.1:11"),
        (list().arg("--config").arg(&section), "127.0.0.1:12"),
        (with_file(), "127.0.0.1:13"),
        (with_file().env(variable, "127.0.0.1:14"), "127.0.0.1:14"),
        (
            with_file()
                .env(variable, "127.0.0.1:14")
                .args(["--kafka-bootstrap-server", "127.0.0.1:15"]),
            "127.0.0.1:15",
        ),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (command, expected) in tries {
        running.spawn(async move { (command.run().await, expected) });
    }
    for (outcome, expected) in running.join_all().await {
        fails(
            &outcome?,
            1,
            &[&format!("no Kafka broker at {expected} answers")],
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_configuration_says_where() -> anyhow::Result<()> {
    let dir = RunDir::new("wrong-config")?;
    let file = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let list = || Zeelos::new("topics list").arg("--config");
    let unknown = list()
        .arg(file("unknown.toml", "kafka-bootsrap-server = \"x\"\n")?)
        .run()
        .await?;
    fails(
        &unknown,
        2,
        &["unknown.toml", "'kafka-bootsrap-server' is not an option"],
    );
    let section = list()
        .arg(file("section.toml", "[topix]\nlog = \"info\"\n")?)
        .run()
        .await?;
    fails(&section, 2, &["section.toml", "'topix'"]);
    let broken = list().arg(file("broken.toml", "log = \n")?).run().await?;
    fails(&broken, 2, &["broken.toml", "not valid TOML"]);
    let missing = list().arg("missing.toml").run().await?;
    fails(&missing, 2, &["missing.toml", "--config"]);
    let no_secret = Zeelos::new("topics list").env("KAFKA_BOOTSTRAP_SERVER_FILE", "no-such-file");
    fails(
        &no_secret.run().await?,
        2,
        &["no-such-file", "KAFKA_BOOTSTRAP_SERVER_FILE"],
    );
    Ok(())
}

#[tokio::test]
async fn wrong_words_are_refused_with_what_to_do() -> anyhow::Result<()> {
    let cases: [(&str, i32, &[&str]); 8] = [
        ("", 2, &["Usage"]),
        ("upp", 2, &["unrecognized subcommand 'upp'"]),
        (
            "up --gateway a --gateway a",
            1,
            &["--gateway a is given twice"],
        ),
        ("up --gateway a.b", 2, &["--gateway", "letters, digits"]),
        (
            "up --gateway a --gateway b --kafka-gateway h:1",
            1,
            &["--kafka-gateway is for one --gateway only"],
        ),
        (
            "send demo ep read 3303/x",
            2,
            &["part 2 of the path is not an id"],
        ),
        (
            "send demo ep write /3/0/13 yesterday",
            1,
            &["'yesterday' is no time in Unix milliseconds"],
        ),
        ("send demo ep write /40000/0/1 7", 1, &["--type"]),
    ];
    for (words, code, says) in cases {
        fails(&Zeelos::new(words).run().await?, code, says);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let dir = RunDir::new("taken")?;
    let kafka = Zeelos::new("embedded-kafka --data-dir")
        .arg(dir.path())
        .args(["--listen", &listen]);
    fails(&kafka.run().await?, 1, &[&listen, "in use"]);
    Ok(())
}

#[tokio::test]
async fn shells_complete_every_command() -> anyhow::Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = Zeelos::new(&format!("completion {shell}"))
            .succeed()
            .await?
            .stdout;
        for command in [
            "up",
            "send",
            "produce",
            "consume",
            "topics",
            "leshan-server-kafka",
            "mirror",
            "stream-analytics",
        ] {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    // A reader that has seen enough is no failure.
    for words in ["completion bash", "--help"] {
        let dir = RunDir::new("pipe")?;
        let script = format!("'{}' {words} | head -n 1", zeelos().display());
        let mut shell = Launch::new("pipe", "sh")
            .args(["-c", &script])
            .spawn(&dir.path().join("out"))?;
        while shell.exited()?.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(
            !shell.output().contains("panicked"),
            "{words}: {}",
            shell.output()
        );
    }
    Ok(())
}

/// The original's program names and one-dash words, and every operation of `send`, on one cluster.
#[tokio::test]
async fn links_run_services_and_send_runs_every_operation() -> anyhow::Result<()> {
    let site = site().await?;
    let dir = RunDir::new("links")?;
    let link = |name: &str| -> anyhow::Result<PathBuf> {
        let link = dir.path().join(name);
        symlink(fs::canonicalize(zeelos())?, &link)?;
        Ok(link)
    };
    let help = Zeelos::called(&link("mirror")?, ["--help"])
        .succeed()
        .await?;
    assert!(help.stdout.contains("--direction"), "{help}");

    let (coap, web) = (free_port().to_string(), free_port().to_string());
    let mut server = Launch::new("server", link("leshan-server-kafka")?)
        .args([
            "-n",
            "linked",
            "-lh",
            "127.0.0.1",
            "-lp",
            &coap,
            "-wp",
            &web,
        ])
        .env("KAFKA_BOOTSTRAP_SERVER", &site.bootstrap)
        .env("KAFKA_SCHEMA_REGISTRY_URL", &site.registry)
        .current_dir(dir.path())
        .spawn(&dir.path().join("server.log"))?;
    let at = format!("127.0.0.1:{coap}");
    let mut device = Launch::new("device", link("client-demo")?)
        .args(["-u", &at, "-n", "device", "-pos", "48.1:11.5"])
        .spawn(&dir.path().join("device.log"))?;
    let mut registrations = Tap::open(site, "iot.linked.registrations").await?;
    registrations
        .wait(
            Duration::from_secs(30),
            "the device's registration",
            |seen| seen.value["kind"] == "NEW" && seen.key == r#"{"ep":"device"}"#,
        )
        .await
        .with_context(|| format!("{}\n{}", server.tail(), device.tail()))?;

    let operations = [
        ("read /3/0/0", "CONTENT"),
        ("read /6/0/0", "CONTENT"),
        ("read 3303/0", "CONTENT"),
        ("write /1/0/6 true", "CHANGED"),
        ("execute /3303/0/5605", "CHANGED"),
        ("discover /3303", "CONTENT"),
        ("attributes /3303/0/5700 pmin=1 pmax=20", "CHANGED"),
        ("observe /3303/1/5700", "CONTENT"),
        ("cancel /3303/1/5700", "DELETED"),
    ];
    for (operation, code) in operations {
        let sent = Zeelos::new(&format!("send linked device {operation}")).at(site);
        let reply = sent.succeed().await?.json()?;
        assert_eq!(reply["rep"]["code"], code, "{operation}: {reply}");
        assert_eq!(reply["ep"], "device");
    }
    let read = Zeelos::new("send linked device read /6/0/0 --ticket mine").at(site);
    let read = read.succeed().await?.json()?;
    assert_eq!(read["ticket"], "mine");
    assert!(read.to_string().contains("48.1"), "{read}");

    // What a device refuses is printed as well, and told by the exit code.
    for (words, code) in [
        ("send linked device read /3/0/9999", "NOT_FOUND"),
        ("send linked device cancel /3303/1/5700", "NOT_FOUND"),
        ("send linked nobody read /3/0/0", "NOT_FOUND"),
        ("send linked device write /3/0/0 me", "METHOD_NOT_ALLOWED"),
    ] {
        let refused = Zeelos::new(words).at(site).run().await?;
        assert_eq!(refused.code(), Some(2), "{words}: {refused}");
        assert_eq!(refused.json()?["rep"]["code"], code, "{words}: {refused}");
    }
    let silent = Zeelos::new("send ghost device read /3/0/0 --timeout 2 --ticket lost").at(site);
    fails(
        &silent.run().await?,
        1,
        &["no reply with ticket 'lost' within 2 s", "gateway 'ghost'"],
    );

    for child in [&mut device, &mut server] {
        let status = child.terminate(Duration::from_secs(20)).await?;
        assert_eq!(status.code(), Some(0), "{}", child.tail());
    }
    Ok(())
}
