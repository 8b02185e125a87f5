//! Pages of other sites, which act through the browser of somebody who may; and what holds for every answer.
//!
//! A browser says where a request comes from. Where there is no authentication anybody's page could otherwise reboot
//! the devices, or change the connectors, of whoever looks at it.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};

/// Headers that every answer has.
pub(super) fn keep_private(headers: &mut HeaderMap) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Values change; a cached one would be a wrong one.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
}

/// Why a request that a page of another site can have made is refused.
pub(super) fn refusal(request: &Request, open: bool, tls: bool) -> Option<&'static str> {
    // Over TLS a browser wants the certificate of the name that it was told, and that site has none of ours.
    if open && !tls && !at_own_name(request) {
        return Some(
            "without logins this answers only under an IP address, localhost, or a name without a dot: any other name \
             can be somebody's who lets it lead here. Use the address, or give the service --users-file or --tokens-file",
        );
    }
    // Links lead to the page. Anything else asks devices, or takes the place of somebody who watches.
    let cross_site = request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if open && cross_site && request.uri().path() != "/" {
        return Some("pages of another site can't use this interface");
    }
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    (!reads && !same_origin(request.headers()))
        .then_some("pages of another origin can't change anything here")
}

/// Whether a request is for a name that nobody can make lead here from outside. A page's own name can, once the page is
/// loaded (DNS rebinding): to the browser this server then is that page's, and no header tells.
fn at_own_name(request: &Request) -> bool {
    let hosts = request.headers().get_all(header::HOST);
    let said = hosts.iter().map(|host| host.to_str().unwrap_or_default());
    // HTTP/2 has it as `:authority`, and a request to a proxy in its first line.
    let mut names = said
        .chain(request.uri().authority().map(|at| at.as_str()))
        .peekable();
    names.peek().is_some() && names.all(is_own_name)
}

/// An address, or one label: `localhost`, a container, a service. Public names have a dot.
fn is_own_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let in_brackets = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    match in_brackets {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => {
            let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.parse::<Ipv4Addr>().is_ok() || (!name.is_empty() && name.bytes().all(label))
        }
    }
}

/// Whether a request comes from the server's own page, or from no page at all.
fn same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_addresses_and_single_labels() {
        for host in [
            "127.0.0.1:8080",
            "192.0.2.7",
            "[::1]:8080",
            "[2001:db8::7]",
            "localhost",
            "LOCALHOST:8080",
            "gateway-1:8080",
            "zeelos_leshan",
        ] {
            assert!(is_own_name(host), "{host}");
        }
        for host in [
            "",
            ":8080",
            "attacker.example",
            "attacker.example:8080",
            "127.0.0.1.attacker.example",
            "localhost.",
            "[::1",
            "[attacker.example]",
            "1.2.3",
            "a b",
            "caf\u{e9}",
        ] {
            assert!(!is_own_name(host), "{host}");
        }
    }

    #[test]
    fn every_name_of_a_request_counts() {
        let request = |uri: &str, hosts: &[&str]| {
            let request = hosts.iter().fold(Request::get(uri), |request, host| {
                request.header(header::HOST, *host)
            });
            at_own_name(&request.body(axum::body::Body::empty()).unwrap())
        };
        assert!(request("/", &["localhost"]));
        assert!(request("http://localhost/", &[]));
        assert!(!request("/", &[]));
        assert!(!request("/", &["localhost", "attacker.example"]));
        assert!(!request("http://attacker.example/", &["localhost"]));
    }
}
