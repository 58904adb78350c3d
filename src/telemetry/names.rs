//! The names of all metrics, labels, spans and attributes that the server emits. A test compares
//! docs/telemetry.md with them; names of OpenTelemetry's semantic conventions go before our own.

use super::metric::Scale;

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Number that only rises.
    Counter,
    /// Number that rises and falls.
    Gauge,
    /// Distribution over buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name over OTLP.
    pub name: &'static str,
    /// Kind of the metric.
    pub kind: Kind,
    /// Unit in UCUM, which the semantic conventions ask for.
    pub unit: &'static str,
    /// Attributes of each point, all of them with a bounded number of values.
    pub labels: &'static [&'static str],
    /// Description for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $unit:literal [$($label:ident),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Metric = Metric {
            name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
        };)*
        /// Every metric, in the order they are shown.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

/// `package.Service/Method`.
pub const RPC_METHOD: &str = "rpc.method";
/// The gRPC status by name.
pub const RPC_STATUS: &str = "rpc.response.status_code";
/// The topic, or [`OTHER`] beyond the limit.
pub const TOPIC: &str = "topic";
/// Label of topics beyond the limit, and of unknown methods.
pub const OTHER: &str = "_other";
/// The method of an HTTP request; `_OTHER` for unknown ones.
pub const HTTP_METHOD: &str = "http.request.method";
/// The template of a route, such as `/v1/topics/{topic}`.
pub const HTTP_ROUTE: &str = "http.route";
/// The HTTP status.
pub const HTTP_STATUS: &str = "http.response.status_code";
/// `grpc`, `http` or `admin`.
pub const PORT: &str = "port";
/// Reason for refusing or dropping something.
pub const REASON: &str = "reason";
/// `memory` or `disk`.
pub const SOURCE: &str = "source";
/// State of the server.
pub const STATE: &str = "state";
/// `traces`, `metrics` or `logs`.
pub const SIGNAL: &str = "signal";
/// `user` or `system`.
pub const CPU_MODE: &str = "cpu.mode";
/// The program's version.
pub const VERSION: &str = "version";

