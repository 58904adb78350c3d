//! `[::]`, every address of a machine, with IPv6 and without.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use streamway::proto::v1::stream_service_client::StreamServiceClient;
use tempfile::TempDir;

use crate::harness::make::{published, records};
use crate::harness::preload::Preload;
use crate::harness::{Server, connect};

#[tokio::test]
async fn every_address_is_that_of_ipv4_too_with_and_without_ipv6() {
    for without in [false, true] {
        let (preload, dir) = (Preload::new(), TempDir::new().unwrap());
        if without {
            preload.set_no_ipv6();
        }
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let server = Server::listening(any, preload.command(), dir.path(), &[]).await;
        assert_eq!(server.listen().is_ipv4(), without || !has_ipv6(), "{}", server.log());
        let mut hosts = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
        if server.listen().is_ipv6() {
            hosts.push(Ipv6Addr::LOCALHOST.into());
        }
        for host in hosts {
            let channel = connect(SocketAddr::new(host, server.listen().port())).await;
            published(&mut StreamServiceClient::new(channel), "addresses", records("r", 1)).await;
        }
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
