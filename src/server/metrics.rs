//! What the server counts while it runs, and what that reads like.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::exchange::Outcome;

/// The upper ends of the histogram's buckets, in seconds.
pub const DURATION_BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 0.5, 1.0, 3.0, 5.0];

/// Everything that is counted since the start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Connections that ended, by outcome, in the order of [`Outcome::EVERY`].
    requests: [u64; Outcome::EVERY.len()],
    /// How long they took from accept to close.
    pub durations: Histogram,
    /// How often `accept4` failed.
    pub accept_errors: u64,
    /// Reloads that succeeded.
    reloads_ok: u64,
    /// Reloads that left the old policy serving.
    reloads_failed: u64,
    /// Whether the last of them was one of those.
    last_reload_failed: bool,
}

impl Counters {
    /// Counts one connection that took `duration` from accept to close.
    pub fn record(&mut self, outcome: Outcome, duration: Duration) {
        self.requests[outcome as usize] += 1;
        self.durations.observe(duration);
    }

    /// Counts one reload that succeeded.
    pub fn reloaded(&mut self) {
        self.reloads_ok += 1;
        self.last_reload_failed = false;
    }

    /// Counts one reload that left the old policy serving.
    pub fn reload_failed(&mut self) {
        self.reloads_failed += 1;
        self.last_reload_failed = true;
    }

    /// How many connections ended so.
    #[must_use]
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize]
    }

    /// How many connections ended in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// How many clients asked, or began to, and had no answer.
    #[must_use]
    pub fn unserved(&self) -> u64 {
        self.total() - self.requests(Outcome::Served) - self.requests(Outcome::Unasked)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in Outcome::EVERY {
            write!(f, "{} {}, ", outcome.as_str(), self.requests(outcome))?;
        }
        write!(
            f,
            "accept errors {}, reloads {}, failed reloads {}",
            self.accept_errors, self.reloads_ok, self.reloads_failed
        )
    }
}

/// A distribution of durations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// How many durations fell into each bucket of [`DURATION_BUCKETS`] and into none below it.
    counts: [u64; DURATION_BUCKETS.len()],
    /// How many there were in all.
    count: u64,
    /// Their sum.
    sum: Duration,
}

impl Histogram {
    /// Adds one duration.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(bucket) = DURATION_BUCKETS.iter().position(|end| seconds <= *end) {
            self.counts[bucket] += 1;
        }
        self.count += 1;
        self.sum += duration;
    }
}

/// What is so at the moment of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauges {
    /// Unfinished connections, that of the scrape among them.
    pub connections: usize,
    /// Rules in the policy.
    pub policy_rules: usize,
    /// Drop-ins of packages that are broken and left out of it.
    pub drop_ins_left_out: usize,
    /// Bytes of the answer, its NUL included.
    pub policy_bytes: usize,
    /// When the configuration was read.
    pub config_loaded: SystemTime,
    /// Log lines that standard error did not take.
    pub log_lines_dropped: u64,
}

/// What a metric counts or measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl fmt::Display for MetricType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// One metric: what it is called, what it means, and where its samples come from.
#[derive(Debug)]
pub struct Metric {
    /// The name, with its unit.
    pub name: &'static str,
    /// What it counts or measures.
    pub kind: MetricType,
    /// What it means, in a sentence.
    pub help: &'static str,
    samples: fn(&mut Samples<'_>, &Counters, &Gauges) -> fmt::Result,
}

/// Where the samples of one metric are written to.
struct Samples<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl Samples<'_> {
    /// Writes one sample; `labels` is empty, or the suffix of the name and the labels in braces.
    fn write(&mut self, labels: impl fmt::Display, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.out, "{}{labels} {value}", self.name)
    }
}

