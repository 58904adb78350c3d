//! Administration of clients: who is connected to a server, and sending them away. A server answers only for itself.

use tonic::{Response, Status};
use tracing::debug;

use super::connector::{Connector, Transport};
use super::error::Error;
use crate::proto::v1;
use crate::proto::v1::admin_service_client::AdminServiceClient;

type Service = AdminServiceClient<Transport>;

/// Lists and ends the clients of one server. Needs the action `operate`.
#[derive(Clone, Debug)]
pub struct Operator {
    connector: Connector,
}

impl Operator {
    pub(super) const fn new(connector: Connector) -> Self {
        Self { connector }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl AsyncFnOnce(Service) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let target = self.connector.target(method, None);
        debug!(method, server = target.url, "calling");
        self.connector.answer(&target, call(self.connector.operation(&target))).await
    }

    /// Lists one page of connections. Repeat with `next_page_token` until that is empty.
    ///
    /// # Errors
    /// The call fails.
    pub async fn connections(
        &self,
        request: v1::ListConnectionsRequest,
    ) -> Result<v1::ListConnectionsResponse, Error> {
        self.call("streamway.v1.AdminService/ListConnections", async |mut service| {
            service.list_connections(request).await
        })
        .await
    }

    /// Lists one page of open calls. Repeat with `next_page_token` until that is empty.
    ///
    /// # Errors
    /// The call fails.
    pub async fn calls(&self, request: v1::ListCallsRequest) -> Result<v1::ListCallsResponse, Error> {
        self.call("streamway.v1.AdminService/ListCalls", async |mut service| {
            service.list_calls(request).await
        })
        .await
    }

    /// Ends calls, and may ban their caller.
    ///
    /// # Errors
    /// `CLIENT_NOT_FOUND`, an invalid target or duration, or the transport fails.
    pub async fn end(&self, request: v1::EndCallsRequest) -> Result<v1::EndCallsResponse, Error> {
        self.call("streamway.v1.AdminService/EndCalls", async |mut service| service.end_calls(request).await)
            .await
    }

    /// Lists one page of bans. Repeat with `next_page_token` until that is empty.
    ///
    /// # Errors
    /// The call fails.
    pub async fn bans(&self, request: v1::ListBansRequest) -> Result<v1::ListBansResponse, Error> {
        self.call("streamway.v1.AdminService/ListBans", async |mut service| service.list_bans(request).await)
            .await
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// The call fails.
    pub async fn lift_ban(&self, request: v1::LiftBanRequest) -> Result<v1::LiftBanResponse, Error> {
        self.call("streamway.v1.AdminService/LiftBan", async |mut service| service.lift_ban(request).await)
            .await
    }
}
