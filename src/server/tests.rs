//! A real server on port 0: recovery, health, probes, errors of the transport, the tutorial, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use super::running::start_with;
use super::supervisor::Opener;
use super::{Error, Running};
use crate::config::{Config, HttpConfig, HttpListen};
use crate::proto::{example, v1};
use crate::record::testing::records_of;
use crate::record::{Epoch, Offset, TopicName};
use crate::storage::embedded::OpenError;
use crate::storage::embedded::simulated::SimulatedLog;
use crate::storage::{
    self, BoxFuture, Error as LogError, Health as LogHealth, Lineage, Log, Numbering, Retention, TopicInfo,
    TopicLog,
};
use crate::wire::stubs::example::my_service_client::MyServiceClient;
use crate::wire::stubs::v1::stream_service_client::StreamServiceClient;
use crate::wire::{ExchangeRequest, PublishRequest};

fn config(data: &std::path::Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        http: HttpConfig { listen: HttpListen::Off, ..HttpConfig::default() },
        data_dir: data.into(),
        drain_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

/// A server on a log on a simulated disk.
async fn in_memory() -> Running {
    let open: Opener = Box::new(|_| Ok(SimulatedLog::new().log()));
    let mut running = start_with(config("unused".as_ref()), open).await.unwrap();
    running.ready().await.unwrap();
    running
}

/// Fails where something never ends, however slow the machine is.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it never ends")
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn streams(running: &Running) -> StreamServiceClient<Channel> {
    StreamServiceClient::new(channel(running.grpc_addr()).await).max_decoding_message_size(usize::MAX)
}

fn publish(topic: &str, values: &[&str]) -> PublishRequest {
    PublishRequest { topic: topic.into(), records: records_of(values), ..PublishRequest::default() }
}

fn earliest(topic: &str) -> v1::SubscribeRequest {
    let start = v1::subscribe_request::Start::Boundary(v1::Boundary::Earliest.into());
    v1::SubscribeRequest { topic: topic.to_owned(), start: Some(start), ..v1::SubscribeRequest::default() }
}

fn reason(status: &tonic::Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

async fn check(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    client.check(request).await.map(|r| r.into_inner().status()).map_err(|status| status.code())
}

async fn http_status(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_recovers_for_long_calls_are_told_to_come_back() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let open: Opener = Box::new(move |_| {
        let _ = wait.recv();
        Ok(SimulatedLog::new().log())
    });
    let mut running = start_with(config("unused".as_ref()), open).await.unwrap();
    let status = streams(&running).await.publish(publish("orders", &["a"])).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "SERVER_STARTING"));
    assert!(status.get_error_details().retry_info().is_some());
    for address in [running.grpc_addr(), running.admin_addr()] {
        let mut health = HealthClient::new(channel(address).await);
        assert_eq!(check(&mut health, "liveness").await, Ok(ServingStatus::Serving));
        for service in ["", "readiness", "streamway.v1.StreamService", "example.MyService"] {
            assert_eq!(check(&mut health, service).await, Ok(ServingStatus::NotServing), "{service}");
        }
    }
    assert_eq!(http_status(running.admin_addr(), "/livez").await, "200");
    assert_eq!(http_status(running.admin_addr(), "/readyz").await, "503");
    go.send(()).unwrap();
    running.ready().await.unwrap();
    assert_eq!(http_status(running.admin_addr(), "/readyz").await, "200");
    for typo in ["/", "/readyz/", "/livez/", "/healthz", "/grpc.health.v1.Health/Check"] {
        assert_eq!(http_status(running.admin_addr(), typo).await, "404", "{typo}");
    }
    let mut health = HealthClient::new(channel(running.grpc_addr()).await);
    assert_eq!(check(&mut health, "").await, Ok(ServingStatus::Serving));
    assert_eq!(check(&mut health, "no.such.Service").await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_during_recovery_ends_although_recovery_does_not_and_serves_nothing() {
    let (recovered, recovery) = std::sync::mpsc::channel::<()>();
    let open: Opener = Box::new(move |_| {
        let _ = recovery.recv();
        Ok(SimulatedLog::new().log())
    });
    let config = Config { drain_timeout: Duration::from_secs(1), ..config("unused".as_ref()) };
    let running = start_with(config, open).await.unwrap();
    let readiness = running.readiness.clone();
    running.shutdown();
    in_time(running.wait()).await.unwrap();
    assert!(format!("{readiness:?}").contains("serving: false"), "{readiness:?}");
    drop(recovered);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_during_recovery_waits_for_it_within_the_drain_timeout() {
    let (recovered, recovery) = std::sync::mpsc::channel::<()>();
    let open: Opener = Box::new(move |_| {
        let _ = recovery.recv();
        Ok(SimulatedLog::new().log())
    });
    let config = Config { drain_timeout: Duration::from_secs(600), ..config("unused".as_ref()) };
    let running = start_with(config, open).await.unwrap();
    let readiness = running.readiness.clone();
    running.shutdown();
    recovered.send(()).unwrap();
    in_time(running.wait()).await.unwrap();
    assert!(format!("{readiness:?}").contains("serving: false"), "{readiness:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_delay_longer_than_the_budget_leaves_calls_time_to_end() {
    let open: Opener = Box::new(|_| Ok(SimulatedLog::new().log()));
    let config = Config { drain_delay: Duration::from_secs(3600), ..config("unused".as_ref()) };
    let mut running = start_with(config, open).await.unwrap();
    running.ready().await.unwrap();
    let mut client = streams(&running).await;
    client.publish(publish("orders", &["a"])).await.unwrap();
    let mut deliveries = client.subscribe(earliest("orders")).await.unwrap().into_inner();
    deliveries.next().await.unwrap().unwrap();
    running.shutdown();
    assert_eq!(in_time(deliveries.next()).await.unwrap().unwrap().notice, v1::Notice::Draining);
    assert_eq!(reason(&deliveries.next().await.unwrap().unwrap_err()), "SERVER_DRAINING");
    running.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_opened_ends_the_server() {
    let open: Opener = Box::new(|config| Err(OpenError::NotADirectory(config.data_dir.clone()).into()));
    let mut running = start_with(config("unused".as_ref()), open).await.unwrap();
    let Err(Error::Open(storage::OpenError::Embedded(error))) = running.ready().await else {
        panic!("opened")
    };
    assert!(matches!(error, OpenError::NotADirectory(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_changes_and_an_unknown_service_is_no_error() {
    let running = in_memory().await;
    let mut health = HealthClient::new(channel(running.admin_addr()).await);
    let mut watch = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.watch(request).await.unwrap().into_inner()
    };
    let mut unknown = watch("no.such.Service").await;
    assert_eq!(unknown.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut ready = watch("readiness").await;
    assert_eq!(ready.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    running.shutdown();
    assert_eq!(ready.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(ready.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    running.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_open_calls_where_to_resume() {
    let open: Opener = Box::new(|_| Ok(SimulatedLog::new().log()));
    let config = Config { drain_timeout: Duration::from_secs(3600), ..config("unused".as_ref()) };
    let mut running = start_with(config, open).await.unwrap();
    running.ready().await.unwrap();
    let mut client = streams(&running).await;
    client.publish(publish("orders", &["a"])).await.unwrap();
    let mut deliveries = client.subscribe(earliest("orders")).await.unwrap().into_inner();
    deliveries.next().await.unwrap().unwrap();
    let open = ExchangeRequest::Open(v1::Open { topic: "orders".to_owned(), ..v1::Open::default() }.into());
    let one = ExchangeRequest::Publish { number: 1, publish: publish("", &["b"]) };
    let requests = stream::iter([open, one]).chain(stream::pending());
    let mut responses = client.exchange(requests).await.unwrap().into_inner();
    assert_eq!(responses.next().await.unwrap().unwrap().receipts.len(), 1);
    assert_eq!(deliveries.next().await.unwrap().unwrap().next.offset.get(), 2);

    let mut tutorial = MyServiceClient::new(channel(running.grpc_addr()).await);
    let asked = stream::iter([example::MyRequest::default()]).chain(stream::pending());
    let mut answers = tutorial.bidirectional_streaming_rpc_method(asked).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();

    // A reflection stream that is left open.
    use tonic_reflection::pb::v1 as reflected;
    let list = reflected::server_reflection_request::MessageRequest::ListServices(String::new());
    let list = reflected::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    let mut reflection =
        reflected::server_reflection_client::ServerReflectionClient::new(channel(running.grpc_addr()).await);
    let asked = stream::iter([list]).chain(stream::pending());
    let mut reflected = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    reflected.next().await.unwrap().unwrap();

    running.shutdown();
    assert!(reflected.next().await.is_none());
    assert_eq!(reason(&answers.next().await.unwrap().unwrap_err()), "SERVER_DRAINING");
    let notice = deliveries.next().await.unwrap().unwrap();
    assert_eq!((notice.notice, notice.next.offset.get()), (v1::Notice::Draining, 2));
    assert_eq!(reason(&deliveries.next().await.unwrap().unwrap_err()), "SERVER_DRAINING");
    assert_eq!(responses.next().await.unwrap().unwrap().notice, v1::Notice::Draining);
    assert_eq!(reason(&responses.next().await.unwrap().unwrap_err()), "SERVER_DRAINING");
    // These clients keep their side of a call open, which is waited for a moment only (read_on).
    in_time(running.wait()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_cap_are_closed_and_freed_ones_count_again() {
    let open: Opener = Box::new(|_| Ok(SimulatedLog::new().log()));
    let config = Config { connections_max: 1, ..config("unused".as_ref()) };
    let mut running = start_with(config, open).await.unwrap();
    running.ready().await.unwrap();
    let first = streams(&running).await;
    let mut second = TcpStream::connect(running.grpc_addr()).await.unwrap();
    assert_eq!(second.read(&mut [0; 1]).await.unwrap_or(0), 0);
    drop(first);
    // The first connection ends in its own time.
    for _ in 0..100 {
        let endpoint = Channel::from_shared(format!("http://{}", running.grpc_addr())).unwrap();
        if let Ok(channel) = endpoint.connect().await
            && StreamServiceClient::new(channel).publish(publish("orders", &["a"])).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place was never free again");
}

/// A log in which looking up the topic `boom` panics.
struct Fragile(Arc<dyn Log>);

impl Log for Fragile {
    fn known(&self, _: &TopicName) -> Option<Arc<dyn TopicLog>> {
        None
    }

    fn get<'a>(&'a self, name: &'a TopicName) -> BoxFuture<'a, Result<Arc<dyn TopicLog>, LogError>> {
        assert_ne!(name.as_str(), "boom", "as the test wants it");
        self.0.get(name)
    }

    fn create(
        &self,
        name: TopicName,
        retention: Retention,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, LogError>> {
        self.0.create(name, retention)
    }

    fn restore(
        &self,
        name: TopicName,
        first: Offset,
        lineage: Lineage,
    ) -> BoxFuture<'_, Result<Arc<dyn TopicLog>, LogError>> {
        self.0.restore(name, first, lineage)
    }

    fn numbering(&self) -> Numbering {
        self.0.numbering()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TopicInfo>, LogError>> {
        self.0.list(prefix, after, limit)
    }

    fn update<'a>(
        &'a self,
        name: &'a TopicName,
        retention: Retention,
    ) -> BoxFuture<'a, Result<TopicInfo, LogError>> {
        self.0.update(name, retention)
    }

    fn delete<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        self.0.delete(name, epoch)
    }

    fn trim<'a>(
        &'a self,
        name: &'a TopicName,
        epoch: Option<Epoch>,
        before: Offset,
    ) -> BoxFuture<'a, Result<Offset, LogError>> {
        self.0.trim(name, epoch, before)
    }

    fn health(&self) -> tokio::sync::watch::Receiver<LogHealth> {
        self.0.health()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), LogError>> {
        self.0.close()
    }
}

/// A panic inside a call fails that call, and none beside it on the same connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_own_call_and_is_counted() {
    let open: Opener = Box::new(|_| Ok(Arc::new(Fragile(SimulatedLog::new().log())) as Arc<dyn Log>));
    let mut running = start_with(config("unused".as_ref()), open).await.unwrap();
    running.ready().await.unwrap();
    let mut client = streams(&running).await;
    client.publish(publish("fine", &["a"])).await.unwrap();
    let mut beside = client.subscribe(earliest("fine")).await.unwrap().into_inner();
    assert_eq!(beside.next().await.unwrap().unwrap().tail.get(), 1);
    crate::telemetry::logs::count_panics();
    let before = crate::telemetry::METRICS.panics.get();
    for _ in 0..3 {
        let status = client.publish(publish("boom", &["a"])).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "INTERNAL"));
        let info = status.get_error_details().error_info().unwrap().clone();
        assert_eq!(info.metadata["side_effects"], "unknown");
        assert!(!status.message().contains("as the test wants it"), "the log's, not the peer's");
    }
    let status = client.subscribe(earliest("boom")).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(crate::telemetry::METRICS.panics.get() >= before + 4);
    client.publish(publish("fine", &["b"])).await.unwrap();
    loop {
        // What was beside them goes on.
        if beside.next().await.unwrap().unwrap().next.offset.get() == 2 {
            break;
        }
    }
    running.shutdown();
    running.wait().await.unwrap();
}
