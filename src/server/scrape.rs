//! The HTTP of a metrics scrape: one request head read, one response written, the connection
//! closed.
//!
//! It knows `GET` and `HEAD` of `/metrics`, for which host, and how to say no to anything else;
//! what the metrics are is not its business. The head is parsed by httparse.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::exchange::{Request, RequestSoFar, Rest};

/// The longest request head, in bytes. Prometheus sends about 300.
const LONGEST_HEAD: usize = 8 * 1024;

/// The most header fields that a head may have.
const HEADERS: usize = 64;

/// The version of the text format, as Prometheus negotiates it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Which hosts may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Any: who comes over the network comes by a name.
    Any,
    /// An address or localhost: a name that somebody else's DNS leads to this host's loopback
    /// address comes from a page in a browser, which would read the metrics.
    Local,
}

/// An HTTP request, read until its head is complete. A body would be left unread and drained.
#[derive(Debug)]
pub(super) struct HttpRequest {
    hosts: Hosts,
    head: Vec<u8>,
    asked: Option<Asked>,
}

/// What a head comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    wish: Wish,
    body: Body,
}

/// What a request wishes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The metrics: 200.
    Metrics,
    /// Another path: 404.
    NotFound,
    /// Another method: 405.
    MethodNotAllowed,
    /// The name of another host: 421.
    Misdirected,
    /// No HTTP request at all: 400.
    BadRequest,
    /// A head that goes on and on: 431.
    HeadTooLarge,
}

/// Whether the response is to have its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Sent,
    /// For `HEAD`.
    Omitted,
}

impl HttpRequest {
    /// A request that may name these hosts.
    pub(super) fn to(hosts: Hosts) -> Self {
        Self { hosts, head: Vec::new(), asked: None }
    }

    fn asked(&self) -> Asked {
        self.asked.unwrap_or(Asked { wish: Wish::BadRequest, body: Body::Sent })
    }
}

impl Request for HttpRequest {
    fn take(&mut self, bytes: &[u8]) -> RequestSoFar {
        let first = self.head.is_empty();
        self.head.extend_from_slice(bytes);
        // Only a line's end can complete a head, and parsing again for every byte of a trickle
        // would be work without end.
        if first || bytes.contains(&b'\n') || self.head.len() > LONGEST_HEAD {
            self.asked = asked(&self.head, self.hosts);
        }
        if self.asked.is_none() {
            return RequestSoFar::Unfinished;
        }
        self.head = Vec::new();
        RequestSoFar::Complete(Rest::Perhaps)
    }

    fn is_untouched(&self) -> bool {
        self.head.is_empty() && self.asked.is_none()
    }
}

/// What the head that begins with these bytes asks, once that is certain.
fn asked(head: &[u8], hosts: Hosts) -> Option<Asked> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let wish = match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() > LONGEST_HEAD => Wish::HeadTooLarge,
        Ok(httparse::Status::Partial) => return None,
        Err(httparse::Error::TooManyHeaders) => Wish::HeadTooLarge,
        Err(_) => Wish::BadRequest,
        Ok(httparse::Status::Complete(_)) => wish(&request, hosts),
    };
    let body = if request.method == Some("HEAD") { Body::Omitted } else { Body::Sent };
    Some(Asked { wish, body })
}

/// What a complete head wishes for.
fn wish(request: &httparse::Request<'_, '_>, hosts: Hosts) -> Wish {
    let (authority, path) = target(request.path.unwrap_or_default());
    let mut named = request.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("host"));
    let (host, second) = (named.next(), named.next());
    if second.is_some() {
        return Wish::BadRequest;
    }
    // RFC 9112, section 3.2.2: what the target names counts, and Host does not.
    let host = authority.map(str::as_bytes).or_else(|| host.map(|host| host.value));
    if hosts == Hosts::Local && host.is_some_and(|host| !is_local(host)) {
        return Wish::Misdirected;
    }
    match (path, request.method) {
        ("/metrics", Some("GET" | "HEAD")) => Wish::Metrics,
        ("/metrics", _) => Wish::MethodNotAllowed,
        _ => Wish::NotFound,
    }
}