metrics! {
    CALL_DURATION = Histogram "rpc.server.call.duration" "s" [RPC_METHOD, RPC_STATUS]
        "Duration of unary calls.";
    STREAM_DURATION = Histogram "streamway.stream.duration" "s" [RPC_METHOD, RPC_STATUS]
        "Duration of streaming calls, once they have ended.";
    CALLS_ACTIVE = Gauge "streamway.calls.active" "{call}" [RPC_METHOD]
        "Calls that are open now.";
    REQUEST_DURATION = Histogram "http.server.request.duration" "s" [HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS]
        "Duration of requests of the HTTP listener, to the last byte of the answer.";
    REQUESTS_ACTIVE = Gauge "http.server.active_requests" "{request}" []
        "Requests of the HTTP listener that are open now.";
    CONNECTIONS_ACTIVE = Gauge "streamway.connections.active" "{connection}" [PORT]
        "Connections that are open now.";
    CONNECTIONS_ACCEPTED = Counter "streamway.connections.accepted" "{connection}" [PORT]
        "Connections accepted.";
    CONNECTIONS_REFUSED = Counter "streamway.connections.refused" "{connection}" [PORT, REASON]
        "Connections not served: over the limit, no HTTP/2 preface in time, or refused by the system.";
    PUBLISH_RECORDS = Counter "streamway.publish.records" "{record}" [TOPIC]
        "Records stored durably.";
    PUBLISH_BATCHES = Counter "streamway.publish.batches" "{batch}" [TOPIC]
        "Batches stored durably.";
    PUBLISH_BYTES = Counter "streamway.publish.bytes" "By" [TOPIC]
        "Bytes of records stored durably.";
    PUBLISH_DUPLICATES = Counter "streamway.publish.duplicates" "{batch}" []
        "Batches whose request_id was known, so that nothing was stored again.";
    PUBLISH_FAILED = Counter "streamway.publish.failed" "{batch}" []
        "Batches that were refused by the storage or by admission, or failed.";
    PUBLISH_BATCH_RECORDS = Histogram "streamway.publish.batch.records" "{record}" []
        "Records in a batch received from a publisher.";
    PUBLISH_BATCH_BYTES = Histogram "streamway.publish.batch.size" "By" []
        "Bytes of records in a batch received from a publisher.";
    PUBLISH_ACK_DURATION = Histogram "streamway.publish.ack.duration" "s" []
        "Time from handing batches to the storage to their acknowledgement.";
    PUBLISH_INFLIGHT = Gauge "streamway.publish.inflight" "By" []
        "Bytes received from publishers that are not durable yet.";
    GROUP_BATCHES = Histogram "streamway.storage.group.batches" "{batch}" []
        "Batches stored with one write and one sync.";
    GROUP_BYTES = Histogram "streamway.storage.group.size" "By" []
        "Bytes stored with one write and one sync.";
    WRITE_DURATION = Histogram "streamway.storage.write.duration" "s" []
        "Time of writing a commit to the journal.";
    SYNC_DURATION = Histogram "streamway.storage.sync.duration" "s" []
        "Time of syncing the journal.";
    QUEUE_DEPTH = Gauge "streamway.storage.queue.depth" "{append}" []
        "Appends and changes that wait for the committer.";
    UNFLUSHED = Gauge "streamway.storage.unflushed" "By" []
        "Bytes that are durable in the journal but not in a segment yet.";
    CHECKPOINT_DURATION = Histogram "streamway.storage.checkpoint.duration" "s" []
        "Time of moving a journal into segments.";
    RECOVERY_DURATION = Gauge "streamway.storage.recovery.duration" "s" []
        "Time of opening the log at this start.";
    RETENTION_RECORDS = Counter "streamway.storage.retention.records" "{record}" []
        "Records that retention removed.";
    STORAGE_FAILED = Gauge "streamway.storage.failed" "1" []
        "1 once the storage has failed and accepts no more writes: somebody must intervene.";
    DISK_FREE = Gauge "streamway.storage.disk.free" "By" []
        "Bytes free on the file system of the data directory.";
    DISK_SIZE = Gauge "streamway.storage.disk.size" "By" []
        "Bytes of the file system of the data directory.";
    TOPICS = Gauge "streamway.topics" "{topic}" []
        "Number of topics.";
    TOPIC_BYTES = Gauge "streamway.topic.stored" "By" [TOPIC]
        "Bytes stored of a topic.";
    TOPIC_TAIL = Gauge "streamway.topic.tail" "{record}" [TOPIC]
        "Offset that a topic's next record will get.";
    TOPIC_EARLIEST = Gauge "streamway.topic.earliest" "{record}" [TOPIC]
        "Offset of a topic's oldest record.";
    READS = Counter "streamway.read.chunks" "{read}" [SOURCE]
        "Reads for subscribers, from memory (a cache hit) or from disk (catching up).";
    SUBSCRIPTIONS = Gauge "streamway.subscriptions.active" "{subscription}" []
        "Subscriptions that are open now.";
    SLOW_READERS = Gauge "streamway.subscriptions.slow" "{subscription}" []
        "Subscriptions that are more than 10 s behind.";
    FALLBACKS = Counter "streamway.subscription.fallbacks" "{fallback}" []
        "Number of times that a live subscriber fell so far behind that it reads from disk again.";
    HEARTBEATS = Counter "streamway.subscription.heartbeats" "{message}" []
        "Messages without records, which show that the server is there.";
    LAG_RECORDS = Histogram "streamway.subscription.lag" "{record}" []
        "Offsets that subscriptions are behind the tail, sampled every 5 s.";
    LAG_SECONDS = Histogram "streamway.subscription.lag.duration" "s" []
        "Time for which subscriptions have been behind the tail, sampled every 5 s.";
    LAG_RECORDS_WORST = Gauge "streamway.subscription.lag.worst" "{record}" [TOPIC]
        "Offsets that the subscription that is farthest behind is behind.";
    LAG_SECONDS_WORST = Gauge "streamway.subscription.lag.worst.duration" "s" [TOPIC]
        "Time for which the subscription that is longest behind has been behind.";
    DELIVERY_RECORDS = Counter "streamway.delivery.records" "{record}" [TOPIC]
        "Records delivered to subscribers.";
    DELIVERY_BYTES = Counter "streamway.delivery.bytes" "By" [TOPIC]
        "Bytes of batches delivered to subscribers.";
    DELIVERY_MESSAGES = Counter "streamway.delivery.messages" "{message}" [TOPIC]
        "Messages with records delivered to subscribers.";
    GROUP_LEASED = Counter "streamway.group.leased" "{record}" []
        "Records leased to members of groups, again if they are delivered again.";
    GROUP_REDELIVERED = Counter "streamway.group.redelivered" "{record}" []
        "Records leased again after a delivery that failed.";
    GROUP_SETTLED = Counter "streamway.group.settled" "{record}" []
        "Records whose settlement took effect.";
    GROUP_LOST = Counter "streamway.group.lost" "{record}" []
        "Records that a member settled when their lease was lost.";
    GROUP_REVOKED = Counter "streamway.group.revoked" "{record}" []
        "Records that members lost, most of them at a deadline.";
    GROUP_DEAD_LETTERED = Counter "streamway.group.dead_lettered" "{record}" []
        "Records of which a copy went to a dead letter topic.";
    GROUP_MEMBERS = Gauge "streamway.group.members.active" "{member}" []
        "Members whose call is open.";
    GROUPS = Gauge "streamway.groups" "{group}" []
        "Number of groups.";
    GROUP_LAG_WORST = Gauge "streamway.group.lag.worst" "{record}" [TOPIC]
        "Records that the group of the topic that is farthest behind has not settled.";
    GROUP_LAG_WORST_SECONDS = Gauge "streamway.group.lag.worst.duration" "s" [TOPIC]
        "Age of the oldest record of a topic that one of its groups has not settled.";
    GROUP_BLOCKED_KEYS_WORST = Gauge "streamway.group.blocked_keys.worst" "{key}" [TOPIC]
        "Keys that wait behind a delayed or held record, in the group of the topic that has most of them.";
    GROUP_STALLED = Gauge "streamway.group.stalled" "{group}" [TOPIC]
        "Number of groups of the topic that read no further, because lookahead_max records are leased or blocked.";
    SERVER_STATE = Gauge "streamway.state" "1" [STATE]
        "1 for the current state of the server: starting, serving, draining, lame_duck, aborting or closing.";
    READY = Gauge "streamway.ready" "1" []
        "1 while health says SERVING.";
    DRAIN_ELAPSED = Gauge "streamway.drain.elapsed" "s" []
        "Time since the shutdown began; 0 before it.";
    TLS_EXPIRY = Gauge "streamway.tls.certificate.expiry" "s" []
        "Expiry of the served certificate in Unix seconds; absent without TLS.";
    AUTH_DENIALS = Counter "streamway.auth.denials" "{call}" [REASON]
        "Calls refused for lack of an identity or of a permission.";
    AUDIT_RECORDS = Counter "streamway.audit.records" "{record}" []
        "Records written to the audit log.";
    AUDIT_DROPPED = Counter "streamway.audit.dropped" "{record}" []
        "Records of the audit log that were dropped, as standard error was too slow.";
    PANICS = Counter "streamway.panics" "{panic}" []
        "Caught panics, each of which is a bug in the server.";
    TASKS = Gauge "streamway.tasks" "{task}" []
        "Tasks of the asynchronous runtime that have not ended.";
    EXPORTED = Counter "streamway.telemetry.exported" "{item}" [SIGNAL]
        "Spans, log lines and metric points that a collector accepted.";
    DROPPED = Counter "streamway.telemetry.dropped" "{item}" [SIGNAL, REASON]
        "Spans, log lines and metric points that were dropped: queue_full, refused, or rate_limited.";
    BUILD_INFO = Gauge "streamway.build.info" "1" [VERSION]
        "1, with the version as a label.";
    PROCESS_MEMORY = Gauge "process.memory.usage" "By" []
        "Resident memory of the process.";
    PROCESS_CPU = Counter "process.cpu.time" "s" [CPU_MODE]
        "Processor time used.";
    PROCESS_FILES = Gauge "process.open_file_descriptor.count" "{file_descriptor}" []
        "Files and sockets that are open.";
    PROCESS_FILES_MAX = Gauge "process.open_file_descriptor.limit" "{file_descriptor}" []
        "Limit of open files and sockets.";
    PROCESS_THREADS = Gauge "process.thread.count" "{thread}" []
        "Number of threads.";
    PROCESS_UPTIME = Gauge "process.uptime" "s" []
        "Time since the process started.";
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Buckets of calls, acknowledgements, writes and syncs: 50 µs to 10 s.
pub static DURATIONS: Scale = Scale {
    bounds: &[
        50 * US,
        100 * US,
        250 * US,
        500 * US,
        MS,
        2_500 * US,
        5 * MS,
        10 * MS,
        25 * MS,
        50 * MS,
        100 * MS,
        250 * MS,
        500 * MS,
        S,
        2_500 * MS,
        5 * S,
        10 * S,
    ],
    unit: 1e-9,
};
/// Buckets of streams: 100 ms to a week.
pub static LONG_DURATIONS: Scale = Scale {
    bounds: &[
        100 * MS,
        S,
        10 * S,
        60 * S,
        300 * S,
        900 * S,
        3_600 * S,
        14_400 * S,
        43_200 * S,
        86_400 * S,
        604_800 * S,
    ],
    unit: 1e-9,
};
/// Buckets of numbers of records or batches.
pub static COUNTS: Scale =
    Scale { bounds: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000], unit: 1.0 };