/// Every metric, in the order of the text.
pub static METRICS: [Metric; 12] = [
    Metric {
        name: "masterpolicyd_requests_total",
        kind: MetricType::Counter,
        help: "Connections that ended, by result.",
        samples: |samples, counters, _| {
            Outcome::EVERY.into_iter().try_for_each(|outcome| {
                let label = outcome.as_str();
                samples.write(format_args!("{{result=\"{label}\"}}"), counters.requests(outcome))
            })
        },
    },
    Metric {
        name: "masterpolicyd_connections",
        kind: MetricType::Gauge,
        help: "Connections that are not finished, scrapes among them.",
        samples: |samples, _, gauges| samples.write("", gauges.connections),
    },
    Metric {
        name: "masterpolicyd_accept_errors_total",
        kind: MetricType::Counter,
        help: "Connections that could not be accepted.",
        samples: |samples, counters, _| samples.write("", counters.accept_errors),
    },
    Metric {
        name: "masterpolicyd_request_duration_seconds",
        kind: MetricType::Histogram,
        help: "Time from accepting a connection to closing it.",
        samples: |samples, counters, _| {
            let Histogram { counts, count, sum } = &counters.durations;
            let mut cumulated = 0;
            for (end, here) in DURATION_BUCKETS.iter().zip(counts) {
                cumulated += here;
                samples.write(format_args!("_bucket{{le=\"{end:?}\"}}"), cumulated)?;
            }
            samples.write("_bucket{le=\"+Inf\"}", count)?;
            samples.write("_sum", sum.as_secs_f64())?;
            samples.write("_count", count)
        },
    },
    Metric {
        name: "masterpolicyd_policy_rules",
        kind: MetricType::Gauge,
        help: "Rules in the policy that is served.",
        samples: |samples, _, gauges| samples.write("", gauges.policy_rules),
    },
    Metric {
        name: "masterpolicyd_policy_bytes",
        kind: MetricType::Gauge,
        help: "Size of the answer, its NUL included.",
        samples: |samples, _, gauges| samples.write("", gauges.policy_bytes),
    },
    Metric {
        name: "masterpolicyd_drop_ins_left_out",
        kind: MetricType::Gauge,
        help: "Drop-ins of packages that are broken and not part of the policy.",
        samples: |samples, _, gauges| samples.write("", gauges.drop_ins_left_out),
    },
    Metric {
        name: "masterpolicyd_reloads_total",
        kind: MetricType::Counter,
        help: "Reloads of the configuration, by result.",
        samples: |samples, counters, _| {
            samples.write("{result=\"ok\"}", counters.reloads_ok)?;
            samples.write("{result=\"failed\"}", counters.reloads_failed)
        },
    },
    Metric {
        name: "masterpolicyd_config_last_reload_successful",
        kind: MetricType::Gauge,
        help: "Whether the last reload succeeded; 1 as long as there was none.",
        samples: |samples, counters, _| samples.write("", u8::from(!counters.last_reload_failed)),
    },
    Metric {
        name: "masterpolicyd_config_loaded_timestamp_seconds",
        kind: MetricType::Gauge,
        help: "When the configuration that is served was read.",
        samples: |samples, _, gauges| {
            let since_epoch = gauges.config_loaded.duration_since(UNIX_EPOCH).unwrap_or_default();
            samples.write("", format_args!("{:.3}", since_epoch.as_secs_f64()))
        },
    },
    Metric {
        name: "masterpolicyd_log_lines_dropped_total",
        kind: MetricType::Counter,
        help: "Log lines that could not be written to standard error.",
        samples: |samples, _, gauges| samples.write("", gauges.log_lines_dropped),
    },
    Metric {
        name: "masterpolicyd_build_info",
        kind: MetricType::Gauge,
        help: "Always 1; the version is a label.",
        samples: |samples, _, _| {
            samples.write(concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1)
        },
    },
];

/// Everything in the text format of Prometheus, version 0.0.4.
#[must_use]
pub fn text(counters: &Counters, gauges: &Gauges) -> String {
    let mut text = String::with_capacity(4096);
    for Metric { name, kind, help, samples } in &METRICS {
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let _ = samples(&mut Samples { out: &mut text, name }, counters, gauges);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges() -> Gauges {
        Gauges {
            connections: 3,
            policy_rules: 2,
            drop_ins_left_out: 5,
            policy_bytes: 246,
            config_loaded: UNIX_EPOCH + Duration::from_millis(1_234_500),
            log_lines_dropped: 7,
        }
    }

    #[test]
    fn every_metric_has_a_sample_and_every_outcome_a_label() {
        let text = text(&Counters::default(), &gauges());
        for Metric { name, kind, .. } in &METRICS {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")));
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} has no sample");
        }
        for outcome in Outcome::EVERY {
            assert!(text.contains(&format!("requests_total{{result=\"{}\"}} 0", outcome.as_str())));
        }
    }

    #[test]
    fn what_is_recorded_is_what_is_told() {
        let mut counters = Counters::default();
        counters.record(Outcome::Served, Duration::from_micros(50));
        counters.record(Outcome::Served, Duration::from_millis(2));
        counters.record(Outcome::Aborted, Duration::from_secs(60));
        let text = text(&counters, &gauges());
        for line in [
            "masterpolicyd_requests_total{result=\"served\"} 2",
            "masterpolicyd_requests_total{result=\"aborted\"} 1",
            "masterpolicyd_connections 3",
            "masterpolicyd_request_duration_seconds_bucket{le=\"0.0001\"} 1",
            "masterpolicyd_request_duration_seconds_bucket{le=\"0.0025\"} 2",
            "masterpolicyd_request_duration_seconds_bucket{le=\"5.0\"} 2",
            "masterpolicyd_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "masterpolicyd_request_duration_seconds_count 3",
            "masterpolicyd_config_loaded_timestamp_seconds 1234.500",
            "masterpolicyd_log_lines_dropped_total 7",
            "masterpolicyd_drop_ins_left_out 5",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        counters.record(Outcome::Unasked, Duration::ZERO);
        assert_eq!(counters.unserved(), 1, "nobody was refused who did not ask");
    }

    #[test]
    fn a_reload_that_takes_hold_makes_up_for_one_that_failed() {
        let mut counters = Counters::default();
        let tells = |counters: &Counters, line: &str| {
            assert!(text(counters, &gauges()).lines().any(|it| it == line), "no {line}");
        };
        tells(&counters, "masterpolicyd_config_last_reload_successful 1");
        counters.reload_failed();
        tells(&counters, "masterpolicyd_config_last_reload_successful 0");
        counters.reloaded();
        tells(&counters, "masterpolicyd_config_last_reload_successful 1");
        tells(&counters, "masterpolicyd_reloads_total{result=\"failed\"} 1");
    }

    #[test]
    fn outcomes_index_their_counters() {
        for (index, outcome) in Outcome::EVERY.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
    }
}
