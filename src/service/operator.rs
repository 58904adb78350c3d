//! AdminService: who is connected to this replica, and sending them away.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::{Request, Response, Status};

use super::changes;
use super::clients;
use super::ending;
use super::request;
use super::status::{Context, Error, status};
use crate::auth::{ANONYMOUS, Auth, Caller};
use crate::proto::v1;
use crate::proto::v1::{end_calls_request, lift_ban_request};
use crate::registry::{Banned, Registry};
use crate::telemetry::audit::{self, Change, Outcome};
use crate::topic::Cause;
use crate::wire::stubs::v1::admin_service_server::AdminService;

/// Shortest and longest ban.
const BAN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
/// Maximum bytes of a principal's name.
const PRINCIPAL_MAX: usize = 512;

/// Implements the administration of clients.
#[derive(Clone, Debug)]
pub struct Operator {
    registry: Registry,
    auth: Auth,
}

impl Operator {
    /// Administers the clients of this registry.
    #[must_use]
    pub const fn new(registry: Registry, auth: Auth) -> Self {
        Self { registry, auth }
    }

    /// Returns the caller, which may operate the server.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let found = self.auth.caller(request.extensions().get());
        let permitted = found.and_then(|caller| caller.permit_operate().map(|()| caller));
        permitted.map_err(|error| status(&error.into(), &Context::default()))
    }

    fn replica(&self) -> v1::Replica {
        let (host, instance) = self.registry.replica();
        v1::Replica { host: host.to_owned(), instance: instance.to_owned() }
    }

    async fn end(&self, asked: &Target, ban: Option<Duration>) -> Result<v1::EndCallsResponse, Error> {
        let until = ban.map(|ban| SystemTime::now() + ban);
        if let (Some(end), Some(banned)) = (until, asked.banned()) {
            // In force first, so that no call slips in between.
            self.registry.bans().add(banned.clone(), end).map_err(|_| Error::TooManyBans)?;
        }
        let unix = until.map_or(0, |end| end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let cause = Cause::Disconnected { banned_until: unix };
        let ended = match asked {
            Target::Connection(id) => ending::end_connection(&self.registry, id, cause).await?,
            Target::Call(id) => ending::end_call(&self.registry, id, cause).await?,
            Target::Many(Banned::Principal(name)) => ending::end_principal(&self.registry, name, cause).await,
            Target::Many(Banned::Address(address)) => {
                ending::end_address(&self.registry, *address, cause).await
            }
        };
        let ban = until.zip(asked.banned()).map(|(end, banned)| clients::ban(banned, end));
        Ok(v1::EndCallsResponse {
            replica: Some(self.replica()),
            ended_calls: ended.calls,
            closed_connections: ended.connections,
            ban,
        })
    }

    /// Checks a request to end calls.
    fn checked(&self, asked: v1::EndCallsRequest) -> Result<(Target, Option<Duration>), Error> {
        use end_calls_request::Target as Asked;
        let target = match asked.target {
            None => return Err(Error::field("target", "is required")),
            Some(Asked::ConnectionId(id)) => Target::Connection(id),
            Some(Asked::CallId(id)) => Target::Call(id),
            Some(Asked::Principal(name)) => Target::Many(principal(&name)?),
            Some(Asked::Address(text)) => Target::Many(address(&text)?),
        };
        let Some(ban) = asked.ban_duration else { return Ok((target, None)) };
        let ban = request::duration("ban_duration", &ban)?;
        if !BAN.contains(&ban) {
            return Err(Error::field("ban_duration", "must be 1 s to 24 h"));
        }
        match &target {
            Target::Connection(_) | Target::Call(_) => {
                Err(Error::field("ban_duration", "only a principal or an address can be banned"))
            }
            Target::Many(Banned::Principal(name)) if **name == *ANONYMOUS && self.auth.is_open() => {
                Err(Error::field("principal", "everybody is anonymous on this server: ban an address"))
            }
            Target::Many(_) => Ok((target, Some(ban))),
        }
    }
}

/// Calls to end.
enum Target {
    Connection(String),
    Call(String),
    Many(Banned),
}

impl Target {
    const fn banned(&self) -> Option<&Banned> {
        match self {
            Self::Many(banned) => Some(banned),
            Self::Connection(_) | Self::Call(_) => None,
        }
    }

    /// Returns the name of the target in the audit log.
    fn name(&self) -> String {
        match self {
            Self::Connection(id) => format!("connection:{id}"),
            Self::Call(id) => format!("call:{id}"),
            Self::Many(banned) => resource(banned),
        }
    }
}

