//! Publishers and workers of one group on a fleet, and the judgement of what they saw.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use streamway::proto::v1::group_service_client::GroupServiceClient;
use streamway::proto::v1::stream_service_client::StreamServiceClient;
use streamway::proto::v1::{DeliveryOrder, GetGroupRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use super::Recorder;
use super::judge::Summary;
use super::worker::Worker;
use crate::groups_crash::{GROUP, TOPIC, judged, publishing};
use crate::harness::make::history;
use crate::harness::{Reader, Server, within};

/// Longest time in which publishers and workers go on after a fault: another replica follows after 6 s, and clients try
/// again.
const SECONDS: u64 = 60;
/// Confirmations that each publisher is ahead of at most.
const AHEAD_MAX: u64 = 300;
const WORKERS: usize = 4;
/// Longest delay of a record that a worker fails to handle. One record of a total order delays all others.
const DELAY_MAX: Duration = Duration::from_secs(3);

/// Publishers and workers at work.
pub struct Load {
    pub recorder: Recorder,
    order: DeliveryOrder,
    publishers: JoinSet<()>,
    workers: JoinSet<()>,
    enough: watch::Sender<bool>,
    calm: watch::Sender<bool>,
    done: watch::Sender<bool>,
}

impl Load {
    /// Starts a publisher for each address, and workers each of whose calls goes to one of the addresses. The group exists.
    pub fn begin(order: DeliveryOrder, addresses: &[SocketAddr], rng: &mut Rng) -> Self {
        let recorder = Recorder::default();
        let ((enough, enough_seen), (calm, careful), (done, stop)) =
            (watch::channel(false), watch::channel(false), watch::channel(false));
        let (mut publishers, mut workers) = (JoinSet::new(), JoinSet::new());
        for address in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
            let client = StreamServiceClient::new(endpoint.connect_lazy());
            let (recorder, rng, stop) = (recorder.clone(), rng.fork(), enough_seen.clone());
            publishers.spawn(publishing(client, recorder, rng, (0, AHEAD_MAX), stop));
        }
        let delay_max = if order == DeliveryOrder::Total { Duration::ZERO } else { DELAY_MAX };
        for _ in 0..WORKERS {
            let worker = Worker {
                servers: addresses.to_vec(),
                topic: TOPIC.into(),
                group: GROUP.into(),
                rng: rng.fork(),
                recorder: recorder.clone(),
                delay_max,
                careful: careful.clone(),
                stop: stop.clone(),
            };
            workers.spawn(worker.work());
        }
        Self { recorder, order, publishers, workers, enough, calm, done }
    }

    /// Ends the publishers, waits until all is settled, and judges the history. The server is one that lives.
    pub async fn end(self, server: &Server) -> Summary {
        self.enough.send_replace(true);
        within(SECONDS, "the publishers", self.publishers.join_all()).await;
        self.calm.send_replace(true);
        within(90, "the end of the work", async {
            while lag(server).await != Some(0) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        })
        .await;
        self.done.send_replace(true);
        within(SECONDS, "the workers", self.workers.join_all()).await;
        let mut client = server.client().await;
        let reader = Reader::open(&mut client, history(TOPIC)).await.expect("subscribed");
        let topic = reader.sparse().rest().await.expect("read to the tail");
        judged(self.order, &self.recorder, &topic)
    }
}

/// Records that are not settled; none while no replica can tell.
async fn lag(server: &Server) -> Option<u64> {
    let mut client = GroupServiceClient::new(server.channel().await);
    let request = GetGroupRequest { topic: TOPIC.into(), name: GROUP.into() };
    let answer = client.get_group(request).await.ok()?.into_inner();
    answer.group?.status.map(|status| status.lag_records)
}
