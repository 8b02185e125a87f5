//! Access rules of a cluster: rdkafka has no calls for them, so Kafka's protocol is spoken here.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::{
    ApiKey, CreateAclsRequest, CreateAclsResponse, DescribeAclsRequest, DescribeAclsResponse,
    RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::Cluster;

/// One access rule: who may do what to what, from anywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessRule {
    /// Whom it is for, without `User:`: the common name of a certificate, or `*`.
    pub principal: String,
    /// What it is about.
    pub resource: Resource,
    /// Its name, or how its name begins.
    pub name: String,
    /// Whether all names that begin so are meant.
    pub prefixed: bool,
    /// What is done.
    pub operation: Operation,
    /// Whether it is allowed or, above all that is allowed, denied.
    pub allowed: bool,
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $code:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`")] $variant,)*
        }

        impl $name {
            fn code(self) -> i8 {
                match self { $(Self::$variant => $code,)* }
            }

            fn of(code: i8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }
    };
}

codes! {
    /// What a rule is about, by Kafka's codes.
    Resource {
        Topic = 2, "topic";
        Group = 3, "group";
        Cluster = 4, "cluster";
        TransactionalId = 5, "transactional-id";
    }
}

codes! {
    /// What is done, by Kafka's codes. Read, Write, Delete and Alter imply Describe.
    Operation {
        All = 2, "All";
        Read = 3, "Read";
        Write = 4, "Write";
        Create = 5, "Create";
        Delete = 6, "Delete";
        Alter = 7, "Alter";
        Describe = 8, "Describe";
        ClusterAction = 9, "ClusterAction";
        DescribeConfigs = 10, "DescribeConfigs";
        AlterConfigs = 11, "AlterConfigs";
        IdempotentWrite = 12, "IdempotentWrite";
    }
}

const LITERAL: i8 = 3;
const PREFIXED: i8 = 4;
const DENY: i8 = 2;
const ALLOW: i8 = 3;
const ANY: i8 = 1;
/// The version of both calls that Kafka 2.4 and later have, 4 too.
const VERSION: i16 = 2;
const REQUEST_HEADER: i16 = 2;
const RESPONSE_HEADER: i16 = 1;
const LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of an answer.
const MOST_ANSWER: usize = 16 * 1024 * 1024;
/// Brokers that keep no rules say so with this code.
const SECURITY_DISABLED: i16 = 54;
const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            principal,
            resource,
            name,
            operation,
            ..
        } = self;
        let verb = if self.allowed { "may" } else { "may not" };
        let star = if self.prefixed { "*" } else { "" };
        write!(f, "{principal} {verb} {operation} {resource} {name}{star}")
    }
}

/// The rules in force.
///
/// # Errors
/// When the cluster does not answer within 10 s, keeps no rules, or does not tell them to us.
pub async fn list_access(cluster: &Cluster) -> anyhow::Result<Vec<AccessRule>> {
    let request = DescribeAclsRequest::default()
        .with_resource_type_filter(ANY)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(ANY)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(ANY)
        .with_permission_type(ANY);
    let mut body = Vec::new();
    request.encode(&mut body, VERSION)?;
    let mut answer = call(cluster, ApiKey::DescribeAcls, &body).await?;
    let answer = DescribeAclsResponse::decode(&mut answer, VERSION)?;
    checked(answer.error_code, answer.error_message.as_ref())?;
    let mut rules = Vec::new();
    for resource in &answer.resources {
        let Some(kind) = Resource::of(resource.resource_type) else {
            continue;
        };
        for rule in &resource.acls {
            let Some(operation) = Operation::of(rule.operation) else {
                continue;
            };
            let principal = rule.principal.as_str();
            // Rules of other forms are somebody else's.
            if let Some(principal) = principal.strip_prefix("User:")
                && &*rule.host == "*"
            {
                rules.push(AccessRule {
                    principal: principal.to_owned(),
                    resource: kind,
                    name: resource.resource_name.to_string(),
                    prefixed: resource.pattern_type == PREFIXED,
                    operation,
                    allowed: rule.permission_type == ALLOW,
                });
            }
        }
    }
    rules.sort();
    Ok(rules)
}

/// Puts rules in force; those that are there already stay as they are.
///
/// # Errors
/// When the cluster does not answer within 10 s, keeps no rules, or does not let us make them.
pub async fn allow_access(cluster: &Cluster, rules: &[AccessRule]) -> anyhow::Result<()> {
    let creations = rules.iter().map(|rule| {
        AclCreation::default()
            .with_resource_type(rule.resource.code())
            .with_resource_name(StrBytes::from_string(rule.name.clone()))
            .with_resource_pattern_type(if rule.prefixed { PREFIXED } else { LITERAL })
            .with_principal(StrBytes::from_string(format!("User:{}", rule.principal)))
            .with_host(StrBytes::from_static_str("*"))
            .with_operation(rule.operation.code())
            .with_permission_type(if rule.allowed { ALLOW } else { DENY })
    });
    let request = CreateAclsRequest::default().with_creations(creations.collect());
    let mut body = Vec::new();
    request.encode(&mut body, VERSION)?;
    let mut answer = call(cluster, ApiKey::CreateAcls, &body).await?;
    let answer = CreateAclsResponse::decode(&mut answer, VERSION)?;
    ensure!(
        answer.results.len() == rules.len(),
        "the broker answered for {} of {} rules",
        answer.results.len(),
        rules.len()
    );
    for (rule, result) in rules.iter().zip(&answer.results) {
        checked(result.error_code, result.error_message.as_ref())
            .with_context(|| format!("'{rule}'"))?;
    }
    Ok(())
}

fn checked(code: i16, message: Option<&StrBytes>) -> anyhow::Result<()> {
    let message = message.map_or("", StrBytes::as_str);
    match code {
        0 => Ok(()),
        SECURITY_DISABLED => bail!(
            "this cluster keeps no access rules: set authorizer.class.name on its brokers ({message})"
        ),
        CLUSTER_AUTHORIZATION_FAILED => bail!(
            "we may not see or make access rules there: use the certificate of one of the brokers' super.users ({message})"
        ),
        code => bail!("the broker answers with error {code} ({message})"),
    }
}

/// One call to the first bootstrap broker that can be reached; it hands changes over to the controller.
async fn call(cluster: &Cluster, api: ApiKey, body: &[u8]) -> anyhow::Result<bytes::Bytes> {
    let mut failed = None;
    for address in cluster.bootstrap().split(',').map(str::trim) {
        let address = address.rsplit("://").next().unwrap_or(address);
        let asked = tokio::time::timeout(LIMIT, async {
            if cluster.is_secure() {
                let stream = cluster.tls().connect(address, LIMIT).await;
                exchange(stream.map_err(anyhow::Error::msg)?, api, body).await
            } else {
                exchange(TcpStream::connect(address).await?, api, body).await
            }
        });
        match asked.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => {
                failed = Some(error.context(format!("no answer from the Kafka broker {address}")));
            }
            Err(_) => {
                failed = Some(anyhow::anyhow!(
                    "no answer from the Kafka broker {address} within {} s",
                    LIMIT.as_secs()
                ));
            }
        }
    }
    let error = failed.context("no bootstrap broker was named")?;
    Err(match cluster.trouble().await {
        Some(trouble) => error.context(trouble),
        None => error,
    })
}

/// ```text
/// size:i32  header  body
/// ```
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    api: ApiKey,
    body: &[u8],
) -> anyhow::Result<bytes::Bytes> {
    let mut request = vec![0; 4];
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(VERSION)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("zeelos")))
        .encode(&mut request, REQUEST_HEADER)?;
    request.extend_from_slice(body);
    let size = i32::try_from(request.len() - 4).context("too many rules for one request")?;
    request[..4].copy_from_slice(&size.to_be_bytes());
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut size = [0; 4];
    stream.read_exact(&mut size).await?;
    let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
    ensure!(
        size <= MOST_ANSWER,
        "an answer of {size} bytes is too large"
    );
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer).await?;
    let mut answer = bytes::Bytes::from(answer);
    ResponseHeader::decode(&mut answer, RESPONSE_HEADER)?;
    Ok(answer)
}