/// Buckets of bytes: 64 B to 16 MiB.
pub static SIZES: Scale = Scale {
    bounds: &[64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20],
    unit: 1.0,
};
/// Buckets of offsets behind the tail.
pub static LAGS: Scale =
    Scale { bounds: &[0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000], unit: 1.0 };
/// Buckets of time behind the tail, the first of which means that it is not behind.
pub static LAG_DURATIONS: Scale = Scale {
    bounds: &[0, S, 5 * S, 10 * S, 30 * S, 60 * S, 300 * S, 900 * S, 3_600 * S, 21_600 * S, 86_400 * S],
    unit: 1e-9,
};

/// Methods of the gRPC port, each with a flag for streaming. Health and reflection are left out, as probes would
/// hide the calls of people.
pub const METHODS: &[(&str, bool)] = &[
    ("streamway.v1.StreamService/Publish", false),
    ("streamway.v1.StreamService/Ingest", true),
    ("streamway.v1.StreamService/Subscribe", true),
    ("streamway.v1.StreamService/Exchange", true),
    ("streamway.v1.TopicService/CreateTopic", false),
    ("streamway.v1.TopicService/GetTopic", false),
    ("streamway.v1.TopicService/ListTopics", false),
    ("streamway.v1.TopicService/UpdateTopic", false),
    ("streamway.v1.TopicService/DeleteTopic", false),
    ("streamway.v1.TopicService/TrimTopic", false),
    ("streamway.v1.TopicService/RestoreTopic", false),
    ("streamway.v1.TopicService/ListRequestIds", false),
    ("streamway.v1.GroupService/CreateGroup", false),
    ("streamway.v1.GroupService/GetGroup", false),
    ("streamway.v1.GroupService/ListGroups", false),
    ("streamway.v1.GroupService/UpdateGroup", false),
    ("streamway.v1.GroupService/DeleteGroup", false),
    ("streamway.v1.GroupService/SeekGroup", false),
    ("streamway.v1.GroupService/RedriveDeadLetters", false),
    ("streamway.v1.GroupService/ResetGroups", false),
    ("streamway.v1.GroupService/SaveGroups", true),
    ("streamway.v1.GroupService/RestoreGroup", true),
    ("streamway.v1.GroupService/Consume", true),
    ("streamway.v1.GroupService/Lease", false),
    ("streamway.v1.GroupService/Settle", false),
    ("streamway.v1.AdminService/ListConnections", false),
    ("streamway.v1.AdminService/ListCalls", false),
    ("streamway.v1.AdminService/EndCalls", false),
    ("streamway.v1.AdminService/ListBans", false),
    ("streamway.v1.AdminService/LiftBan", false),
    ("example.ExampleService/ProcessRequest", false),
    ("example.MyService/ServerStreamingRPCMethod", true),
    ("example.MyService/ClientStreamingRPCMethod", true),
    ("example.MyService/BidirectionalStreamingRPCMethod", true),
    (OTHER, false),
];

