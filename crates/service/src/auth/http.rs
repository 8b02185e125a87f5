//! The gate before an axum router.
//!
//! Besides who may do what it keeps pages of other sites out, and sets the headers that every answer has.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use openssl::base64::decode_block;
use serde::Deserialize;
use serde_json::json;

use super::gate::{Caller, Credentials, Gate};
use super::sessions::IDLE;
use super::{Denied, Role, foreign};
use crate::Secret;
use crate::tls::{Listener, Peer};

/// What a method on a path takes; `None`: nothing, it is for everybody.
pub type Policy = fn(&Method, &str) -> Option<Role>;

/// How an interface is protected.
#[derive(Clone, Copy)]
pub struct Protection {
    /// Who may do what.
    pub policy: Policy,
    /// The answer to who may not, in the interface's own form. `WWW-Authenticate` and `Retry-After` are added.
    pub refuse: fn(StatusCode, &str) -> Response,
    /// Whether it is served over TLS: then browsers keep the session's cookie to TLS, and no other site's name can be
    /// made to lead here.
    tls: bool,
    /// Where it is served. The port stands in the cookie's name: browsers don't tell the ports of a host apart.
    address: SocketAddr,
}

impl Protection {
    /// Of what is served on this listener.
    pub fn new(
        listener: &Listener,
        policy: Policy,
        refuse: fn(StatusCode, &str) -> Response,
    ) -> Self {
        Self {
            policy,
            refuse,
            tls: listener.scheme() == "https",
            address: listener.address(),
        }
    }
}

#[derive(Clone)]
struct Guarded {
    gate: Gate,
    by: Protection,
}

impl Gate {
    /// A router that lets only those in who may, and no pages of other sites. It needs [`Peer`] as its connect info;
    /// handlers get the [`Caller`] as an extension.
    pub fn protect(&self, router: Router, by: Protection) -> Router {
        if !self.is_open() && !by.tls && !by.address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                "passwords and tokens come over {} in clear: give the listener a certificate (--tls-certificate-location), \
                 or put a proxy with TLS before it",
                by.address
            );
        }
        let guarded = Guarded {
            gate: self.clone(),
            by,
        };
        router.layer(middleware::from_fn_with_state(guarded, check))
    }

    /// `/api/session`, by which a page logs in (POST `{"user", "password"}`), asks who it is (GET) and logs out
    /// (DELETE). The policy has to leave it to everybody.
    pub fn session_routes(&self, by: Protection) -> Router {
        let guarded = Guarded {
            gate: self.clone(),
            by,
        };
        let handlers = get(who).post(login).delete(logout);
        Router::new()
            .route("/api/session", handlers)
            .with_state(guarded)
    }
}

async fn check(State(guarded): State<Guarded>, request: Request, next: Next) -> Response {
    let mut response = match foreign::refusal(&request, guarded.gate.is_open(), guarded.by.tls) {
        None => let_in(guarded, request, next).await,
        Some(reason) => (guarded.by.refuse)(StatusCode::FORBIDDEN, reason),
    };
    foreign::keep_private(response.headers_mut());
    response
}

async fn let_in(guarded: Guarded, mut request: Request, next: Next) -> Response {
    let needs = (guarded.by.policy)(request.method(), request.uri().path());
    let Some(needs) = needs else {
        return next.run(request).await;
    };
    let from = remote(&request);
    let credentials = guarded.credentials(&request);
    let caller = match guarded.gate.caller(credentials, from).await {
        Ok(caller) => caller,
        Err(denied) => {
            if denied != Denied::Unknown
                && let Some(unsaid) = guarded.gate.tells_refusal()
            {
                let path = request.uri().path();
                tracing::warn!(%from, method = %request.method(), path, unsaid, "refused: {denied}");
            }
            return guarded.denied(denied, request.headers());
        }
    };
    let who = caller.name.clone();
    if caller.role < needs {
        let who = who.unwrap_or_default();
        let path = request.uri().path();
        tracing::warn!(who, %from, method = %request.method(), path, "refused: the role {} is not {needs}", caller.role);
        let reason = format!("this takes the role {needs}, and {who} has {}", caller.role);
        return (guarded.by.refuse)(StatusCode::FORBIDDEN, &reason);
    }
    // Who changed what stands in the log, where it is known who did.
    let told = (needs > Role::Read).then_some(who).flatten().map(|who| {
        (
            who,
            request.method().clone(),
            request.uri().path().to_owned(),
        )
    });
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some((who, method, path)) = told {
        let status = response.status().as_u16();
        tracing::info!(who, %from, %method, path, status, "done");
    }
    response
}

/// GET `/api/session`.
async fn who(State(guarded): State<Guarded>, request: Request) -> Response {
    let credentials = guarded.credentials(&request);
    let caller = guarded
        .gate
        .caller(credentials, remote(&request))
        .await
        .ok();
    Json(session(&guarded, caller.as_ref())).into_response()
}

#[derive(Deserialize)]
struct Said {
    user: String,
    password: String,
}

