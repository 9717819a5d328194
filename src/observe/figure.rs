//! One figure or a family of them, registered with a recorder of its own.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

/// Most label sets that one family keeps apart.
pub const MAX_LABEL_SETS: usize = 512;

const METADATA: Metadata<'static> = Metadata::new("orchd", Level::INFO, None);

pub(super) fn counter(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) -> Counter {
    Counter::describe(recorder, name, help);
    Counter::register(recorder, &Key::from_static_name(name))
}

pub(super) fn gauge(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) -> Gauge {
    Gauge::describe(recorder, name, help);
    Gauge::register(recorder, &Key::from_static_name(name))
}

pub(super) fn histogram(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) -> Histogram {
    Histogram::describe(recorder, name, help);
    Histogram::register(recorder, &Key::from_static_name(name))
}

/// The three kinds of figure, so that one [`Family`] does for all.
pub(super) trait Instrument: Clone {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str);
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

impl Instrument for Counter {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) {
        recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
    }
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_counter(key, &METADATA)
    }
}

impl Instrument for Gauge {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) {
        recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
    }
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_gauge(key, &METADATA)
    }
}

impl Instrument for Histogram {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) {
        recorder.describe_histogram(KeyName::from_const_str(name), None, help.into());
    }
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_histogram(key, &METADATA)
    }
}

/// One name with labels, and the handles of the label sets seen so far: a lookup costs no allocation.
pub(super) struct Family<I, const N: usize> {
    recorder: Arc<PrometheusRecorder>,
    name: &'static str,
    labels: [&'static str; N],
    handles: RwLock<HashMap<[&'static str; N], I>>,
}

impl<I: Instrument, const N: usize> Family<I, N> {
    pub(super) fn new(
        recorder: &Arc<PrometheusRecorder>,
        name: &'static str,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Self {
        I::describe(recorder, name, help);
        Self { recorder: Arc::clone(recorder), name, labels, handles: RwLock::default() }
    }

    pub(super) fn with(&self, values: [&'static str; N], act: impl FnOnce(&I)) {
        // A poisoned lock is still a consistent map: an insert either happened or did not.
        if let Some(handle) = self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&values) {
            return act(handle);
        }
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        let values = if handles.len() < MAX_LABEL_SETS { values } else { ["other"; N] };
        let handle = handles.entry(values).or_insert_with(|| {
            let labels: Vec<Label> = self
                .labels
                .iter()
                .zip(values)
                .map(|(&key, value)| Label::from_static_parts(key, value))
                .collect();
            I::register(&self.recorder, &Key::from_parts(self.name, labels))
        });
        act(handle);
    }
}
