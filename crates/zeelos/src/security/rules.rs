//! Who may do what, role by role: as little as each needs.
//!
//! Brokers are not among them: they are `super.users` of their cluster.

use std::collections::BTreeSet;

use kafka::letters::{RETRIED_TOPIC, TRANSACTIONAL_ID};
use kafka::{AccessRule, Operation, Resource};
use records::{GatewayId, TopicKind};

use Operation::{Create, Describe, DescribeConfigs, Read, Write};
use Resource::{Cluster, Group, Topic, TransactionalId};

/// The rules of the cloud's cluster for these gateways.
pub(crate) fn of_cloud(gateways: &[GatewayId]) -> Vec<AccessRule> {
    let mut rules = Rules::default();
    rules.registry("schema-registry-cloud");
    rules.exporter("kafka-exporter-cloud", gateways, into_cloud);
    rules.connect("connect-cloud", gateways);
    for operator in ["client-cloud", "rest-cloud"] {
        rules.operator(operator, gateways);
    }
    for gateway in gateways {
        rules.mirror_at_cloud(gateway);
    }
    rules.done()
}

/// The rules of a gateway's own cluster.
pub(crate) fn of_gateway(gateway: &GatewayId) -> Vec<AccessRule> {
    let mut rules = Rules::default();
    let role = |name: &str| format!("{name}-{gateway}");
    rules.registry(&role("schema-registry-gateway"));
    rules.exporter(
        &role("kafka-exporter-gateway"),
        std::slice::from_ref(gateway),
        into_edge,
    );
    for operator in ["client-gateway", "rest-gateway"] {
        rules.operator(&role(operator), std::slice::from_ref(gateway));
    }
    rules.server(&role("leshan-server-kafka"), gateway);
    rules.analytics(&role("analytics"), gateway);
    rules.mirror_at_gateway(gateway);
    rules.done()
}

/// The flow that writes at the cloud.
fn into_cloud(gateway: &GatewayId) -> String {
    format!("mirrormaker_cloud_{gateway}")
}

fn into_edge(gateway: &GatewayId) -> String {
    format!("mirrormaker_edge_{gateway}")
}

/// Where a flow keeps its offsets, at its target.
fn offsets(flow: &str) -> String {
    format!("{flow}.mirror-offsets")
}

#[derive(Default)]
struct Rules(Vec<AccessRule>);

/// What a rule is about.
#[derive(Clone, Copy)]
struct About<'a> {
    resource: Resource,
    name: &'a str,
    prefixed: bool,
}

fn exactly(resource: Resource, name: &str) -> About<'_> {
    About {
        resource,
        name,
        prefixed: false,
    }
}

fn beginning(resource: Resource, name: &str) -> About<'_> {
    About {
        resource,
        name,
        prefixed: true,
    }
}

impl Rules {
    fn done(mut self) -> Vec<AccessRule> {
        // librdkafka looks for the coordinator of the group it was given a name for, even where it never joins it.
        let principals: BTreeSet<String> =
            self.0.iter().map(|rule| rule.principal.clone()).collect();
        for principal in principals {
            self.allow(&principal, beginning(Group, "zeelos-"), &[Describe]);
        }
        self.0.sort();
        self.0.dedup();
        self.0
    }

    fn allow(&mut self, principal: &str, about: About<'_>, operations: &[Operation]) {
        self.add(principal, about, operations, true);
    }

    fn add(&mut self, principal: &str, about: About<'_>, operations: &[Operation], allowed: bool) {
        for operation in operations {
            self.0.push(AccessRule {
                principal: principal.to_owned(),
                resource: about.resource,
                name: about.name.to_owned(),
                prefixed: about.prefixed,
                operation: *operation,
                allowed,
            });
        }
    }

    /// Its topic holds the schemas; the group is that of Confluent's, which elects a leader.
    fn registry(&mut self, role: &str) {
        let all = [Read, Write, Create, Describe, DescribeConfigs];
        self.allow(role, exactly(Topic, "_schemas"), &all);
        self.allow(role, exactly(Group, "schema-registry"), &[Read]);
    }

