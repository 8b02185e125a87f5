use clap::Subcommand;
use service::CommonArgs;

/// Every service by its name.
#[derive(Subcommand, Debug)]
pub(crate) enum Service {
    /// The LwM2M server of a gateway, between its devices and Kafka
    LeshanServerKafka(Box<leshan_kafka::Args>),
    /// Carry a gateway's topics between the edge and the cloud
    Mirror(Box<mirror::Args>),
    /// Write observations and replies to a time-series database
    InfluxdbSink(Box<influxdb_sink::Args>),
    /// Keep the graph of servers, devices and their objects
    AssetSink(Box<asset_sink::Args>),
    /// Aggregate observations in windows of time
    StreamAnalytics(Box<stream_analytics::Args>),
    /// A virtual sensor
    ClientDemo(Box<client_demo::Args>),
    /// A Kafka broker for one machine (one node: where it is outgrown, Apache Kafka takes its place)
    EmbeddedKafka(Box<embedded_kafka::Args>),
    /// A schema registry with Confluent's REST API, kept in the topic _schemas
    SchemaRegistry(Box<schema_registry::Args>),
    /// Show topics' offsets and consumer groups' lags as metrics, by kafka_exporter's names
    KafkaExporter(Box<kafka_exporter::Args>),
}

impl Service {
    pub(crate) fn run(self, common: &CommonArgs) -> anyhow::Result<()> {
        use service::run;
        match self {
            Self::LeshanServerKafka(args) => run("leshan-server-kafka", common, |context| {
                Box::pin(leshan_kafka::run(*args, context))
            }),
            Self::Mirror(args) => run("mirror", common, |context| {
                Box::pin(mirror::run(*args, context))
            }),
            Self::InfluxdbSink(args) => run("influxdb-sink", common, |context| {
                Box::pin(influxdb_sink::run(*args, context))
            }),
            Self::AssetSink(args) => run("asset-sink", common, |context| {
                Box::pin(asset_sink::run(*args, context))
            }),
            Self::StreamAnalytics(args) => run("stream-analytics", common, |context| {
                Box::pin(stream_analytics::run(*args, context))
            }),
            Self::ClientDemo(args) => run("client-demo", common, |context| {
                Box::pin(client_demo::run(*args, context))
            }),
            Self::EmbeddedKafka(args) => run("embedded-kafka", common, |context| {
                Box::pin(embedded_kafka::run(*args, context))
            }),
            Self::SchemaRegistry(args) => run("schema-registry", common, |context| {
                Box::pin(schema_registry::run(*args, context))
            }),
            Self::KafkaExporter(args) => run("kafka-exporter", common, |context| {
                Box::pin(kafka_exporter::run(*args, context))
            }),
        }
    }
}
