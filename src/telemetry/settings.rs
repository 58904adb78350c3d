//! The standard `OTEL_*` variables, read once at the start. Those that this server cannot honour are refused by
//! name, which the SDK does not do. Without an endpoint nothing is exported.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;

use super::metrics::{SIGNALS, Signal};

/// Destination of one signal.
#[derive(Clone, Debug)]
pub struct Target {
    /// URL with the scheme `http` or `https`.
    pub endpoint: String,
    /// Longest time of one export.
    pub timeout: Duration,
    /// Headers sent with each export.
    pub headers: Vec<(String, String)>,
    /// Exports are compressed.
    pub gzip: bool,
    /// PEM file of the CAs that the collector's certificate is checked against.
    pub certificate: Option<String>,
    /// PEM files of the client certificate and its key.
    pub identity: Option<(String, String)>,
}

/// Settings of the export.
#[derive(Clone, Debug)]
pub struct Settings {
    targets: [Option<Target>; SIGNALS.len()],
    /// Choice of the calls that are traced.
    pub sampler: Sampler,
    /// Interval at which metrics are sent.
    pub metrics_interval: Duration,
    /// Trace contexts of callers are used.
    pub propagate: bool,
    /// Maximum spans and maximum log lines that wait for export.
    pub queues: [usize; 2],
    /// Description of this process.
    pub resource: Resource,
}

struct Environment(HashMap<String, String>);

impl Environment {
    fn get(&self, name: &str) -> Option<&str> {
        // By the standard, an empty variable is not set.
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Returns the signal's own variable, or else the common one.
    fn of(&self, signal: Signal, what: &str) -> Option<&str> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", SIGNALS[signal as usize].to_uppercase());
        self.get(&own).or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().map_err(|_| format!("{name}={text} is not a number"))
    }

    fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

impl Settings {
    /// Reads the variables. `service` is the service's name where they give none.
    ///
    /// # Errors
    /// A variable cannot be honoured; the text says which values can.
    pub fn read(
        service: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        let env = Environment(environment.into_iter().filter(|(name, _)| is_ours(name)).collect());
        for name in ["OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"] {
            if env.get(name).is_some() {
                return Err(format!("{name} is not supported: set the OTEL_ variables themselves"));
            }
        }
        if env
            .of(Signal::Metrics, "TEMPORALITY_PREFERENCE")
            .is_some_and(|t| !t.eq_ignore_ascii_case("cumulative"))
        {
            return Err(
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: only cumulative is supported".into()
            );
        }
        let target = |signal| target(&env, signal);
        Ok(Self {
            targets: [target(Signal::Traces)?, target(Signal::Metrics)?, target(Signal::Logs)?],
            sampler: sampler(&env)?,
            metrics_interval: Duration::from_millis(
                env.number("OTEL_METRIC_EXPORT_INTERVAL", 60_000_u64)?.max(100),
            ),
            propagate: propagators(&env)?,
            queues: [
                env.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)?,
                env.number("OTEL_BLRP_MAX_QUEUE_SIZE", 2048)?,
            ],
            resource: resource(&env, service),
        })
    }

    /// Turns the export of metrics off, which only a server has.
    #[must_use]
    pub fn without_metrics(mut self) -> Self {
        self.targets[Signal::Metrics as usize] = None;
        self
    }

    /// Returns the destination of a signal; none where it is off.
    #[must_use]
    pub const fn target(&self, signal: Signal) -> Option<&Target> {
        self.targets[signal as usize].as_ref()
    }
}

fn is_ours(name: &str) -> bool {
    const KUBERNETES: [&str; 6] =
        ["POD_NAME", "POD_NAMESPACE", "POD_UID", "NODE_NAME", "HOSTNAME", "KUBERNETES_SERVICE_HOST"];
    name.starts_with("OTEL_") || KUBERNETES.contains(&name)
}