    /// What it shows of mirrors it reads in the offsets that they keep.
    fn exporter(&mut self, role: &str, gateways: &[GatewayId], into: fn(&GatewayId) -> String) {
        for gateway in gateways {
            self.allow(role, exactly(Topic, &offsets(&into(gateway))), &[Read]);
        }
        self.allow(role, exactly(Topic, "*"), &[Describe]);
        self.allow(role, exactly(Group, "*"), &[Describe]);
        self.allow(role, exactly(Cluster, "kafka-cluster"), &[Describe]);
    }

    /// Sinks: what they read, their dead letters, and the topics that keep connectors.
    fn connect(&mut self, role: &str, gateways: &[GatewayId]) {
        for gateway in gateways {
            for kind in [
                TopicKind::Observations,
                TopicKind::ManagementRep,
                TopicKind::Registrations,
            ] {
                self.reads(role, &kind.topic(gateway));
            }
        }
        let own = [Read, Write, Create, DescribeConfigs];
        self.allow(role, beginning(Topic, "connect-"), &own);
        self.allow(role, beginning(Group, "connect-"), &[Read]);
    }

    /// People and their tools: they see everything, and send requests.
    fn operator(&mut self, role: &str, gateways: &[GatewayId]) {
        for gateway in gateways {
            for prefix in [format!("iot.{gateway}."), format!("analytics.{gateway}.")] {
                // The walkthrough creates topics.
                self.allow(role, beginning(Topic, &prefix), &[Read, Create]);
            }
            let requests = TopicKind::ManagementReq.topic(gateway);
            self.allow(role, exactly(Topic, &requests), &[Write]);
        }
        // What Kafka's console consumers call their groups.
        self.allow(role, beginning(Group, "console-consumer-"), &[Read]);
        // `zeelos dlq retry`, for requests.
        let marks = [Read, Write, Create];
        self.allow(role, exactly(Topic, RETRIED_TOPIC), &marks);
        let transactions = exactly(TransactionalId, TRANSACTIONAL_ID);
        self.allow(role, transactions, &[Write]);
    }

    fn server(&mut self, role: &str, gateway: &GatewayId) {
        for kind in [TopicKind::Registrations, TopicKind::Observations] {
            self.allow(role, exactly(Topic, &kind.topic(gateway)), &[Write, Create]);
        }
        // After a crash it looks which replies are there.
        let replies = TopicKind::ManagementRep.topic(gateway);
        self.allow(role, exactly(Topic, &replies), &[Read, Write, Create]);
        let requests = TopicKind::ManagementReq.topic(gateway);
        self.reads(role, &requests);
        // It is the one that waits for them, and makes the topic where the mirror did not yet.
        self.allow(role, exactly(Topic, &requests), &[Create]);
        self.allow(role, exactly(Group, gateway.as_str()), &[Read]);
        let transactions = format!("leshan-server-kafka-{gateway}-");
        self.allow(role, beginning(TransactionalId, &transactions), &[Write]);
    }

    fn analytics(&mut self, role: &str, gateway: &GatewayId) {
        self.reads(role, &TopicKind::Observations.topic(gateway));
        let results = format!("analytics.{gateway}.");
        // It reads its own results after a crash.
        self.allow(role, beginning(Topic, &results), &[Read, Write, Create]);
        for group in ["leshan-simple-analytics", "leshan-maxper30sec-analytic"] {
            self.allow(role, beginning(Group, group), &[Read]);
        }
    }

    /// Writes what the gateway says, reads what it is told.
    fn mirror_at_cloud(&mut self, gateway: &GatewayId) {
        let role = format!("mirror-{gateway}");
        let prefix = format!("iot.{gateway}.");
        self.allow(&role, beginning(Topic, &prefix), &[Write, Create]);
        let requests = TopicKind::ManagementReq.topic(gateway);
        self.allow(&role, exactly(Topic, &requests), &[Read]);
        // Its certificate is at the edge, where it may be stolen: it may not give the gateway orders from here.
        self.add(&role, exactly(Topic, &requests), &[Write], false);
        self.flow(&role, &into_edge(gateway), &into_cloud(gateway));
    }

