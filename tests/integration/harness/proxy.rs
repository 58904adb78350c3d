//! A TCP proxy between clients and the server that delays, throttles, cuts and half-closes.
//! Never: looks into what it forwards.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What every connection suffers now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Each piece is held back so long.
    pub delay: Duration,
    /// Bytes a second from the server to the client; 0 for no limit.
    pub rate: u64,
    /// Nothing is forwarded and nothing ends, as where the network is cut.
    pub frozen: bool,
    /// Connections accepted up to this moment end: raised by [`Proxy::cut`].
    cuts: u64,
    /// Whether new connections end at once.
    pub down: bool,
    /// The same for the half from client to server: raised by [`Proxy::half_close`].
    half_closes: u64,
}

/// A proxy; ends with all its connections when dropped.
pub struct Proxy {
    pub at: SocketAddr,
    weather: watch::Sender<Weather>,
    /// Bytes forwarded so far, both ways.
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

    /// From now on nothing comes through, and no end is told.
    pub fn freeze(&self) {
        self.weather.send_modify(|weather| weather.frozen = true);
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends every connection there is, and every new one, or lets new ones be again.
    pub fn set_down(&self, down: bool) {
        self.weather.send_modify(|weather| {
            weather.down = down;
            weather.cuts += u64::from(down);
        });
    }

    /// Ends the half from client to server of every connection there is.
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
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut cuts, mut halves) = (weather.clone(), weather.clone());
    // What a watch answers holds its lock, and must not be held across an await.
    let half = async { halves.wait_for(|now| now.half_closes > begun.half_closes).await.is_ok() };
    let cut = async { cuts.wait_for(|now| now.cuts > begun.cuts).await.is_ok() };
    let up = async {
        let ended = tokio::select! {
            () = pump(&mut from_client, &mut to_server, weather.clone(), false, &forwarded) => true,
            _ = half => false,
        };
        if !ended {
            let _ = to_server.shutdown().await;
        }
    };
    let down = pump(&mut from_server, &mut to_client, weather.clone(), true, &forwarded);
    tokio::select! {
        _ = cut => {}
        _ = async { tokio::join!(up, down) } => {}
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut weather: watch::Receiver<Weather>,
    limited: bool,
    forwarded: &AtomicU64,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Weather { delay, rate, .. } = *weather.borrow();
        let rate = if limited { rate } else { 0 };
        // A tenth of a second's worth at a time.
        let most = if rate == 0 { buffer.len() } else { (rate as usize / 10).clamp(1, buffer.len()) };
        let len = match from.read(&mut buffer[..most]).await {
            Ok(len) if len > 0 => len,
            _ => break,
        };
        // One that ends meanwhile stays frozen: its proxy is gone with it.
        let _ = weather.wait_for(|now| !now.frozen).await.map(|_| ());
        let pause = if rate == 0 { delay } else { delay + Duration::from_secs_f64(len as f64 / rate as f64) };
        if !pause.is_zero() {
            // This is the weather itself, not a wait for something.
            tokio::time::sleep(pause).await;
        }
        if to.write_all(&buffer[..len]).await.is_err() {
            break;
        }
        forwarded.fetch_add(len as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown().await;
}