/// POST `/api/session`.
async fn login(State(guarded): State<Guarded>, request: Request) -> Response {
    let (from, headers) = (remote(&request), request.headers().clone());
    let said = axum::body::to_bytes(request.into_body(), 16 * 1024)
        .await
        .ok()
        .and_then(|body| serde_json::from_slice::<Said>(&body).ok());
    let Some(Said { user, password }) = said else {
        return (guarded.by.refuse)(
            StatusCode::BAD_REQUEST,
            "a login is {\"user\":\"…\",\"password\":\"…\"}",
        );
    };
    if guarded.gate.is_open() {
        return Json(session(&guarded, None)).into_response();
    }
    let password = Secret::new(password);
    match guarded.gate.login(&user, &password, from).await {
        Ok(login) => {
            let cookie = guarded.cookie(login.session.expose(), IDLE.as_secs());
            let body = Json(session(&guarded, Some(&login.caller)));
            tracing::info!(who = login.caller.name, %from, "logged in");
            ([(header::SET_COOKIE, cookie)], body).into_response()
        }
        Err(denied) => {
            // What was said for a name may be a password in the wrong field.
            if let Some(unsaid) = guarded.gate.tells_refusal() {
                tracing::warn!(%from, unsaid, "login refused: {denied}");
            }
            guarded.denied(denied, &headers)
        }
    }
}

/// DELETE `/api/session`.
async fn logout(State(guarded): State<Guarded>, headers: HeaderMap) -> Response {
    if let Some(session) = guarded.session(&headers) {
        guarded.gate.logout(&session);
    }
    let cookie = guarded.cookie("", 0);
    let body = Json(session(&guarded, None));
    ([(header::SET_COOKIE, cookie)], body).into_response()
}

fn session(guarded: &Guarded, caller: Option<&Caller>) -> serde_json::Value {
    json!({
        "authentication": !guarded.gate.is_open(),
        "user": caller.and_then(|caller| caller.name.as_deref()),
        "role": if guarded.gate.is_open() { Some(Role::Admin) } else { caller.map(|caller| caller.role) }
            .map(Role::as_str),
    })
}

impl Guarded {
    fn name(&self) -> String {
        format!("zeelos_session_{}", self.by.address.port())
    }

    fn cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.by.tls { "; Secure" } else { "" };
        format!(
            "{}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}",
            self.name()
        )
    }

    /// What a request says. An `Authorization` counts before a cookie, and a cookie before a certificate.
    fn credentials(&self, request: &Request) -> Option<Credentials> {
        let headers = request.headers();
        match headers.get(header::AUTHORIZATION) {
            Some(value) => Some(authorization(value).unwrap_or(Credentials::Other)),
            None => self
                .session(headers)
                .map(Credentials::Session)
                .or_else(|| certificate(request).map(Credentials::Certificate)),
        }
    }

    fn session(&self, headers: &HeaderMap) -> Option<Secret> {
        let name = self.name();
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|(of, _)| *of == name)
            .map(|(_, value)| Secret::new(value))
    }

    fn denied(&self, denied: Denied, headers: &HeaderMap) -> Response {
        let status = match denied {
            Denied::Unknown | Denied::Wrong => StatusCode::UNAUTHORIZED,
            Denied::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Denied::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = (self.by.refuse)(status, &denied.to_string());
        let answer = response.headers_mut();
        match denied {
            Denied::Unknown | Denied::Wrong => {
                let bearer = HeaderValue::from_static("Bearer realm=\"zeelos\"");
                answer.append(header::WWW_AUTHENTICATE, bearer);
                if !of_page(headers) {
                    let basic =
                        HeaderValue::from_static("Basic realm=\"zeelos\", charset=\"UTF-8\"");
                    answer.append(header::WWW_AUTHENTICATE, basic);
                }
            }
            Denied::TooMany { retry_after } => {
                let seconds = retry_after.as_secs().max(1);
                answer.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Denied::Busy => {
                answer.insert(header::RETRY_AFTER, HeaderValue::from(1));
            }
        }
        response
    }
}

/// Whether a page's script asks, whose browser would open its own window for a password at the word Basic.
fn of_page(headers: &HeaderMap) -> bool {
    let has = |name: &str, part: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains(part))
    };
    headers.contains_key("x-requested-with")
        || has("accept", "text/event-stream")
        || (headers.contains_key("sec-fetch-mode") && !has("sec-fetch-mode", "navigate"))
}

/// The two schemes of RFC 7617 (Basic) and RFC 6750 (Bearer).
fn authorization(value: &HeaderValue) -> Option<Credentials> {
    let (scheme, said) = value.to_str().ok()?.split_once(' ')?;
    let said = said.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Token(Secret::new(said)));
    }
    if !scheme.eq_ignore_ascii_case("basic") || said.len() > 4_096 {
        return None;
    }
    let text = String::from_utf8(decode_block(said).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    })
}

fn peer(request: &Request) -> Option<&Peer> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<Peer>>()?;
    Some(peer)
}

/// Where nothing is known of it the source is one for all.
fn remote(request: &Request) -> IpAddr {
    peer(request).map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.address.ip())
}

/// The name in the client's certificate, which the listener has checked.
fn certificate(request: &Request) -> Option<String> {
    peer(request)?.certificate.as_ref()?.common_name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authorization_says() {
        let said = |text: &str| authorization(&HeaderValue::from_str(text).unwrap());
        // RFC 7617 section 2.
        assert_eq!(
            said("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            Some(Credentials::Password {
                user: "Aladdin".to_owned(),
                password: Secret::new("open sesame")
            })
        );
        assert_eq!(
            said("bearer  mF_9.B5f-4.1JqM"),
            Some(Credentials::Token(Secret::new("mF_9.B5f-4.1JqM")))
        );
        for text in [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Basic QQ==",
            "Basic /w==",
            "Digest username=\"x\"",
        ] {
            assert_eq!(said(text), None, "{text}");
        }
        assert_eq!(said(&format!("Basic {}", "QUFB".repeat(2_000))), None);
    }
}