/// Methods that metrics leave out.
pub const UNOBSERVED: &[&str] = &[
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// A span of the server.
#[derive(Clone, Copy, Debug)]
pub struct SpanName {
    /// Name, or beginning of the name.
    pub name: &'static str,
    /// Description for people of when it is created.
    pub help: &'static str,
}

/// A call; its name is `package.Service/Method`.
pub const SPAN_CALL: SpanName = SpanName {
    name: "{package.Service/Method}",
    help: "One call, SERVER. Parent: the caller's traceparent.",
};
/// A request of the HTTP listener that is no call; its name is the method and the template of the route.
pub const SPAN_REQUEST: SpanName = SpanName {
    name: "{method} {route}",
    help: "One request of the HTTP listener that is no call of gRPC-Web, SERVER, to the last byte of its answer. Parent: the \
           caller's traceparent.",
};
/// The beginning of a streaming call.
pub const SPAN_OPENED: SpanName = SpanName {
    name: "stream opened",
    help: "A span of no length at the start of a streaming call, so that a long one is found while it is open: its own \
           span comes at its end. Parent: the call.",
};
/// A call that the client library makes; its name is `package.Service/Method`.
pub const SPAN_OUTGOING: SpanName = SpanName {
    name: "{package.Service/Method}",
    help: "The same call, CLIENT, by the client library and the command line; a new one after each reconnection.",
};
/// A command of the command line.
pub const SPAN_COMMAND: SpanName = SpanName {
    name: "streamway",
    help: "`streamway {command}`, INTERNAL: one command of the command line. Parent: `TRACEPARENT`.",
};
/// A batch received from a publisher.
pub const SPAN_PUBLISH: SpanName = SpanName {
    name: "publish",
    help: "`publish {topic}`, PRODUCER: one batch, from its arrival to its acknowledgement. Parent: the call, or \
           the batch's own traceparent, which then links to the call.",
};
/// Waiting for the committer.
pub const SPAN_QUEUE: SpanName = SpanName {
    name: "storage queue",
    help: "Waiting for admission and for the storage. Parent: the publish.",
};
/// Building and writing a commit.
pub const SPAN_WRITE: SpanName = SpanName {
    name: "storage write",
    help: "Building and writing a commit (embedded). Parent: the publish.",
};
/// Syncing a commit.
pub const SPAN_SYNC: SpanName =
    SpanName { name: "storage sync", help: "Syncing a commit to disk (embedded). Parent: the publish." };
/// Storing a commit elsewhere.
pub const SPAN_APPEND: SpanName = SpanName {
    name: "storage append",
    help: "Sending a commit to NATS until its quorum has stored it (JetStream). Parent: the publish.",
};
/// A batch delivered to a subscriber.
pub const SPAN_DELIVER: SpanName = SpanName {
    name: "deliver",
    help: "`deliver {topic}`, CONSUMER: one sampled batch on its way to one subscriber, from when it was stored. \
           Parent and link: the producer's traceparent, so one trace leads from producer to consumer; a second \
           link: the subscriber's call.",
};
/// A batch leased to a member of a group.
pub const SPAN_LEASE: SpanName = SpanName {
    name: "lease",
    help: "`lease {topic}`, CONSUMER: one sampled batch, or a part of it, on its way to one member of a group, from when \
           it was stored; once for each delivery. Parent and links: as of `deliver`.",
};
/// Every span.
pub const SPANS: &[SpanName] = &[
    SPAN_COMMAND,
    SPAN_OUTGOING,
    SPAN_CALL,
    SPAN_REQUEST,
    SPAN_OPENED,
    SPAN_PUBLISH,
    SPAN_QUEUE,
    SPAN_WRITE,
    SPAN_SYNC,
    SPAN_APPEND,
    SPAN_DELIVER,
    SPAN_LEASE,
];

/// Attributes of spans, and what each holds.
pub const ATTRIBUTES: &[(&str, &str)] = &[
    (RPC_SYSTEM, "`grpc`"),
    (RPC_METHOD, "`package.Service/Method`"),
    (RPC_STATUS, "the gRPC status by name"),
    (HTTP_METHOD, "the method of a request; `_OTHER` for unknown ones"),
    (HTTP_ROUTE, "the template of its route, such as `/v1/topics/{topic}`"),
    (HTTP_STATUS, "its HTTP status"),
    (URL_SCHEME, "`http` or `https`"),
    (URL_PATH, "its path"),
    (
        ERROR_TYPE,
        "the status's name, where the call failed; the HTTP status, where the server failed a request; what the storage said, \
         where a publish did",
    ),
    (ERROR_REASON, "`ErrorInfo.reason`, where the call failed"),
    (PEER, "the client's address"),
    (SERVER_ADDRESS, "the server's host, on a client's span"),
    (SERVER_PORT, "its port"),
    (MESSAGING_SYSTEM, "`streamway`"),
    (MESSAGING_OPERATION, "`publish`, `deliver` or `lease`"),
    (MESSAGING_OPERATION_TYPE, "`send` or `receive`"),
    (MESSAGING_DESTINATION, "the topic"),
    (MESSAGING_COUNT, "records in the batch"),
    (MESSAGING_SIZE, "bytes of the batch's records"),
    (OFFSET, "the offset of the batch's first record"),
    (MESSAGING_GROUP, "the group, on a `lease`"),
    (DELIVERY, "the number of the delivery, 1 for the first, on a `lease`; the highest one of its records"),
];
/// `http` or `https`.
pub const URL_SCHEME: &str = "url.scheme";
/// The path of a request.
pub const URL_PATH: &str = "url.path";
/// `grpc`.
pub const RPC_SYSTEM: &str = "rpc.system.name";
/// The class of an error.
pub const ERROR_TYPE: &str = "error.type";
/// `ErrorInfo.reason`.
pub const ERROR_REASON: &str = "streamway.error.reason";
/// The client's address.
pub const PEER: &str = "network.peer.address";
/// The server's host.
pub const SERVER_ADDRESS: &str = "server.address";
/// The server's port.
pub const SERVER_PORT: &str = "server.port";
/// `streamway`.
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// Name of the operation.
pub const MESSAGING_OPERATION: &str = "messaging.operation.name";
/// Type of the operation.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// The topic.
pub const MESSAGING_DESTINATION: &str = "messaging.destination.name";
/// Records in a batch.
pub const MESSAGING_COUNT: &str = "messaging.batch.message_count";
/// Bytes of a batch's records.
pub const MESSAGING_SIZE: &str = "messaging.message.body.size";
/// The offset of the first record.
pub const OFFSET: &str = "streamway.offset";
/// Name of the attribute with the group.
pub const MESSAGING_GROUP: &str = "messaging.consumer.group.name";
/// Name of the attribute with the number of the delivery.
pub const DELIVERY: &str = "streamway.delivery";
