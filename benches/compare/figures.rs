//! What one load of a server comes to.

use std::time::Duration;

use serde::Serialize;

use crate::peers::Running;
use crate::support::load::{self, Load, Shape, Sources};

/// What one load came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) requests: usize,
    /// Exchanges whose client did not get the whole answer and an orderly end.
    pub(crate) spoiled: usize,
    /// The first of them, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
    /// Resets that were sent, as the kernel counts them.
    pub(crate) resets: u64,
    /// Of the server, per request.
    pub(crate) cpu_us: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Has a server answer one load.
pub(crate) fn measure(
    server: &Running,
    requests: usize,
    concurrency: usize,
    answer: &[u8],
) -> Figures {
    let resets_before = resets_sent();
    let cpu_before = server.cpu_time();
    let report = load::run(&Load {
        target: server.address,
        requests,
        concurrency,
        shape: Shape::Whole,
        sources: Sources::LOOPBACK,
        documents: &[answer],
    });
    let cpu = server.cpu_time().saturating_sub(cpu_before);
    let count = f64::from(u32::try_from(requests).expect("a bounded load"));
    Figures {
        requests,
        spoiled: requests - report.answered,
        fault: report.failures.into_iter().next(),
        resets: resets_sent() - resets_before,
        cpu_us: microseconds(cpu) / count,
        requests_per_second: count / report.elapsed.as_secs_f64(),
        p50_us: microseconds(report.latency.quantile(500)),
        p99_us: microseconds(report.latency.quantile(990)),
        p999_us: microseconds(report.latency.quantile(999)),
    }
}

pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Resets that this network namespace has sent since it exists. Exact in a namespace of one's
/// own: what no client can see for certain, the kernel counts.
fn resets_sent() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the counters of TCP");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    names
        .split(' ')
        .zip(values.split(' '))
        .find_map(|(name, value)| (name == "OutRsts").then(|| value.parse().expect("a count")))
        .expect("OutRsts")
}
