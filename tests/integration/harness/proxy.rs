//! A TCP proxy between clients and the server that delays, throttles, cuts, half-closes and duplicates
//! connections and lets them overtake each other. It does not parse the bytes that it forwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Current faults of all connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Delay of each chunk.
    pub delay: Duration,
    /// Limit in bytes a second from the server to the client; 0 means none.
    pub rate: u64,
    /// The same from the client to the server.
    pub rate_up: u64,
    /// Maximum of a random delay of new connections, so that a later one may overtake an earlier one.
    pub shuffle: Duration,
    /// Duplicates every new connection: the server gets the client's bytes on both, and its answers on the second
    /// are dropped.
    pub doubled: bool,
    /// Stops forwarding without closing anything, as in a network partition.
    pub frozen: bool,
    /// Number of cuts. [`Proxy::cut`] raises it, which ends the connections accepted before.
    cuts: u64,
    /// Closes new connections at once.
    pub down: bool,
    /// Number of half-closes. [`Proxy::half_close`] raises it, which ends the halves from client to server.
    half_closes: u64,
}

/// Proxy that ends with all its connections when dropped.
pub struct Proxy {
    pub at: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Bytes forwarded so far in both directions.
    forwarded: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("bound");
        let (weather, seen) = watch::channel(Weather::default());
        let forwarded = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&forwarded);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, seen.clone(), Arc::clone(&counted)));
            }
        });
        Self { at, weather, forwarded, accepting }
    }

    pub fn forwarded_bytes(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    pub fn throttle(&self, rate: u64) {
        self.weather.send_modify(|weather| weather.rate = rate);
    }

    /// Limits the rate from clients to the server.
    pub fn throttle_up(&self, rate: u64) {
        self.weather.send_modify(|weather| weather.rate_up = rate);
    }

    /// Makes new connections overtake each other, and duplicates them if `doubled`.
    pub fn shuffle_and_double(&self, shuffle: Duration, doubled: bool) {
        self.weather.send_modify(|weather| (weather.shuffle, weather.doubled) = (shuffle, doubled));
    }

    /// Stops forwarding without closing anything.
    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    /// Stops forwarding for some time, as if a process were stopped.
    pub fn freeze_for(&self, long: Duration) {
        self.freeze();
        let weather = self.weather.clone();
        tokio::spawn(async move {
            // This sleep is the simulated fault and not synchronisation.
            tokio::time::sleep(long).await;
            weather.send_modify(|weather| weather.frozen = false);
        });
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Closes every connection and refuses new ones, or accepts new ones again.
    pub fn set_down(&self, down: bool) {
        self.weather.send_modify(|weather| {
            weather.down = down;
            weather.cuts += u64::from(down);
        });
    }

    /// Closes the half from client to server of every connection.
    pub fn half_close(&self) {
        self.weather.send_modify(|weather| weather.half_closes += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn forward(
    client: TcpStream,
    server: SocketAddr,
    weather: watch::Receiver<Weather>,
    forwarded: Arc<AtomicU64>,
) {
    let begun = *weather.borrow();
    if begun.down {
        return;
    }
    if !begun.shuffle.is_zero() {
        // This sleep is the simulated fault and not synchronisation.
        tokio::time::sleep(begun.shuffle.mul_f64(fastrand::f64())).await;
    }
    let Ok(first) = TcpStream::connect(server).await else { return };
    // Nagle's algorithm would add delays of its own.
    let _ = (client.set_nodelay(true), first.set_nodelay(true));
    let second = if begun.doubled { TcpStream::connect(server).await.ok() } else { None };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = first.into_split();
    let (mut cuts, mut halves) = (weather.clone(), weather.clone());
    // The value of a watch holds its lock, which must not be held across an await.
    let half = async { halves.wait_for(|now| now.half_closes > begun.half_closes).await.is_ok() };
    let cut = async { cuts.wait_for(|now| now.cuts > begun.cuts).await.is_ok() };
    let (mut thrown_away, copy) = match second {
        Some(second) => {
            let (from, to) = second.into_split();
            (Some(from), Some(to))
        }
        None => (None, None),
    };
    let mut to_servers = Doubled { first: &mut to_server, copy };
    let up = async {
        let ended = tokio::select! {
            () = pump(&mut from_client, &mut to_servers, weather.clone(), Way::Up, &forwarded) => true,
            _ = half => false,
        };
        if !ended {
            to_servers.shutdown().await;
        }
    };
    let down = async {
        let mut to_client = Doubled { first: &mut to_client, copy: None };
        pump(&mut from_server, &mut to_client, weather.clone(), Way::Down, &forwarded).await;
    };
    let away = async {
        if let Some(from) = &mut thrown_away {
            let _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
        }
    };
    tokio::select! {
        _ = cut => {}
        _ = async { tokio::join!(up, down, away) } => {}
    }
}

/// Destinations of one half: the connection and its duplicate, whose failures are ignored.
struct Doubled<'a> {
    first: &'a mut OwnedWriteHalf,
    copy: Option<OwnedWriteHalf>,
}

impl Doubled<'_> {
    async fn write(&mut self, bytes: &[u8]) -> bool {
        if let Some(copy) = &mut self.copy
            && copy.write_all(bytes).await.is_err()
        {
            self.copy = None;
        }
        self.first.write_all(bytes).await.is_ok()
    }

    async fn shutdown(&mut self) {
        let _ = self.first.shutdown().await;
        if let Some(copy) = &mut self.copy {
            let _ = copy.shutdown().await;
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut Doubled<'_>,
    mut weather: watch::Receiver<Weather>,
    way: Way,
    forwarded: &AtomicU64,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Weather { delay, rate, rate_up, .. } = *weather.borrow();
        let rate = match way {
            Way::Up => rate_up,
            Way::Down => rate,
        };
        // Sends the amount of a tenth of a second at a time.
        let most = if rate == 0 { buffer.len() } else { (rate as usize / 10).clamp(1, buffer.len()) };
        let len = match from.read(&mut buffer[..most]).await {
            Ok(len) if len > 0 => len,
            _ => break,
        };
        // A dropped proxy leaves the connection frozen.
        let _ = weather.wait_for(|now| !now.frozen).await.map(|_| ());
        let pause = if rate == 0 { delay } else { delay + Duration::from_secs_f64(len as f64 / rate as f64) };
        if !pause.is_zero() {
            // This sleep is the simulated fault and not synchronisation.
            tokio::time::sleep(pause).await;
        }
        if !to.write(&buffer[..len]).await {
            break;
        }
        forwarded.fetch_add(len as u64, Ordering::Relaxed);
    }
    to.shutdown().await;
}
