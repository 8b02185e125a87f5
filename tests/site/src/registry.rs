use std::net::SocketAddr;

use ::kafka::SchemaRegistry;
use service::Context;
use testkit::{Apicurio, free_port};

/// A Confluent-compatible schema registry that may go away and come back with what it had.
pub struct Registry {
    url: String,
    server: Server,
}

enum Server {
    Embedded {
        running: Option<schema_registry::Registry>,
        bootstrap: String,
        listen: SocketAddr,
    },
    Apicurio(Box<Apicurio>),
    /// Somebody else's.
    Given,
}

impl Registry {
    /// The embedded registry in this process, with its schemas in that cluster.
    pub async fn start(bootstrap: &str) -> Self {
        let mut registry = Self::away(bootstrap);
        registry.come_back().await;
        registry
    }

    /// The embedded registry, not answering yet.
    pub fn away(bootstrap: &str) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self {
            url: format!("http://{listen}"),
            server: Server::Embedded {
                running: None,
                bootstrap: bootstrap.to_owned(),
                listen,
            },
        }
    }

    /// Apicurio, in a process of its own.
    pub async fn apicurio() -> Self {
        let apicurio = Apicurio::start().await.unwrap();
        Self {
            url: apicurio.url().to_owned(),
            server: Server::Apicurio(Box::new(apicurio)),
        }
    }

    /// One that runs already, and that this does not stop.
    pub fn given(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            server: Server::Given,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client that has nothing in its cache.
    pub fn client(&self) -> SchemaRegistry {
        SchemaRegistry::new(&self.url).unwrap()
    }

    /// Takes it away; Apicurio keeps nothing on disk, so it is frozen.
    pub async fn go_away(&mut self) {
        match &mut self.server {
            Server::Embedded { running, .. } => running.take().unwrap().stop().await.unwrap(),
            Server::Apicurio(apicurio) => apicurio.process().pause().unwrap(),
            Server::Given => panic!("{} belongs to somebody else", self.url),
        }
    }

    pub async fn come_back(&mut self) {
        match &mut self.server {
            Server::Embedded {
                running,
                bootstrap,
                listen,
            } => {
                let args = schema_registry::Args {
                    listen: *listen,
                    ..schema_registry::Args::on_free_port(bootstrap)
                };
                let started = schema_registry::Registry::start(args, Context::detached()).await;
                let started = started.unwrap();
                started.loaded().await;
                *running = Some(started);
            }
            Server::Apicurio(apicurio) => apicurio.process().resume().unwrap(),
            Server::Given => panic!("{} belongs to somebody else", self.url),
        }
    }

    /// Registers schemas that have nothing to do with ours, so that an id means another schema at each site.
    pub async fn take_ids(&self, count: u32) {
        let client = self.client();
        for n in 0..count {
            let schema = format!(r#"{{"type":"record","name":"Taken{count}x{n}","fields":[]}}"#);
            let subject = format!("taken-{n}");
            client.register(&subject, &schema).await.unwrap();
        }
    }

    /// Sets the compatibility level of a subject.
    pub async fn compatibility(&self, subject: &str, level: &str) {
        let url = format!("{}/config/{subject}", self.url);
        let body = format!(r#"{{"compatibility":"{level}"}}"#);
        let request = reqwest::Client::new().put(url);
        let request = request.header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer = request.body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
}