/// The host that a request target names, if it is a whole URI, and its path without a query.
fn target(target: &str) -> (Option<&str>, &str) {
    const SCHEME: &str = "http://";
    let is_uri = target.get(..SCHEME.len()).is_some_and(|it| it.eq_ignore_ascii_case(SCHEME));
    let (authority, path) = if is_uri {
        let rest = &target[SCHEME.len()..];
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        (Some(&rest[..end]), &rest[end..])
    } else {
        (None, target)
    };
    (authority, path.split('?').next().unwrap_or_default())
}

/// Whether a host, with or without a port, is an address or localhost.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
        });
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok()
}

/// The whole response to a request; `metrics` is called only where they are wished for.
pub(super) fn response(request: &HttpRequest, metrics: &dyn Fn() -> String) -> Vec<u8> {
    let Asked { wish, body } = request.asked();
    let (status, extra, text) = match wish {
        Wish::Metrics => ("200 OK", "", metrics()),
        Wish::NotFound => ("404 Not Found", "", "the metrics are at /metrics\n".to_owned()),
        Wish::MethodNotAllowed => (
            "405 Method Not Allowed",
            "Allow: GET, HEAD\r\n",
            "only GET and HEAD are understood\n".to_owned(),
        ),
        Wish::Misdirected => (
            "421 Misdirected Request",
            "",
            "on a loopback address the metrics are served to 127.0.0.1, [::1] and localhost, \
             not to a name\n"
                .to_owned(),
        ),
        Wish::BadRequest => ("400 Bad Request", "", "this is not HTTP\n".to_owned()),
        Wish::HeadTooLarge => (
            "431 Request Header Fields Too Large",
            "",
            "the head of the request is too large\n".to_owned(),
        ),
    };
    let format = if wish == Wish::Metrics { TEXT_FORMAT } else { "text/plain; charset=utf-8" };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {format}\r\nContent-Length: {}\r\n{extra}\
         Connection: close\r\n\r\n",
        text.len()
    );
    if body == Body::Sent {
        response.push_str(&text);
    }
    response.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(hosts: Hosts, request: &str) -> Option<HttpRequest> {
        let mut http = HttpRequest::to(hosts);
        matches!(http.take(request.as_bytes()), RequestSoFar::Complete(_)).then_some(http)
    }

    fn wish_of(request: &str) -> Option<Wish> {
        taken(Hosts::Any, request).map(|http| http.asked().wish)
    }

    fn answered(request: &str) -> String {
        let request = taken(Hosts::Any, request).unwrap();
        String::from_utf8(response(&request, &|| "a 1\n".to_owned())).unwrap()
    }

    #[test]
    fn only_the_metrics_are_answered_with_metrics() {
        let request = |line: &str| wish_of(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(request("GET /metrics"), Some(Wish::Metrics));
        assert_eq!(request("GET /metrics?a=b"), Some(Wish::Metrics));
        assert_eq!(request("HEAD /metrics"), Some(Wish::Metrics));
        assert_eq!(request("GET http://a:9843/metrics"), Some(Wish::Metrics));
        assert_eq!(request("GET HTTP://a/metrics?x=http://b/"), Some(Wish::Metrics));
        assert_eq!(request("GET http://a/"), Some(Wish::NotFound));
        assert_eq!(request("GET http://metrics"), Some(Wish::NotFound));
        assert_eq!(request("GET ftp://a/metrics"), Some(Wish::NotFound));
        assert_eq!(request("GET /"), Some(Wish::NotFound));
        assert_eq!(request("POST /"), Some(Wish::NotFound));
        assert_eq!(request("GET /metrics/x"), Some(Wish::NotFound));
        assert_eq!(request("POST /metrics"), Some(Wish::MethodNotAllowed));
        assert_eq!(wish_of("<policy-file-request/>\0"), Some(Wish::BadRequest));
        assert_eq!(wish_of("\x16\x03\x01"), Some(Wish::BadRequest));
    }

    /// A name that leads to the loopback address is how a page in a browser reads what is served
    /// there (DNS rebinding).
    #[test]
    fn on_a_loopback_address_no_foreign_name_is_answered() {
        let wish = |hosts, head: &str| {
            taken(hosts, &format!("{head}\r\n\r\n")).map(|http| http.asked().wish)
        };
        for host in ["127.0.0.1:9843", "127.0.0.1", "localhost", "LocalHost:9843", "[::1]:9843"] {
            let head = format!("GET /metrics HTTP/1.1\r\nHost: {host}");
            assert_eq!(wish(Hosts::Local, &head), Some(Wish::Metrics), "{host}");
            let head = format!("GET http://{host}/metrics HTTP/1.1\r\nHost: evil.example");
            assert_eq!(wish(Hosts::Local, &head), Some(Wish::Metrics), "{host} in the target");
        }
        for host in [
            "evil.example",
            "evil.example:9843",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "[::1].evil.example",
            "[evil.example]",
            "",
        ] {
            let head = format!("GET /metrics HTTP/1.1\r\nhOST: {host}");
            assert_eq!(wish(Hosts::Local, &head), Some(Wish::Misdirected), "{host}");
            assert_eq!(wish(Hosts::Any, &head), Some(Wish::Metrics), "{host}");
        }
        let target = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost";
        assert_eq!(wish(Hosts::Local, target), Some(Wish::Misdirected));
        let two = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example";
        assert_eq!(wish(Hosts::Local, two), Some(Wish::BadRequest));
        assert_eq!(wish(Hosts::Local, "GET /metrics HTTP/1.0"), Some(Wish::Metrics));
    }

    #[test]
    fn a_head_comes_in_any_number_of_pieces() {
        let head = b"GET /metrics HTTP/1.1\r\nHost: localhost:9843\r\nAccept: */*\r\n\r\n";
        let mut http = HttpRequest::to(Hosts::Local);
        for byte in &head[..head.len() - 1] {
            assert_eq!(http.take(&[*byte]), RequestSoFar::Unfinished);
        }
        assert_eq!(http.take(b"\n"), RequestSoFar::Complete(Rest::Perhaps));
        assert_eq!(http.asked().wish, Wish::Metrics);
    }

    #[test]
    fn a_head_that_never_ends_is_cut_off() {
        let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(LONGEST_HEAD));
        assert_eq!(wish_of(&endless), Some(Wish::HeadTooLarge));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS + 1));
        assert_eq!(wish_of(&many), Some(Wish::HeadTooLarge));
    }

    /// A byte that ends no line is too much as well.
    #[test]
    fn a_head_of_8192_bytes_is_waited_for_and_its_next_byte_is_too_much() {
        let start = "GET /metrics HTTP/1.1\r\nX: ";
        let head = format!("{start}{}", "x".repeat(8192 - start.len()));
        let mut http = HttpRequest::to(Hosts::Any);
        assert_eq!(http.take(head.as_bytes()), RequestSoFar::Unfinished);
        assert_eq!(http.take(b"x"), RequestSoFar::Complete(Rest::Perhaps));
        assert_eq!(http.asked().wish, Wish::HeadTooLarge);
    }

    #[test]
    fn the_first_byte_touches_a_request() {
        let mut http = HttpRequest::to(Hosts::Any);
        assert!(http.is_untouched());
        assert_eq!(http.take(b"G"), RequestSoFar::Unfinished);
        assert!(!http.is_untouched());
        assert_eq!(http.take(b"ET / HTTP/1.1\r\n\r\n"), RequestSoFar::Complete(Rest::Perhaps));
        assert!(!http.is_untouched());
    }

    #[test]
    fn a_response_says_how_long_it_is_and_that_it_closes() {
        let text = answered("GET /metrics HTTP/1.1\r\n\r\n");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(head.contains("\r\nContent-Length: 4\r\n"));
        assert!(head.ends_with("\r\nConnection: close"));
        assert_eq!(body, "a 1\n");
        let text = answered("PUT /metrics HTTP/1.1\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text.contains("\r\nAllow: GET, HEAD\r\n"));
        assert!(text.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    }

    #[test]
    fn head_is_answered_as_get_without_the_body() {
        for path in ["/metrics", "/"] {
            let get = answered(&format!("GET {path} HTTP/1.1\r\n\r\n"));
            let head = answered(&format!("HEAD {path} HTTP/1.1\r\n\r\n"));
            let (expected, body) = get.split_at(get.find("\r\n\r\n").unwrap() + 4);
            assert_eq!(head, expected);
            assert!(!body.is_empty());
        }
    }
}
