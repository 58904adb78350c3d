//! Periodic export of the metrics over OTLP. The SDK accepts no histograms that were counted elsewhere, so the
//! messages are made here.

use std::sync::mpsc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    self as v1, HistogramDataPoint, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::Channel;

use super::collect::{Family, Point, Value, collect};
use super::metrics::{METRICS, Signal};
use super::names::Kind;
use super::readers::unix_micros;
use super::settings::Target;

/// Task that sends metrics until it is told to stop.
pub(super) struct Push {
    client: MetricsServiceClient<Channel>,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    resource: Resource,
    interval: Duration,
    started: u64,
}

impl Push {
    pub(super) fn new(
        channel: Channel,
        target: &Target,
        resource: &opentelemetry_sdk::Resource,
        interval: Duration,
    ) -> Result<Self, String> {
        let mut client = MetricsServiceClient::new(channel);
        if target.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let headers = target.headers.iter().map(|(key, value)| {
            let bad = || format!("OTEL_EXPORTER_OTLP_HEADERS: {key} is not a header");
            let name: MetadataKey<Ascii> = key.parse().map_err(|_| bad())?;
            Ok((name, value.parse().map_err(|_| bad())?))
        });
        let attributes = resource.iter().map(|(key, value)| attribute(key.as_str(), &value.as_str()));
        let resource = Resource { attributes: attributes.collect(), ..Resource::default() };
        Ok(Self {
            client,
            headers: headers.collect::<Result<_, String>>()?,
            resource,
            interval,
            started: nanos(),
        })
    }

    pub(super) async fn run(mut self, mut stop: tokio::sync::oneshot::Receiver<mpsc::Sender<()>>) {
        loop {
            tokio::select! {
                stopped = &mut stop => {
                    self.send().await;
                    // Tells the waiting thread that all is sent.
                    drop(stopped);
                    return;
                }
                () = tokio::time::sleep(self.interval) => self.send().await,
            }
        }
    }

    async fn send(&mut self) {
        let families = collect();
        let points: usize = families.iter().map(|family| family.points.len()).sum();
        let now = nanos();
        let scope = InstrumentationScope {
            name: "streamway".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let metrics = families.iter().map(|family| message(family, self.started, now)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
        let resource = Some(self.resource.clone());
        let resource_metrics =
            vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
        let mut request = tonic::Request::new(ExportMetricsServiceRequest { resource_metrics });
        for (key, value) in &self.headers {
            request.metadata_mut().insert(key.clone(), value.clone());
        }
        let counts = METRICS.signal(Signal::Metrics);
        match self.client.export(request).await {
            Ok(_) => counts.exported.add(points as u64),
            // The values are cumulative: the next export has all of them.
            Err(_) => counts.refused.add(points as u64),
        }
    }
}

fn nanos() -> u64 {
    unix_micros() * 1000
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn message(family: &Family, started: u64, now: u64) -> v1::Metric {
    let attributes = |point: &Point| {
        family.metric.labels.iter().zip(&point.labels).map(|(key, value)| attribute(key, value)).collect()
    };
    let mut numbers = Vec::new();
    let mut histograms = Vec::new();
    for point in &family.points {
        match &point.value {
            Value::Number(value) => numbers.push(NumberDataPoint {
                attributes: attributes(point),
                start_time_unix_nano: started,
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(*value)),
                ..NumberDataPoint::default()
            }),
            Value::Histogram(snapshot) => histograms.push(HistogramDataPoint {
                attributes: attributes(point),
                start_time_unix_nano: started,
                time_unix_nano: now,
                count: snapshot.counts.iter().sum(),
                sum: Some(snapshot.sum),
                bucket_counts: snapshot.counts.clone(),
                explicit_bounds: snapshot.bounds.clone(),
                ..HistogramDataPoint::default()
            }),
        }
    }
    let cumulative = v1::AggregationTemporality::Cumulative as i32;
    let data = match family.metric.kind {
        Kind::Counter => metric::Data::Sum(v1::Sum {
            data_points: numbers,
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => metric::Data::Gauge(v1::Gauge { data_points: numbers }),
        Kind::Histogram => metric::Data::Histogram(v1::Histogram {
            data_points: histograms,
            aggregation_temporality: cumulative,
        }),
    };
    v1::Metric {
        name: family.metric.name.to_owned(),
        description: family.metric.help.to_owned(),
        unit: family.metric.unit.to_owned(),
        data: Some(data),
        ..v1::Metric::default()
    }
}
