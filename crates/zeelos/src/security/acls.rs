use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, Subcommand, ValueEnum};
use kafka::{AccessRule, KafkaArgs, allow_access, list_access};
use records::GatewayId;

use super::rules;
use crate::client::print;

/// Prints and applies access rules.
#[derive(Args, Debug)]
pub(crate) struct AclsArgs {
    #[command(subcommand)]
    action: Action,
    /// A gateway; for the cloud's cluster may be given more than once
    #[arg(long, value_name = "ID")]
    gateway: Vec<GatewayId>,
    /// Which cluster's rules
    #[arg(long, value_enum, default_value = "cloud")]
    cluster: Site,
    /// Only this role's rules (may be given more than once)
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    #[command(flatten)]
    kafka: KafkaArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Cloud,
    Gateway,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print the rules as commands of Kafka's kafka-acls
    Print,
    /// Put the rules in force; those that are there stay
    Apply {
        /// Say what would be added, and add nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// List the rules in force at the cluster
    List,
}

impl AclsArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match &self.action {
            Action::Print => {
                let mut text = String::from(
                    "#!/bin/sh -e\n# The brokers' own certificates stand in super.users.\n",
                );
                for rule in self.rules()? {
                    text.push_str(&self.command(&rule));
                }
                print(text.as_bytes())
            }
            Action::Apply { dry_run } => self.apply(*dry_run).await,
            Action::List => {
                let rules = list_access(&self.kafka.cluster()?).await?;
                let lines: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
                print(lines.as_bytes())
            }
        }
    }

    fn rules(&self) -> anyhow::Result<Vec<AccessRule>> {
        ensure!(!self.gateway.is_empty(), "which gateways? --gateway ID");
        let mut rules = match self.cluster {
            Site::Cloud => rules::of_cloud(&self.gateway),
            Site::Gateway => {
                ensure!(
                    self.gateway.len() == 1,
                    "--cluster gateway is one gateway's: give --gateway once"
                );
                rules::of_gateway(&self.gateway[0])
            }
        };
        if !self.role.is_empty() {
            for role in &self.role {
                ensure!(
                    rules.iter().any(|rule| rule.principal == *role),
                    "no rule is for '{role}' at this cluster"
                );
            }
            rules.retain(|rule| self.role.contains(&rule.principal));
        }
        Ok(rules)
    }

    async fn apply(&self, dry_run: bool) -> anyhow::Result<ExitCode> {
        let cluster = self.kafka.cluster()?;
        let there = list_access(&cluster).await?;
        let wanted = self.rules()?;
        let missing: Vec<AccessRule> = wanted
            .iter()
            .filter(|rule| there.binary_search(rule).is_err())
            .cloned()
            .collect();
        if !dry_run && !missing.is_empty() {
            allow_access(&cluster, &missing).await?;
        }
        let verb = if dry_run { "would add" } else { "added" };
        let mut text: String = missing
            .iter()
            .map(|rule| format!("{verb}: {rule}\n"))
            .collect();
        text.push_str(&format!(
            "{} {verb}, {} were there\n",
            missing.len(),
            wanted.len() - missing.len()
        ));
        print(text.as_bytes())
    }

    fn command(&self, rule: &AccessRule) -> String {
        let flag = if rule.allowed { "allow" } else { "deny" };
        let mut command = format!(
            "kafka-acls --bootstrap-server {}",
            self.kafka.kafka_bootstrap_server
        );
        if let Some(file) = &self.kafka.kafka_ssl_properties_location {
            command.push_str(&format!(" --command-config {}", file.display()));
        }
        command.push_str(&format!(
            " --add --{flag}-principal 'User:{}' --operation {}",
            rule.principal, rule.operation
        ));
        if rule.resource == kafka::Resource::Cluster {
            command.push_str(" --cluster");
        } else {
            command.push_str(&format!(" --{} '{}'", rule.resource, rule.name));
        }
        if rule.prefixed {
            command.push_str(" --resource-pattern-type prefixed");
        }
        command.push('\n');
        command
    }
}