    fn mirror_at_gateway(&mut self, gateway: &GatewayId) {
        let role = format!("mirror-{gateway}");
        let prefix = format!("iot.{gateway}.");
        self.allow(&role, beginning(Topic, &prefix), &[Read]);
        let requests = TopicKind::ManagementReq.topic(gateway);
        self.allow(&role, exactly(Topic, &requests), &[Write, Create]);
        let letters = format!("{requests}.dlq");
        self.allow(&role, exactly(Topic, &letters), &[Write, Create]);
        self.flow(&role, &into_cloud(gateway), &into_edge(gateway));
    }

    /// The two flows of a gateway as one cluster sees them: `out` reads here, `into` writes here, with its offsets and
    /// transactions. Names are whole or end with a dot, since one gateway's id may begin like another's.
    fn flow(&mut self, role: &str, out: &str, into: &str) {
        self.allow(role, exactly(Group, out), &[Read]);
        self.allow(role, exactly(Group, into), &[Describe]);
        self.allow(role, beginning(Group, &format!("{out}.")), &[Read]);
        let own = [Read, Write, Create, DescribeConfigs];
        self.allow(role, exactly(Topic, &offsets(into)), &own);
        // To see a flow that would carry its own records back.
        self.allow(role, exactly(Topic, &offsets(out)), &[Read]);
        self.allow(role, exactly(TransactionalId, into), &[Write]);
        self.allow(
            role,
            beginning(TransactionalId, &format!("{into}.")),
            &[Write],
        );
    }

    /// Reads a topic and puts aside what can't be read.
    fn reads(&mut self, role: &str, topic: &str) {
        self.allow(role, exactly(Topic, topic), &[Read]);
        let letters = format!("{topic}.dlq");
        self.allow(role, exactly(Topic, &letters), &[Write, Create]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(id: &str) -> GatewayId {
        id.parse().unwrap()
    }

    /// As Kafka decides it: a denial counts above all.
    fn may(rules: &[AccessRule], principal: &str, operation: Operation, topic: &str) -> bool {
        let counts = |allowed: bool| {
            rules.iter().any(|rule| {
                rule.principal == principal
                    && rule.resource == Topic
                    && rule.operation == operation
                    && rule.allowed == allowed
                    && (rule.name == topic || (rule.prefixed && topic.starts_with(&rule.name)))
            })
        };
        counts(true) && !counts(false)
    }

    #[test]
    fn a_gateways_mirror_writes_its_own_topics_and_orders_nobody() {
        let rules = of_cloud(&[gateway("A"), gateway("AB")]);
        assert!(may(&rules, "mirror-A", Write, "iot.A.observations"));
        assert!(may(&rules, "mirror-A", Write, "iot.A.observations.dlq"));
        assert!(!may(&rules, "mirror-A", Write, "iot.AB.observations"));
        assert!(!may(&rules, "mirror-A", Read, "iot.A.observations"));
        assert!(may(&rules, "mirror-A", Read, "iot.A.management.req"));
        assert!(!may(&rules, "mirror-A", Write, "iot.A.management.req"));
        assert!(may(
            &rules,
            "mirror-A",
            Write,
            "mirrormaker_cloud_A.mirror-offsets"
        ));
        assert!(!may(
            &rules,
            "mirror-A",
            Write,
            "mirrormaker_cloud_AB.mirror-offsets"
        ));
    }

    #[test]
    fn operators_send_requests_and_forge_no_values() {
        let rules = of_cloud(&[gateway("A")]);
        assert!(may(&rules, "client-cloud", Write, "iot.A.management.req"));
        assert!(!may(&rules, "client-cloud", Write, "iot.A.observations"));
        assert!(may(&rules, "client-cloud", Read, "iot.A.observations"));
        assert!(may(&rules, "connect-cloud", Read, "iot.A.registrations"));
        assert!(!may(&rules, "connect-cloud", Write, "iot.A.registrations"));
    }

    #[test]
    fn no_rule_is_for_everybody_or_for_everything() {
        let mut all = of_cloud(&[gateway("A")]);
        all.extend(of_gateway(&gateway("A")));
        for rule in all {
            assert_ne!(rule.principal, "*", "{rule}");
            assert_ne!(rule.operation, Operation::All, "{rule}");
            assert!(rule.name != "*" || rule.operation == Describe, "{rule}");
        }
    }
}
