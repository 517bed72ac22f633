//! Builds a page of metrics in Prometheus' text format.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary,
};

use super::counter::BOUNDS;

/// The content type of such a page.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families so far.
#[derive(Default)]
pub(super) struct Page(Vec<MetricFamily>);

/// A sample's labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// Adds counters of that name.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::COUNTER)
    }

    /// Adds gauges of that name.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::GAUGE)
    }

    /// Adds histograms of that name.
    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::HISTOGRAM)
    }

    /// Adds summaries of that name.
    pub fn summary(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::SUMMARY)
    }

    /// The text.
    pub fn text(&self) -> String {
        prometheus::TextEncoder.encode_to_string(&self.0).unwrap_or_else(|e| {
            tracing::error!("the metrics could not be written: {e}");
            String::new()
        })
    }
}

/// The samples of one name. They join the page in the end, if there are any.
pub(super) struct Family<'a> {
    page: &'a mut Page,
    family: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
}

impl<'a> Family<'a> {
    fn new(page: &'a mut Page, name: &str, help: &str, kind: MetricType) -> Family<'a> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family { page, family, kind, samples: Vec::new() }
    }

    /// A counter's or gauge's value.
    pub fn value(mut self, labels: Labels<'_>, value: f64) -> Self {
        self.push(labels, |metric, kind| match kind {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
        self
    }

    /// A histogram: how often within each of [`BOUNDS`] and beyond, and the sum in nanoseconds.
    pub fn durations(mut self, labels: Labels<'_>, counts: &[u64; BOUNDS.len() + 1], nanos: u64) -> Self {
        let mut below = 0;
        let buckets = BOUNDS.iter().zip(counts).map(|(bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / 1e9);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(nanos as f64 / 1e9);
        self.push(labels, |metric, _| metric.set_histogram(histogram));
        self
    }

    /// A summary: quantiles and their values in seconds, how many there have ever been, and their sum in nanoseconds.
    pub fn quantiles<const N: usize>(
        mut self,
        labels: Labels<'_>,
        quantiles: [(f64, f64); N],
        count: u64,
        nanos: u64,
    ) -> Self {
        let quantiles = quantiles.map(|(quantile, value)| {
            let mut one = Quantile::default();
            one.set_quantile(quantile);
            one.set_value(value);
            one
        });
        let mut summary = Summary::default();
        summary.set_quantile(quantiles.into());
        summary.set_sample_count(count);
        summary.set_sample_sum(nanos as f64 / 1e9);
        self.push(labels, |metric, _| metric.set_summary(summary));
        self
    }

    fn push(&mut self, labels: Labels<'_>, fill: impl FnOnce(&mut Metric, MetricType)) {
        let labels = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        fill(&mut metric, self.kind);
        self.samples.push(metric);
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        // The encoder takes no family without samples.
        if !self.samples.is_empty() {
            let mut family = std::mem::take(&mut self.family);
            family.set_metric(std::mem::take(&mut self.samples));
            self.page.0.push(family);
        }
    }
}
