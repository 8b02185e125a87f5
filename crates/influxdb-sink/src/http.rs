use std::time::Duration;

use connect::ProcessError;
use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use service::Secret;
use service::tls::{HttpClient, Tls};

use crate::line::Precision;

/// Writes lines to an InfluxDB, or what speaks its write API.
#[derive(Clone)]
pub(crate) struct HttpWriter {
    client: HttpClient,
    url: Url,
    login: Login,
    host: String,
}

#[derive(Clone)]
enum Login {
    None,
    Basic(String, Secret),
    Token(Secret),
}

/// The lines of one record.
pub(crate) struct Lines {
    /// Which record, in the batch.
    pub(crate) record: usize,
    pub(crate) text: String,
}

/// A record the database refuses for good, and its reason.
pub(crate) struct Rejected {
    pub(crate) record: usize,
    pub(crate) reason: String,
}

/// The most bytes of one request's body; a record with more goes alone.
const MOST_BODY: usize = 2 * 1024 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How much of an answer's text goes into messages.
const MOST_REASON: usize = 500;

impl HttpWriter {
    /// `/write` of the v1 API.
    pub(crate) fn v1(
        base: &Url,
        database: &str,
        retention_policy: Option<&str>,
        user: Option<(String, Secret)>,
        precision: Precision,
        tls: &Tls,
    ) -> Result<Self, ProcessError> {
        let mut url = below(base, &["write"]);
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("db", database);
            if let Some(policy) = retention_policy {
                query.append_pair("rp", policy);
            }
            query.append_pair("precision", precision.as_str());
        }
        let login = user.map_or(Login::None, |(name, password)| Login::Basic(name, password));
        Self::new(url, login, tls)
    }

    /// `/api/v2/write` of the v2 API.
    pub(crate) fn v2(
        base: &Url,
        bucket: &str,
        organisation: Option<&str>,
        token: Option<Secret>,
        precision: Precision,
        tls: &Tls,
    ) -> Result<Self, ProcessError> {
        let mut url = below(base, &["api", "v2", "write"]);
        {
            let mut query = url.query_pairs_mut();
            if let Some(organisation) = organisation {
                query.append_pair("org", organisation);
            }
            query.append_pair("bucket", bucket);
            query.append_pair("precision", precision.as_str());
        }
        Self::new(url, token.map_or(Login::None, Login::Token), tls)
    }

    fn new(url: Url, login: Login, tls: &Tls) -> Result<Self, ProcessError> {
        let settings = || {
            Client::builder()
                .connect_timeout(CONNECT_LIMIT)
                .timeout(CALL_LIMIT)
                // A followed redirect turns the POST into a GET, whose answer says nothing about the write.
                .redirect(redirect::Policy::none())
        };
        let client = HttpClient::new(tls.clone(), settings)
            .map_err(|error| ProcessError::Fatal(error.into()))?;
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let host = format!("{}{port}", url.host_str().unwrap_or_default());
        Ok(Self {
            client,
            url,
            login,
            host,
        })
    }

    /// Writes records' lines in as few requests as their size allows. A request the database refuses is halved until
    /// the records at fault are known; writing the others again changes nothing.
    pub(crate) async fn write(&self, records: &[Lines]) -> Result<Vec<Rejected>, ProcessError> {
        let mut rejected = Vec::new();
        let mut from = 0;
        while from < records.len() {
            let mut bytes = records[from].text.len();
            let mut to = from + 1;
            while to < records.len() && bytes + records[to].text.len() <= MOST_BODY {
                bytes += records[to].text.len();
                to += 1;
            }
            self.write_halving(&records[from..to], &mut rejected)
                .await?;
            from = to;
        }
        Ok(rejected)
    }

    async fn write_halving(
        &self,
        records: &[Lines],
        rejected: &mut Vec<Rejected>,
    ) -> Result<(), ProcessError> {
        let mut open = vec![records];
        while let Some(part) = open.pop() {
            let Some(reason) = self.post(part).await? else {
                continue;
            };
            if let [only] = part {
                rejected.push(Rejected {
                    record: only.record,
                    reason,
                });
            } else {
                let (first, second) = part.split_at(part.len() / 2);
                open.push(second);
                open.push(first);
            }
        }
        Ok(())
    }

    /// `Some(reason)` when the database refuses the content.
    async fn post(&self, records: &[Lines]) -> Result<Option<String>, ProcessError> {
        let mut body = String::with_capacity(records.iter().map(|r| r.text.len()).sum());
        for record in records {
            body.push_str(&record.text);
        }
        let request = self
            .client
            .get()
            .post(self.url.clone())
            .header("content-type", "text/plain; charset=utf-8")
            .body(body);
        let away = |error: reqwest::Error| {
            ProcessError::Retry(format!(
                "InfluxDB at {} does not answer: {}",
                self.host,
                self.client.explain(error)
            ))
        };
        let mut response = self.with_login(request).send().await.map_err(away)?;
        let status = response.status();
        let mut text = Vec::new();
        while text.len() < MOST_REASON
            && let Some(chunk) = response.chunk().await.map_err(away)?
        {
            text.extend_from_slice(&chunk);
        }
        text.truncate(MOST_REASON);
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        match status {
            StatusCode::NO_CONTENT => Ok(None),
            // Some that speak the write API answer so; a page of something else must not count as a write.
            status if status.is_success() && text.is_empty() => Ok(None),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Some(format!("{status}: {text}")))
            }
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Some(format!("{status}: {text}"))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.failed(
                "refuses the login; check connect.influx.username and …password, or influx.token",
                status,
                &text,
            )),
            StatusCode::NOT_FOUND => Err(self.failed(
                "has no such database, bucket or API; create it, or check connect.influx.db and influx.api",
                status,
                &text,
            )),
            status if status.is_success() || status.is_redirection() => Err(self.failed(
                "did not answer like an InfluxDB; check connect.influx.url",
                status,
                &text,
            )),
            status => Err(self.failed("can't write now", status, &text)),
        }
    }

    fn with_login(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Login::None => request,
            Login::Basic(name, password) => request.basic_auth(name, Some(password.expose())),
            Login::Token(token) => {
                request.header("authorization", format!("Token {}", token.expose()))
            }
        }
    }

    fn failed(&self, what: &str, status: StatusCode, text: &str) -> ProcessError {
        ProcessError::Retry(format!(
            "InfluxDB at {} {what} ({status}: {text})",
            self.host
        ))
    }
}

/// A URL below a base that may have a path of its own.
fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}
