//! The HTTP of a metrics scrape: one request head read, one response written, the connection
//! closed.
//!
//! It knows `GET /metrics` and how to say no to anything else; what the metrics are is not its
//! business. The head is parsed by httparse.

use crate::connection::{Request, Rest, Taken};

/// The longest request head, in bytes. Prometheus sends about 300.
const LONGEST_HEAD: usize = 8 * 1024;

/// The most header fields that a head may have.
const HEADERS: usize = 64;

/// The version of the text format, as Prometheus negotiates it.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An HTTP request, read until its head is complete. A body would be left unread and drained.
#[derive(Debug, Default)]
pub struct HttpRequest {
    head: Vec<u8>,
    wish: Option<Wish>,
}

/// What a request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// `GET /metrics`: 200.
    Metrics,
    /// Another path: 404.
    NotFound,
    /// Another method: 405.
    MethodNotAllowed,
    /// No HTTP request at all: 400.
    BadRequest,
    /// A head that goes on and on: 431.
    HeadTooLarge,
}

impl HttpRequest {
    /// What is wished; [`Wish::BadRequest`] while the request is unfinished.
    #[must_use]
    pub fn wish(&self) -> Wish {
        self.wish.unwrap_or(Wish::BadRequest)
    }
}

impl Request for HttpRequest {
    fn take(&mut self, bytes: &[u8]) -> Taken {
        let first = self.head.is_empty();
        self.head.extend_from_slice(bytes);
        // Only a line's end can complete a head, and parsing again for every byte of a trickle
        // would be work without end.
        if first || bytes.contains(&b'\n') || self.head.len() > LONGEST_HEAD {
            self.wish = wish(&self.head);
        }
        if self.wish.is_none() {
            return Taken::Unfinished;
        }
        self.head = Vec::new();
        Taken::Complete(Rest::Perhaps)
    }
}

/// What the head that begins with these bytes wishes, once that is certain.
fn wish(head: &[u8]) -> Option<Wish> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) if head.len() > LONGEST_HEAD => Some(Wish::HeadTooLarge),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => Some(Wish::HeadTooLarge),
        Err(_) => Some(Wish::BadRequest),
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default().split('?').next();
            Some(match (path, request.method) {
                (Some("/metrics"), Some("GET")) => Wish::Metrics,
                (Some("/metrics"), _) => Wish::MethodNotAllowed,
                _ => Wish::NotFound,
            })
        }
    }
}

/// The whole response to a wish; `metrics` is asked for only when it is wished for.
#[must_use]
pub fn response(wish: Wish, metrics: impl FnOnce() -> String) -> Vec<u8> {
    let (status, extra, body) = match wish {
        Wish::Metrics => ("200 OK", "", metrics()),
        Wish::NotFound => ("404 Not Found", "", "the metrics are at /metrics\n".to_owned()),
        Wish::MethodNotAllowed => {
            ("405 Method Not Allowed", "Allow: GET\r\n", "only GET is understood\n".to_owned())
        }
        Wish::BadRequest => ("400 Bad Request", "", "this is not HTTP\n".to_owned()),
        Wish::HeadTooLarge => (
            "431 Request Header Fields Too Large",
            "",
            "the head of the request is too large\n".to_owned(),
        ),
    };
    let format = if wish == Wish::Metrics { TEXT_FORMAT } else { "text/plain; charset=utf-8" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {format}\r\nContent-Length: {}\r\n{extra}\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish_of(request: &str) -> Option<Wish> {
        let mut http = HttpRequest::default();
        match http.take(request.as_bytes()) {
            Taken::Complete(_) => Some(http.wish()),
            _ => None,
        }
    }

    #[test]
    fn only_get_metrics_is_answered_with_metrics() {
        let request = |line: &str| wish_of(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(request("GET /metrics"), Some(Wish::Metrics));
        assert_eq!(request("GET /metrics?a=b"), Some(Wish::Metrics));
        assert_eq!(request("GET /"), Some(Wish::NotFound));
        assert_eq!(request("POST /"), Some(Wish::NotFound));
        assert_eq!(request("GET /metrics/x"), Some(Wish::NotFound));
        assert_eq!(request("POST /metrics"), Some(Wish::MethodNotAllowed));
        assert_eq!(request("HEAD /metrics"), Some(Wish::MethodNotAllowed));
        assert_eq!(wish_of("<policy-file-request/>\0"), Some(Wish::BadRequest));
        assert_eq!(wish_of("\x16\x03\x01"), Some(Wish::BadRequest));
    }

    #[test]
    fn a_head_comes_in_any_number_of_pieces() {
        let head = b"GET /metrics HTTP/1.1\r\nHost: localhost:9843\r\nAccept: */*\r\n\r\n";
        let mut http = HttpRequest::default();
        for byte in &head[..head.len() - 1] {
            assert_eq!(http.take(&[*byte]), Taken::Unfinished);
        }
        assert_eq!(http.take(b"\n"), Taken::Complete(Rest::Perhaps));
        assert_eq!(http.wish(), Wish::Metrics);
    }

    #[test]
    fn a_head_that_never_ends_is_cut_off() {
        let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(LONGEST_HEAD));
        assert_eq!(wish_of(&endless), Some(Wish::HeadTooLarge));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS + 1));
        assert_eq!(wish_of(&many), Some(Wish::HeadTooLarge));
    }

    #[test]
    fn a_response_says_how_long_it_is_and_that_it_closes() {
        let text = String::from_utf8(response(Wish::Metrics, || "a 1\n".to_owned())).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(head.contains("\r\nContent-Length: 4\r\n"));
        assert!(head.ends_with("\r\nConnection: close"));
        assert_eq!(body, "a 1\n");
        let text = response(Wish::MethodNotAllowed, || unreachable!());
        assert!(text.starts_with(b"HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text.windows(12).any(|window| window == b"Allow: GET\r\n"));
    }
}
