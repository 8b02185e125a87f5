//! Who may use an interface, over HTTP: users, tokens, sessions, roles, and floods of wrong passwords.

#![allow(clippy::unwrap_used, reason = "a test that can't go on ends")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::Method;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Extension, Router};
use futures::StreamExt as _;
use reqwest::{Client, RequestBuilder, header};
use service::auth::{AuthArgs, AuthError, Caller, Gate, Protection, Role, token_entry, user_entry};
use service::tls::{Listener, Peer};
use service::{CancellationToken, Secret};
use tempfile::TempDir;
use tokio::net::TcpListener;

const PASSWORD: &str = "correct horse";

/// An interface with three users and a token.
struct Site {
    url: String,
    http: Client,
    token: Secret,
    users: PathBuf,
    tokens: PathBuf,
    port: u16,
    stop: CancellationToken,
    _folder: TempDir,
}

fn policy(method: &Method, path: &str) -> Option<Role> {
    match path {
        "/free" | "/api/session" => None,
        "/security" => Some(Role::Admin),
        _ if *method == Method::GET => Some(Role::Read),
        _ => Some(Role::Operate),
    }
}

fn line(name: &str, role: Role, password: &str) -> String {
    user_entry(&name.parse().unwrap(), role, &Secret::new(password)).unwrap() + "\n"
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (users, tokens) = (folder.path().join("users"), folder.path().join("tokens"));
        let lines = [
            line("reader", Role::Read, PASSWORD),
            line("operator", Role::Operate, PASSWORD),
            line("admin", Role::Admin, PASSWORD),
        ];
        fs::write(&users, lines.concat()).unwrap();
        let (token, entry) = token_entry(&"ci".parse().unwrap(), Role::Operate);
        fs::write(&tokens, entry).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let args = AuthArgs {
            users_file: Some(users.clone()),
            tokens_file: Some(tokens.clone()),
            web_open: false,
        };
        let gate = args.gate(address, "--web-listen").unwrap();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (gate, stop) = (gate.clone(), stop.clone());
            async move { gate.follow(stop).await }
        });
        tokio::spawn(async move {
            let listener = Listener::new(listener, None, 512).unwrap();
            let app = app(&gate, &listener);
            let app = app.into_make_service_with_connect_info::<Peer>();
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            url: format!("http://{address}"),
            http: Client::builder().no_proxy().build().unwrap(),
            token,
            users,
            tokens,
            port: address.port(),
            stop,
            _folder: folder,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url))
    }

    async fn login(&self, user: &str, password: &str) -> reqwest::Response {
        let said = serde_json::json!({"user": user, "password": password});
        self.post("/api/session").json(&said).send().await.unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn app(gate: &Gate, listener: &Listener) -> Router {
    let by = Protection::new(listener, policy, |status, reason| {
        (status, reason.to_owned()).into_response()
    });
    let handlers = || get(|| async { "done" }).post(|| async { "done" });
    let routes = Router::new()
        .route("/free", handlers())
        .route("/things", handlers())
        .route("/security", handlers())
        .route("/until", get(until).with_state(gate.clone()))
        .merge(gate.session_routes(by));
    gate.protect(routes, by)
}

/// Goes on until what let the caller in does not count any more.
async fn until(State(gate): State<Gate>, Extension(caller): Extension<Caller>) -> &'static str {
    gate.shut_out(&caller).await;
    "shut out"
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_what_it_may() {
    let site = Site::start().await;
    assert_eq!(status(site.get("/free")).await, 200);
    for (user, look, act, rule) in [
        ("reader", 200, 403, 403),
        ("operator", 200, 200, 403),
        ("admin", 200, 200, 200),
        ("nobody", 401, 401, 401),
    ] {
        let as_user = |request: RequestBuilder| request.basic_auth(user, Some(PASSWORD));
        assert_eq!(status(as_user(site.get("/things"))).await, look, "{user}");
        assert_eq!(status(as_user(site.post("/things"))).await, act, "{user}");
        assert_eq!(status(as_user(site.get("/security"))).await, rule, "{user}");
    }
    let with_token = |request: RequestBuilder| request.bearer_auth(site.token.expose());
    assert_eq!(status(with_token(site.post("/things"))).await, 200);
    assert_eq!(status(with_token(site.get("/security"))).await, 403);
    assert_eq!(status(site.get("/things").bearer_auth("zlt_00")).await, 401);

    let refused = site.post("/things").basic_auth("reader", Some(PASSWORD));
    assert_eq!(
        refused.send().await.unwrap().text().await.unwrap(),
        "this takes the role operate, and reader has read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_told_how_to() {
    let site = Site::start().await;
    let challenges = |response: &reqwest::Response| -> Vec<String> {
        let values = response.headers().get_all(header::WWW_AUTHENTICATE);
        values
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    let response = site.get("/things").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        challenges(&response),
        [
            "Bearer realm=\"zeelos\"",
            "Basic realm=\"zeelos\", charset=\"UTF-8\""
        ]
    );
    // A page logs in by itself: no window of the browser's.
    for (name, value) in [
        ("x-requested-with", "zeelos"),
        ("accept", "text/event-stream"),
        ("sec-fetch-mode", "cors"),
    ] {
        let response = site
            .get("/things")
            .header(name, value)
            .send()
            .await
            .unwrap();
        assert_eq!(challenges(&response), ["Bearer realm=\"zeelos\""], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_logs_in_with_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let site = Site::start().await;
    let response = site.login("operator", PASSWORD).await;
    assert_eq!(response.status(), 200);
    let cookie = response.headers()[header::SET_COOKIE]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        cookie.ends_with("; Path=/; HttpOnly; SameSite=Strict; Max-Age=28800"),
        "{cookie}"
    );
    assert!(
        cookie.starts_with(&format!("zeelos_session_{}=", site.port)),
        "{cookie}"
    );
    let said: serde_json::Value = response.json().await.unwrap();
    assert_eq!(
        said,
        serde_json::json!({"authentication": true, "user": "operator", "role": "operate"})
    );
    let session = cookie.split(';').next().unwrap().to_owned();
    let with =
        |request: RequestBuilder, session: &str| request.header(header::COOKIE, session.to_owned());
    assert_eq!(status(with(site.post("/things"), &session)).await, 200);
    assert_eq!(status(with(site.get("/security"), &session)).await, 403);
    let other = format!("a=b; {session}");
    assert_eq!(status(with(site.get("/things"), &other)).await, 200);
    assert_eq!(
        status(with(site.get("/things"), &session.replace('=', "=0"))).await,
        401
    );

    let logout = site.http.delete(format!("{}/api/session", site.url));
    let response = with(logout, &session).send().await.unwrap();
    assert!(
        response.headers()[header::SET_COOKIE]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
    assert_eq!(status(with(site.get("/things"), &session)).await, 401);

    assert_eq!(site.login("operator", "wrong").await.status(), 401);
    assert_eq!(site.login("", "").await.status(), 401);
    assert_eq!(
        status(site.post("/api/session").body("user=operator")).await,
        400
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_for_long_ends_with_what_let_it_in_and_not_with_anothers() {
    let site = Site::start().await;
    let cookie = async || {
        let response = site.login("reader", PASSWORD).await;
        let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    };
    let (first, second) = (cookie().await, cookie().await);
    let begin = |request: RequestBuilder| {
        tokio::spawn(async move { request.send().await.unwrap().text().await.unwrap() })
    };
    let with = |cookie: &str| site.get("/until").header(header::COOKIE, cookie);
    let (of_first, of_second) = (begin(with(&first)), begin(with(&second)));
    let of_token = begin(site.get("/until").bearer_auth(site.token.expose()));
    let of_password = begin(site.get("/until").basic_auth("operator", Some(PASSWORD)));
    let soon = Duration::from_secs(10);

    tokio::time::sleep(Duration::from_millis(300)).await;
    let logout = site
        .http
        .delete(format!("{}/api/session", site.url))
        .header(header::COOKIE, &first);
    assert_eq!(status(logout).await, 200);
    let ended = tokio::time::timeout(soon, of_first).await;
    assert_eq!(ended.expect("it ends").unwrap(), "shut out");
    assert!(!of_second.is_finished());

    // The operator's password changes, and nobody else's.
    let lines = fs::read_to_string(&site.users).unwrap();
    let lines: Vec<String> = lines
        .lines()
        .map(|line_| match line_.starts_with("operator:") {
            true => line("operator", Role::Operate, "another horse"),
            false => format!("{line_}\n"),
        })
        .collect();
    fs::write(&site.users, lines.concat()).unwrap();
    let ended = tokio::time::timeout(soon, of_password).await;
    assert_eq!(ended.expect("it ends").unwrap(), "shut out");
    assert!(!of_second.is_finished() && !of_token.is_finished());

    fs::write(&site.tokens, "").unwrap();
    let ended = tokio::time::timeout(soon, of_token).await;
    assert_eq!(ended.expect("it ends").unwrap(), "shut out");
    assert!(!of_second.is_finished());
    of_second.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_counts_without_a_restart_and_a_broken_one_changes_nothing() {
    let site = Site::start().await;
    let response = site.login("admin", PASSWORD).await;
    let cookie = response.headers()[header::SET_COOKIE].clone();
    let with_session = || site.get("/security").header(header::COOKIE, cookie.clone());
    assert_eq!(status(with_session()).await, 200);

    fs::write(&site.users, "admin:everything\n").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(status(with_session()).await, 200);

    // A new password ends what the old one began.
    fs::write(&site.users, line("admin", Role::Admin, "another horse")).unwrap();
    let begun = Instant::now();
    while status(with_session()).await == 200 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let as_admin = |password| site.get("/security").basic_auth("admin", Some(password));
    assert_eq!(status(as_admin(PASSWORD)).await, 401);
    assert_eq!(status(as_admin("another horse")).await, 200);
    let as_reader = site.get("/things").basic_auth("reader", Some(PASSWORD));
    assert_eq!(status(as_reader).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_are_bounded_and_those_who_are_known_pass_all_the_while() {
    let site = Site::start().await;
    let right = || site.get("/things").basic_auth("admin", Some(PASSWORD));
    assert_eq!(status(right()).await, 200);

    let begun = Instant::now();
    let wrong = (0..400).map(|number| {
        let password = format!("guess {number}");
        status(site.get("/things").basic_auth("admin", Some(password)))
    });
    let known = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let asked = Instant::now();
            assert_eq!(status(right()).await, 200);
            assert_eq!(
                status(site.post("/things").bearer_auth(site.token.expose())).await,
                200
            );
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    // Twenty at a time.
    let wrong = futures::stream::iter(wrong)
        .buffer_unordered(20)
        .collect::<Vec<u16>>();
    let (answers, slowest) = tokio::join!(wrong, known);
    let count = |of: u16| answers.iter().filter(|status| **status == of).count();
    assert_eq!(count(401) + count(429) + count(503), 400, "{answers:?}");
    assert!((1..=10).contains(&count(401)), "{answers:?}");
    assert!(count(429) >= 300, "{answers:?}");
    // Ten hashes at the most: nothing here takes long.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );

    let late = site.get("/things").basic_auth("operator", Some(PASSWORD));
    let response = late.send().await.unwrap();
    assert_eq!(response.status(), 429);
    let wait: u64 = response.headers()[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_right_elsewhere_costs_an_attempt() {
    let site = Site::start().await;
    let known = || site.get("/things").basic_auth("reader", Some(PASSWORD));
    assert_eq!(status(known()).await, 200);

    let elsewhere = Client::builder()
        .no_proxy()
        .local_address("127.0.0.2".parse().ok())
        .build()
        .unwrap();
    let things = format!("{}/things", site.url);
    for _ in 0..10 {
        let wrong = elsewhere.get(&things).bearer_auth("zlt_00");
        assert_eq!(status(wrong).await, 401);
    }
    // It is not told that this one would be right, neither here nor over the page.
    let guess = || elsewhere.get(&things).basic_auth("reader", Some(PASSWORD));
    assert_eq!(status(guess()).await, 429);
    let said = serde_json::json!({"user": "reader", "password": PASSWORD});
    let login = elsewhere.post(format!("{}/api/session", site.url));
    assert_eq!(status(login.json(&said)).await, 429);
    assert_eq!(status(known()).await, 200);
}

#[tokio::test]
async fn beyond_this_machine_nobody_starts_open_by_accident() {
    let everywhere: SocketAddr = "0.0.0.0:8080".parse().unwrap();
    let open = AuthArgs::default();
    for listen in ["127.0.0.1:8080", "[::1]:8080", "[::ffff:127.0.0.1]:8080"] {
        assert!(
            open.gate(listen.parse().unwrap(), "--web-listen")
                .unwrap()
                .is_open()
        );
    }
    let error = open.gate(everywhere, "--web-listen").err().unwrap();
    assert!(matches!(error, AuthError::Open { .. }));
    for word in [
        "0.0.0.0:8080",
        "--web-listen",
        "--users-file",
        "--tokens-file",
        "--web-open",
        "zeelos users hash",
    ] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let wanted = AuthArgs {
        web_open: true,
        ..AuthArgs::default()
    };
    assert!(wanted.gate(everywhere, "--web-listen").unwrap().is_open());
    let missing = AuthArgs {
        users_file: Some("/nowhere/users".into()),
        ..AuthArgs::default()
    };
    let error = missing.gate(everywhere, "--web-listen").err().unwrap();
    assert!(error.to_string().contains("/nowhere/users"), "{error}");
}
