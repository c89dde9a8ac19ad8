//! What a daemon's metrics say, asked as a scraper asks. Who answers at an address is for whoever
//! names it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bounded::{NoResult, within};

/// How long the whole exchange may take.
const LIMIT: Duration = Duration::from_secs(2);

/// As much as is read of an answer; it has about 4 KiB.
const MOST: u64 = 64 * 1024;

/// What the metrics say; `None` and nothing for what another version does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The version of the program that runs.
    pub version: Option<String>,
    /// When the configuration that is served was read.
    pub loaded: Option<SystemTime>,
    /// Rules in the policy.
    pub rules: Option<u64>,
    /// Drop-ins of packages that are left out of it.
    pub left_out: Option<u64>,
    /// Reloads that succeeded.
    pub reloads: Option<u64>,
    /// Reloads that failed.
    pub failed_reloads: Option<u64>,
    /// Whether the last one did.
    pub last_reload_failed: Option<bool>,
    /// Unfinished connections, that of the question not counted.
    pub connections: Option<u64>,
    /// Connections that ended, by result.
    pub requests: Vec<(String, u64)>,
}

/// Why there are none.
#[derive(Debug)]
pub enum ScrapeError {
    /// The exchange failed.
    Failed(io::Error),
    /// It took too long.
    TimeIsUp,
    /// What answers are not the metrics of a masterpolicyd.
    NotMetrics,
}

impl fmt::Display for ScrapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error}"),
            Self::TimeIsUp => write!(f, "no answer within {} s", LIMIT.as_secs()),
            Self::NotMetrics => f.write_str("what answers is not masterpolicyd"),
        }
    }
}

impl std::error::Error for ScrapeError {}

/// Asks for the metrics at `address`.
///
/// # Errors
/// There is no answer in time, or none that makes sense.
pub fn scrape(address: SocketAddr) -> Result<Metrics, ScrapeError> {
    let answer = match within(LIMIT, move || ask(address)) {
        Ok(answer) => answer.map_err(ScrapeError::Failed)?,
        Err(NoResult::TimeIsUp) => return Err(ScrapeError::TimeIsUp),
        Err(NoResult::NoThread(error)) => return Err(ScrapeError::Failed(error)),
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(ScrapeError::NotMetrics)?;
    let metrics = metrics(body);
    if head.starts_with("HTTP/1.1 200 ") && metrics != Metrics::default() {
        Ok(metrics)
    } else {
        Err(ScrapeError::NotMetrics)
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The metrics in their text format. A line that makes no sense says nothing.
fn metrics(text: &str) -> Metrics {
    let mut metrics = Metrics::default();
    let lines = text.lines().filter_map(|line| line.strip_prefix("masterpolicyd_"));
    for (sample, value) in lines.filter_map(|line| line.split_once(' ')) {
        let (name, label) = sample.split_once('{').unwrap_or((sample, ""));
        let label = label.split('"').nth(1).unwrap_or_default();
        let number = value.parse().ok();
        match (name, label) {
            ("build_info", version) => metrics.version = Some(version.to_owned()),
            ("config_loaded_timestamp_seconds", _) => {
                let since_epoch =
                    value.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
                metrics.loaded = since_epoch.and_then(|it| UNIX_EPOCH.checked_add(it));
            }
            ("policy_rules", _) => metrics.rules = number,
            ("drop_ins_left_out", _) => metrics.left_out = number,
            ("reloads_total", "ok") => metrics.reloads = number,
            ("reloads_total", "failed") => metrics.failed_reloads = number,
            ("config_last_reload_successful", _) => {
                metrics.last_reload_failed = number.map(|number: u64| number == 0);
            }
            ("connections", _) => {
                metrics.connections = number.map(|number: u64| number.saturating_sub(1));
            }
            ("requests_total", result) => {
                metrics.requests.extend(number.map(|number| (result.to_owned(), number)));
            }
            _ => {}
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::server::exchange::Outcome;
    use crate::server::metrics::{Counters, Gauges, text};

    #[test]
    fn everything_that_the_server_writes_is_read() {
        let loaded = UNIX_EPOCH + Duration::from_millis(1_234_500);
        let gauges = Gauges {
            connections: 3,
            policy_rules: 2,
            drop_ins_left_out: 5,
            policy_bytes: 246,
            config_loaded: loaded,
            log_lines_dropped: 7,
        };
        let mut counters = Counters::default();
        counters.record(Outcome::Evicted, Duration::ZERO);
        counters.reloaded();
        counters.reloaded();
        counters.reload_failed();
        let expected = Metrics {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            loaded: Some(loaded),
            rules: Some(2),
            left_out: Some(5),
            reloads: Some(2),
            failed_reloads: Some(1),
            last_reload_failed: Some(true),
            connections: Some(2),
            requests: Outcome::EVERY
                .map(|it| (it.as_str().to_owned(), u64::from(it == Outcome::Evicted)))
                .into(),
        };
        assert_eq!(metrics(&text(&counters, &gauges)), expected);
    }

    #[test]
    fn what_makes_no_sense_says_nothing() {
        for text in [
            "",
            "<html>",
            "masterpolicyd_policy_rules",
            "masterpolicyd_policy_rules many",
            "masterpolicyd_policy_rules -1",
            "masterpolicyd_config_loaded_timestamp_seconds NaN",
            "masterpolicyd_config_loaded_timestamp_seconds -1e300",
            "masterpolicyd_config_loaded_timestamp_seconds 1e300",
            "masterpolicyd_requests_total{result=\"served\"} x",
            "masterpolicyd_{{{ }}}",
        ] {
            assert_eq!(metrics(text), Metrics::default(), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_something_else_or_has_no_end_is_given_up() {
        let answered_with = |answer: fn(TcpStream)| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || answer(listener.accept().unwrap().0));
            let result = scrape(address);
            server.join().unwrap();
            result
        };
        let other = answered_with(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello masterpolicyd_x 1\n");
        });
        assert!(
            matches!(other, Err(ScrapeError::NotMetrics | ScrapeError::Failed(_))),
            "{other:?}"
        );
        let endless = answered_with(|mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
        assert!(endless.is_err(), "{endless:?}");
        let silent =
            answered_with(|mut stream| while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {});
        assert!(silent.is_err(), "{silent:?}");
    }
}
