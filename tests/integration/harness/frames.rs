//! HTTP/2 frames by hand, for peers that no client library can imitate, and a well-behaved client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BufMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::make::{published, record};
use super::raw::{frame, literal_headers};
use super::{Server, within};

/// Frame types.
const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
/// Flags.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Frames that are sent in one write.
#[derive(Clone, Debug, Default)]
pub struct Frames(pub Vec<u8>);

impl Frames {
    pub fn add(mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        frame(&mut self.0, kind, flags, stream, payload);
        self
    }

    /// Adds the headers that start a call.
    pub fn call(self, stream: u32, method: &str) -> Self {
        self.add(HEADERS, END_HEADERS, stream, &call_headers(method))
    }

    /// Adds a DATA frame of a call.
    pub fn data(self, stream: u32, payload: &[u8]) -> Self {
        self.add(DATA, 0, stream, payload)
    }
}

/// Header block of a call of this method.
pub fn call_headers(method: &str) -> Vec<u8> {
    literal_headers(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ])
}

/// gRPC's prefix of a message of this length.
pub fn prefix(len: u32) -> Vec<u8> {
    let mut prefix = vec![0];
    prefix.put_u32(len);
    prefix
}

/// Connection that sends the frames that it is given.
pub struct Peer {
    pub tcp: TcpStream,
}

impl Peer {
    /// Connects, and sends the preface and empty settings.
    pub async fn connect(at: SocketAddr) -> Self {
        let mut tcp = TcpStream::connect(at).await.expect("connected");
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        let mut peer = Self { tcp };
        // The server's windows apply once its settings are acknowledged.
        while peer.next().await.expect("the server's settings").0 != SETTINGS {}
        peer.send(Frames::default().add(SETTINGS, 1, 0, &[])).await;
        peer
    }

    /// Sends frames. Returns false if the connection is closed.
    pub async fn send(&mut self, frames: Frames) -> bool {
        within(10, "sending", self.tcp.write_all(&frames.0)).await.is_ok()
    }

    /// Next frame as type, flags, stream and payload, or none at the end.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        within(20, "a frame or the end", self.tcp.read_exact(&mut head)).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; len];
        self.tcp.read_exact(&mut payload).await.ok()?;
        if head[3] == GOAWAY {
            println!(
                "GOAWAY {:?} {}",
                payload.get(4..8),
                String::from_utf8_lossy(payload.get(8..).unwrap_or_default())
            );
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads until the server closes the connection. Returns the error code of GOAWAY, if one came.
    pub async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next().await {
            if kind == GOAWAY {
                code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("four")));
            }
        }
        code
    }
}

/// Resource use of a server, for the figures of abuse tests.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    resident: u64,
    cpu: Duration,
    at: Instant,
}

impl Usage {
    pub fn of(server: &Server) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
        let after = stat.rsplit_once(')').expect("a name in parentheses").1;
        let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        Self { resident: server.resident_bytes(), cpu: Duration::from_millis(ticks * 10), at: Instant::now() }
    }

    /// Growth in MiB since `before`.
    pub fn grown_mib(self, before: Self) -> u64 {
        self.resident.saturating_sub(before.resident) >> 20
    }

    /// Use of one core since `before`, in percent.
    pub fn cpu_percent(self, before: Self) -> f64 {
        100.0 * (self.cpu - before.cpu).as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

/// Well-behaved client during the abuse. It publishes record after record, and each must be accepted.
pub struct Honest {
    task: JoinHandle<(u64, Duration)>,
    stop: watch::Sender<bool>,
}

impl Honest {
    pub async fn start(server: &Server) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut client = server.client().await;
        published(&mut client, "honest", vec![record("first")]).await;
        let task = tokio::spawn(async move {
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while !*stopped.borrow() {
                let begun = Instant::now();
                within(60, "an honest publish", published(&mut client, "honest", vec![record("x")])).await;
                slowest = slowest.max(begun.elapsed());
                count += 1;
            }
            (count, slowest)
        });
        Self { task, stop }
    }

    /// Ends it if no other client could connect. It must have continued to work.
    pub async fn end_at_limit(self) {
        self.stop.send_replace(true);
        let (count, slowest) = within(60, "the honest client", self.task).await.expect("it went on");
        println!("honest publishes {count}, slowest {slowest:?}");
        assert!(count > 0);
    }

    /// Ends it, prints the figures, and checks what the server guarantees.
    pub async fn end(self, what: &str, attempts: u64, alive: usize, server: &Server, before: Usage) {
        self.stop.send_replace(true);
        let (count, slowest) = within(60, "the honest client", self.task).await.expect("it went on");
        let after = Usage::of(server);
        println!(
            "{what}: attempts {attempts}, connections alive {alive}, memory +{} MiB, CPU {:.0} %, \
             honest publishes {count}, slowest {slowest:?}",
            after.grown_mib(before),
            after.cpu_percent(before)
        );
        assert!(count > 0, "the honest client worked on");
        // A new client is served.
        published(&mut server.client().await, "honest", vec![record("last")]).await;
    }
}