fn target(env: &Environment, signal: Signal) -> Result<Option<Target>, String> {
    let name = format!("OTEL_{}_EXPORTER", SIGNALS[signal as usize].to_uppercase());
    let wanted = env.get(&name).unwrap_or("otlp");
    for exporter in wanted.split(',').map(str::trim) {
        // Metrics are at /metrics whatever is asked.
        let known =
            ["otlp", "none"].contains(&exporter) || (signal == Signal::Metrics && exporter == "prometheus");
        if !known {
            return Err(format!("{name}={exporter} is not supported: otlp or none"));
        }
    }
    if env.is_true("OTEL_SDK_DISABLED") || !wanted.split(',').any(|exporter| exporter.trim() == "otlp") {
        return Ok(None);
    }
    let Some(endpoint) = env.of(signal, "ENDPOINT") else { return Ok(None) };
    if let Some(protocol) = env.of(signal, "PROTOCOL").filter(|protocol| *protocol != "grpc") {
        return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is not supported: grpc"));
    }
    let gzip = match env.of(signal, "COMPRESSION") {
        None | Some("none") => false,
        Some("gzip") => true,
        Some(other) => {
            return Err(format!("OTEL_EXPORTER_OTLP_COMPRESSION={other} is not supported: gzip or none"));
        }
    };
    let scheme = if env.of(signal, "INSECURE").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        "http"
    } else {
        "https"
    };
    let endpoint =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") };
    let timeout = env.of(signal, "TIMEOUT").unwrap_or("10000");
    let timeout =
        timeout.parse().map_err(|_| format!("OTEL_EXPORTER_OTLP_TIMEOUT={timeout} is not milliseconds"))?;
    let identity = match (env.of(signal, "CLIENT_CERTIFICATE"), env.of(signal, "CLIENT_KEY")) {
        (Some(certificate), Some(key)) => Some((certificate.to_owned(), key.to_owned())),
        (None, None) => None,
        _ => return Err("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY go together".into()),
    };
    Ok(Some(Target {
        endpoint,
        timeout: Duration::from_millis(timeout),
        headers: headers(env.of(signal, "HEADERS").unwrap_or_default())?,
        gzip,
        certificate: env.of(signal, "CERTIFICATE").map(str::to_owned),
        identity,
    }))
}

fn headers(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            // The value may be a secret: it is not in the message.
            let bad = || "OTEL_EXPORTER_OTLP_HEADERS: write key=value,key=value".to_owned();
            let (key, value) = pair.split_once('=').ok_or_else(bad)?;
            Ok((key.trim().to_ascii_lowercase(), decoded(value.trim()).ok_or_else(bad)?))
        })
        .collect()
}

/// Decodes percent-encoding, which the standard prescribes for header values.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut out) = (text.bytes(), Vec::new());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

fn sampler(env: &Environment) -> Result<Sampler, String> {
    let ratio = || {
        let ratio = env.number("OTEL_TRACES_SAMPLER_ARG", 1.0)?;
        if (0.0..=1.0).contains(&ratio) {
            Ok(Sampler::TraceIdRatioBased(ratio))
        } else {
            Err(format!("OTEL_TRACES_SAMPLER_ARG={ratio} must be 0 to 1"))
        }
    };
    let parent = |root| Sampler::ParentBased(Box::new(root));
    Ok(match env.get("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on") {
        "always_on" => Sampler::AlwaysOn,
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => ratio()?,
        "parentbased_always_on" => parent(Sampler::AlwaysOn),
        "parentbased_always_off" => parent(Sampler::AlwaysOff),
        "parentbased_traceidratio" => parent(ratio()?),
        other => {
            return Err(format!(
                "OTEL_TRACES_SAMPLER={other} is not supported: always_on, always_off, traceidratio, each also \
                 with parentbased_ before it"
            ));
        }
    })
}

/// Tells whether callers' contexts are used. Baggage is read by nothing here, so it is accepted and ignored.
fn propagators(env: &Environment) -> Result<bool, String> {
    let mut used = false;
    for propagator in env.get("OTEL_PROPAGATORS").unwrap_or("tracecontext,baggage").split(',').map(str::trim)
    {
        match propagator {
            "tracecontext" => used = true,
            "baggage" | "none" => {}
            other => {
                return Err(format!(
                    "OTEL_PROPAGATORS={other} is not supported: tracecontext, baggage or none"
                ));
            }
        }
    }
    Ok(used)
}

