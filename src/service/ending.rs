//! The search for the calls and connections to end. Other tasks run in between.

use std::net::IpAddr;
use std::sync::Arc;

use super::status::Error;
use crate::registry::{Call, Client, Registry};
use crate::topic::Cause;

/// Slots looked at before other tasks run.
const STRIDE: usize = 64;
/// Calls that no operator ends.
const ADMIN: &str = "streamway.v1.AdminService/";

/// Number of calls and connections that were ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    pub(super) calls: u64,
    pub(super) connections: u64,
}

/// Looks at every connection, a few at a time.
async fn each_client(registry: &Registry, mut each: impl FnMut(Arc<Client>)) {
    let mut at = Some(0);
    while let Some(from) = at {
        let (found, next) = registry.clients(from, STRIDE);
        found.into_iter().for_each(&mut each);
        at = next;
        tokio::task::yield_now().await;
    }
}

/// Ends the calls of a connection, and then the connection.
fn end_client(client: &Client, cause: Cause, ended: &mut Ended) {
    ended.calls += client.calls_open() as u64;
    ended.connections += 1;
    client.peer().shutdown.cancel(cause);
}

/// Finds the connection of a number of this replica.
async fn find(registry: &Registry, number: Option<u64>) -> Option<Arc<Client>> {
    let (number, mut found) = (number?, None);
    each_client(registry, |client| {
        if client.peer().number == number {
            found = Some(client);
        }
    })
    .await;
    found
}

/// Returns the numbers of an id of this replica.
fn numbers(registry: &Registry, id: &str) -> Option<Vec<u64>> {
    let rest = id.strip_prefix(registry.replica().1)?.strip_prefix('-')?;
    // One way to write each number, so that no other text is an id.
    let parse = |text: &str| text.parse().ok().filter(|number: &u64| number.to_string() == text);
    rest.split('-').map(parse).collect()
}

/// Ends a connection.
pub(super) async fn end_connection(registry: &Registry, id: &str, cause: Cause) -> Result<Ended, Error> {
    let number = numbers(registry, id).filter(|numbers| numbers.len() == 1).map(|numbers| numbers[0]);
    let client = find(registry, number).await.ok_or(Error::ClientNotFound("connection"))?;
    let mut ended = Ended::default();
    end_client(&client, cause, &mut ended);
    Ok(ended)
}

/// Ends a call.
pub(super) async fn end_call(registry: &Registry, id: &str, cause: Cause) -> Result<Ended, Error> {
    let missing = || Error::ClientNotFound("call");
    let numbers = numbers(registry, id).filter(|numbers| numbers.len() == 2).ok_or_else(missing)?;
    let client = find(registry, Some(numbers[0])).await.ok_or_else(missing)?;
    let mut ended = Ended::default();
    end_calls(&client, cause, &mut ended, |call| call.number() == numbers[1]).await;
    if ended.calls == 0 { Err(missing()) } else { Ok(ended) }
}

/// Ends all calls of a principal.
pub(super) async fn end_principal(registry: &Registry, name: &str, cause: Cause) -> Ended {
    let (mut all, mut ended) = (Vec::new(), Ended::default());
    each_client(registry, |client| all.push(Arc::downgrade(&client))).await;
    for client in all {
        if let Some(client) = client.upgrade() {
            end_calls(&client, cause, &mut ended, |call| call.principal() == name).await;
        }
    }
    ended
}

/// Ends all connections from an address.
pub(super) async fn end_address(registry: &Registry, address: IpAddr, cause: Cause) -> Ended {
    let mut ended = Ended::default();
    each_client(registry, |client| {
        if client.peer().address.is_some_and(|peer| peer.ip().to_canonical() == address) {
            end_client(&client, cause, &mut ended);
        }
    })
    .await;
    ended
}

/// Ends those calls of a connection that are wanted.
async fn end_calls(client: &Client, cause: Cause, ended: &mut Ended, wanted: impl Fn(&Call) -> bool) {
    let mut at = Some(0);
    while let Some(from) = at {
        let (found, next) = client.calls(from, STRIDE);
        for call in found.iter().filter(|call| wanted(call) && !call.method().starts_with(ADMIN)) {
            call.shutdown().cancel(cause);
            ended.calls += 1;
        }
        at = next;
        if next.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