fn resource(banned: &Banned) -> String {
    match banned {
        Banned::Principal(name) => format!("principal:{name}"),
        Banned::Address(address) => format!("address:{address}"),
    }
}

fn principal(name: &str) -> Result<Banned, Error> {
    match name.len() {
        0 => Err(Error::field("principal", "is empty")),
        len if len > PRINCIPAL_MAX => Err(Error::field("principal", "has more than 512 bytes")),
        _ => Ok(Banned::Principal(name.into())),
    }
}

fn address(text: &str) -> Result<Banned, Error> {
    let address: Result<IpAddr, _> = text.parse();
    let address = address.map_err(|_| Error::field("address", "is not an IP address"))?;
    Ok(Banned::Address(address.to_canonical()))
}

/// Records what an operator did.
fn record<T>(
    call: (&Caller, Option<&crate::registry::Call>),
    (action, resource): (&'static str, String),
    done: &Result<T, Error>,
    after: impl FnOnce(&T) -> serde_json::Value,
) {
    let (outcome, after, error) = match done {
        Ok(done) => (Outcome::Done, Some(after(done).to_string()), None),
        Err(error) => (Outcome::Failed, None, Some(error.to_string())),
    };
    let actor = changes::actor(call.0, call.1);
    audit::record(Change { actor, action, resource, before: None, after, outcome, error });
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status(&error, &Context::default()))
}

#[tonic::async_trait]
impl AdminService for Operator {
    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<v1::ListConnectionsResponse>, Status> {
        self.caller(&request)?;
        let page = clients::connections(&self.registry, request.get_ref()).await;
        answer(page.map(|(connections, next_page_token)| v1::ListConnectionsResponse {
            replica: Some(self.replica()),
            connections,
            next_page_token,
        }))
    }

    async fn list_calls(
        &self,
        request: Request<v1::ListCallsRequest>,
    ) -> Result<Response<v1::ListCallsResponse>, Status> {
        self.caller(&request)?;
        let page = clients::calls(&self.registry, request.get_ref()).await;
        answer(page.map(|(calls, next_page_token)| v1::ListCallsResponse {
            replica: Some(self.replica()),
            calls,
            next_page_token,
        }))
    }

    async fn end_calls(
        &self,
        request: Request<v1::EndCallsRequest>,
    ) -> Result<Response<v1::EndCallsResponse>, Status> {
        let caller = self.caller(&request)?;
        let call = changes::registered(request.extensions()).cloned();
        let checked = self.checked(request.into_inner());
        let seconds = checked.as_ref().ok().and_then(|(_, ban)| *ban).map(|ban| ban.as_secs_f64());
        let (name, done) = match checked {
            Ok((target, ban)) => (target.name(), self.end(&target, ban).await),
            Err(error) => (String::new(), Err(error)),
        };
        record((&caller, call.as_deref()), ("calls.end", name), &done, |done| {
            serde_json::json!({
                "ended_calls": done.ended_calls,
                "closed_connections": done.closed_connections,
                "ban_seconds": seconds,
            })
        });
        answer(done)
    }

    async fn list_bans(
        &self,
        request: Request<v1::ListBansRequest>,
    ) -> Result<Response<v1::ListBansResponse>, Status> {
        self.caller(&request)?;
        answer(clients::bans(&self.registry, request.get_ref()).map(|(bans, next_page_token)| {
            v1::ListBansResponse { replica: Some(self.replica()), bans, next_page_token }
        }))
    }

    async fn lift_ban(
        &self,
        request: Request<v1::LiftBanRequest>,
    ) -> Result<Response<v1::LiftBanResponse>, Status> {
        use lift_ban_request::Target as Asked;
        let caller = self.caller(&request)?;
        let call = changes::registered(request.extensions()).cloned();
        let banned = match request.into_inner().target {
            None => Err(Error::field("target", "is required")),
            Some(Asked::Principal(name)) => principal(&name),
            Some(Asked::Address(text)) => address(&text),
        };
        let name = banned.as_ref().map_or_else(|_| String::new(), resource);
        let lifted = banned.map(|banned| self.registry.bans().lift(&banned));
        record(
            (&caller, call.as_deref()),
            ("ban.lift", name),
            &lifted,
            |lifted| serde_json::json!({ "lifted": lifted }),
        );
        answer(lifted.map(|lifted| v1::LiftBanResponse { replica: Some(self.replica()), lifted }))
    }
}
