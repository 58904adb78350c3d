//! The binding of a port, and the addresses of its peers.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Most connections that wait to be accepted, as of `TcpListener::bind`.
pub(super) const BACKLOG: u32 = 1024;

/// Binds an address. `[::]` takes connections of IPv4 too, whatever the system's default is, and on a machine without
/// IPv6 it is `0.0.0.0`.
///
/// # Errors
/// The system refuses the address.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match listen(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_ipv6(&error) => {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted server need not wait until the connections of the former one have expired.
    socket.set_reuseaddr(true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        set_ipv6_v6only(&socket, false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Address of the peer. That of an IPv4 client is one of IPv4, even if the port is bound to `[::]`.
pub(super) fn peer(stream: &TcpStream) -> Option<SocketAddr> {
    let peer = stream.peer_addr().ok()?;
    Some(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
}

#[cfg(test)]
mod tests {
    use super::{bind, peer};
    use std::net::{Ipv4Addr, SocketAddr};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_client_of_ipv4_is_named_so_on_every_address() {
        let listener = bind("[::]:0".parse().unwrap()).unwrap();
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()));
        let client = TcpStream::connect(at).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert_eq!(peer(&stream), Some(client.local_addr().unwrap()));
    }
}
