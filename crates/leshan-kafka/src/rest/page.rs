//! The page: one document without anything from elsewhere.

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse};
use openssl::base64::encode_block;
use openssl::sha::sha256;

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// In files that become one script.
const SCRIPT: [&str; 4] = [
    include_str!("page/device.js"),
    include_str!("page/login.js"),
    include_str!("page/side.js"),
    include_str!("page/app.js"),
];

struct Page {
    document: String,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let script = SCRIPT.concat();
    let document = FRAME
        .replace("/*style*/", STYLE)
        .replace("/*script*/", &script);
    Page {
        document,
        policy: HeaderValue::try_from(policy(STYLE, &script))
            .expect("base64 and fixed words are fit for a header"),
    }
});

/// Only exactly this script and this style run, and they speak with nobody but this server.
fn policy(style: &str, script: &str) -> String {
    let hash = |text: &str| encode_block(&sha256(text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
        hash(script),
        hash(style),
    )
}

/// GET `/`.
pub(super) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Html(PAGE.document.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_has_nothing_from_elsewhere() {
        let document = &PAGE.document;
        assert!(document.contains(STYLE));
        for part in SCRIPT {
            assert!(document.contains(part));
        }
        assert!(!document.contains("/*style*/") && !document.contains("/*script*/"));
        for word in [
            "http://",
            "https://",
            "src=",
            "innerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            let found = document.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(word), "{word}");
        }
        // Inline handlers and styles would be refused by the policy.
        for word in [" onclick=", " style="] {
            assert!(!FRAME.contains(word), "{word}");
        }
    }

    #[test]
    fn the_policy_allows_exactly_what_stands_in_the_document() {
        let between = |from: &str, to: &str| {
            let (_, rest) = PAGE.document.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        let said = policy(
            &between("<style>", "</style>"),
            &between("<script>", "</script>"),
        );
        assert_eq!(PAGE.policy.to_str().unwrap(), said);
    }
}
