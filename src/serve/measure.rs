//! Figures about the service, in the form that Prometheus reads. No label names an enterprise, a person or a statement:
//! only operations, statuses and outcomes.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the times that are counted, seconds.
const TIMES: [f64; 12] = [
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 10.0, 60.0,
];

/// The figures of this process. They are gathered from the first call on.
pub(crate) fn install() -> PrometheusHandle {
    static FIGURES: OnceLock<PrometheusHandle> = OnceLock::new();
    let figures = FIGURES.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let builder = builder
            .set_buckets_for_metric(seconds, &TIMES)
            .unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Another recorder may be in place in a process that embeds this one; then these figures stay empty.
        let _ = metrics::set_global_recorder(recorder);
        handle
    });
    figures.clone()
}

/// A request was answered.
pub(crate) fn answered(operation: &'static str, status: u16, took: Duration) {
    let status = status.to_string();
    counter!("qihui_http_requests_total", "operation" => operation, "status" => status)
        .increment(1);
    histogram!("qihui_http_request_seconds", "operation" => operation).record(took.as_secs_f64());
}

/// A query ended.
pub(crate) fn queried(outcome: &'static str, rows: u64) {
    counter!("qihui_queries_total", "outcome" => outcome).increment(1);
    counter!("qihui_query_rows_total").increment(rows);
}

/// A connection began or ended.
pub(crate) fn connected(begins: bool) {
    let connections = gauge!("qihui_connections");
    if begins {
        connections.increment(1.0);
    } else {
        connections.decrement(1.0);
    }
}

/// So many deliveries run.
pub(crate) fn delivering(deliveries: usize) {
    gauge!("qihui_deliveries").set(u32::try_from(deliveries).unwrap_or(u32::MAX));
}

/// A delivery failed.
pub(crate) fn delivery_failed(code: &'static str) {
    counter!("qihui_delivery_failures_total", "code" => code).increment(1);
}