fn resource(env: &Environment, service: &str) -> Resource {
    let given = env.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let given = given.split(',').filter_map(|pair| pair.split_once('='));
    let given = given.map(|(key, value)| (key.trim(), value.trim()));
    let in_kubernetes = env.get("KUBERNETES_SERVICE_HOST").is_some();
    let pod = env.get("POD_NAME").or_else(|| env.get("HOSTNAME").filter(|_| in_kubernetes));
    let instance = format!("{:016x}{:016x}", getrandom::u64().unwrap_or_default(), std::process::id());
    let guessed = [
        ("service.name", Some(service)),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Some(instance.as_str())),
        ("host.name", env.get("HOSTNAME")),
        ("k8s.pod.name", pod),
        ("k8s.pod.uid", env.get("POD_UID")),
        ("k8s.namespace.name", env.get("POD_NAMESPACE")),
        ("k8s.node.name", env.get("NODE_NAME")),
    ];
    let guessed = guessed.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let named = env.get("OTEL_SERVICE_NAME").map(|name| ("service.name", name));
    // A later value replaces an earlier one: what is given goes before guesses, OTEL_SERVICE_NAME before all.
    let attributes = guessed.chain(given).chain(named).map(|(key, value)| {
        KeyValue::new(key.to_owned(), decoded(value).unwrap_or_else(|| value.to_owned()))
    });
    Resource::builder_empty()
        .with_detector(Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector))
        .with_attributes(attributes)
        .build()
}

#[cfg(test)]
mod tests {
    use super::{Settings, Signal};
    use opentelemetry::Key;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(
            "streamway",
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_when_export_is_off() {
        let off = |settings: &Settings| {
            [Signal::Traces, Signal::Metrics, Signal::Logs].map(|signal| settings.target(signal).is_none())
        };
        assert_eq!(off(&read(&[]).unwrap()), [true; 3]);
        assert_eq!(off(&read(&[ENDPOINT]).unwrap()), [false; 3]);
        assert_eq!(off(&read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).unwrap()), [true; 3]);
        assert_eq!(off(&read(&[ENDPOINT, ("OTEL_LOGS_EXPORTER", "none")]).unwrap()), [false, false, true]);
        let metrics = read(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "x:1")]).unwrap();
        assert_eq!(off(&metrics), [true, false, true]);
        assert_eq!(metrics.target(Signal::Metrics).unwrap().endpoint, "https://x:1");
    }

    #[test]
    fn variables_that_cannot_be_honoured_are_refused_by_name() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "x"),
            ("OTEL_CONFIG_FILE", "otel.yaml"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
        ] {
            let mut variables = vec![ENDPOINT, (name, value)];
            if name == "OTEL_TRACES_SAMPLER_ARG" {
                variables.push(("OTEL_TRACES_SAMPLER", "traceidratio"));
            }
            let error = read(&variables).expect_err(name);
            assert!(error.contains("OTEL_") && !error.contains("=secret"), "{name}: {error}");
        }
    }

    #[test]
    fn headers_are_decoded_and_the_resource_describes_the_process() {
        let settings = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x, b=c"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,team=a"),
            ("OTEL_SERVICE_NAME", "orders"),
            ("POD_NAME", "streamway-0"),
        ])
        .unwrap();
        let headers = &settings.target(Signal::Logs).unwrap().headers;
        assert_eq!(headers[0], ("authorization".to_owned(), "Bearer x".to_owned()));
        let of = |key: &'static str| settings.resource.get(&Key::new(key)).map(|value| value.to_string());
        assert_eq!(of("service.name").as_deref(), Some("orders"));
        assert_eq!(of("k8s.pod.name").as_deref(), Some("streamway-0"));
        assert!(of("service.instance.id").is_some() && of("service.version").is_some());
    }
}
