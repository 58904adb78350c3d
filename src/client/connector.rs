//! The connection to a server, or to the first of several that answers, with this client's identity.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tracing::debug;

use super::compression::Compression;
use super::error::{Error, Origin};
use super::interceptor::CallMetadata;
use super::options::Options;
use super::retry::{Retry, RetryPolicy};
use super::server::Server;
use super::token::Bearer;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::topic_service_client::TopicServiceClient;
use crate::reload::{Contents, Files};
use crate::telemetry::{Outgoing, ParentContext};
use crate::wire::stubs::v1::group_service_client::GroupServiceClient;
use crate::wire::stubs::v1::stream_service_client::StreamServiceClient;

/// The service that calls go through.
pub(crate) type Transport = InterceptedService<Channel, CallMetadata>;

/// A cheap handle to the connection, which is made by the first call, and again whenever it broke.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    servers: Arc<[Server]>,
    /// Index of the server in use; the next one takes over when it fails.
    current: Arc<AtomicUsize>,
    message_bytes_max: usize,
    answer_timeout: Duration,
    compression: Option<Compression>,
    bearer: Bearer,
    /// The parent of the calls' spans.
    origin: ParentContext,
    /// Number of changes of certificates and token.
    renewals: Arc<AtomicU64>,
    /// The tasks that follow the files. They end with the last clone.
    _following: Arc<[AbortOnDropHandle<()>]>,
}

impl Connector {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        options.tls.check().map_err(invalid)?;
        let (tls_files, contents) = read(options.tls.paths())?;
        let tls = options.tls.config(&contents).map_err(invalid)?;
        let servers: Arc<[Server]> =
            options.servers.iter().map(|url| Server::new(url, &options, &tls)).collect::<Result<_, _>>()?;
        if servers.is_empty() {
            return Err(invalid("no server is named".to_owned()));
        }
        let (bearer, renewals) = (Bearer::default(), Arc::new(AtomicU64::new(0)));
        let token_files = read_token(&options, &bearer)?;
        let connector = Self {
            servers: Arc::clone(&servers),
            current: Arc::default(),
            message_bytes_max: options.message_bytes_max,
            answer_timeout: options.answer_timeout,
            compression: options.compression,
            bearer: bearer.clone(),
            origin: ParentContext::current(),
            renewals: Arc::clone(&renewals),
            _following: Arc::default(),
        };
        let token_renewals = Arc::clone(&renewals);
        let token_path = options.token_file.clone().unwrap_or_default();
        let interval = options.reload_interval;
        let renew_tls = move |contents: &Contents| renew_tls(&options, contents, &servers, &renewals);
        let renew_token = move |contents: &Contents| {
            bearer.set_from(&token_path, &contents[0])?;
            token_renewals.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let following = [
            tls_files.map(|files| tokio::spawn(files.follow(interval, renew_tls))),
            token_files.map(|files| tokio::spawn(files.follow(interval, renew_token))),
        ];
        let following = following.into_iter().flatten().map(AbortOnDropHandle::new).collect();
        Ok(Self { _following: following, ..connector })
    }

    /// Chooses the server in use for one call of `method`.
    pub(super) fn target(&self, method: &'static str, topic: Option<&str>) -> Target {
        let index = self.current.load(Ordering::Relaxed) % self.servers.len();
        let server = &self.servers[index];
        Target {
            index,
            url: server.url.clone(),
            trace: Arc::new(Outgoing::begin(&self.origin, method, &server.url, topic)),
            channel: Channel::clone(&server.channel.load()),
            renewals: self.renewals.load(Ordering::Relaxed),
        }
    }

    /// The retry state of a new call that is resumed when it breaks.
    pub(super) fn retry(&self, policy: RetryPolicy) -> Retry {
        Retry::new(policy, u32::try_from(self.servers.len()).unwrap_or(u32::MAX))
    }

    /// Waits for the answer of an administrative call to `target`, within the time limit of such calls.
    ///
    /// # Errors
    /// The call fails, or is not answered in time.
    pub(super) async fn answer<T>(
        &self,
        target: &Target,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let limit = self.answer_timeout;
        let error = match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => Error::from_status(&status, &target.url),
            Err(_) => Error::transport(format!(
                "{} has not answered for {}; the request may have been carried out all the same",
                target.url,
                humantime::format_duration(limit)
            )),
        };
        target.failed(&error);
        Err(error)
    }

    /// Makes an administrative call to the first server that can be reached.
    ///
    /// # Errors
    /// No server can be reached, or the call fails, or is not answered in time.
    pub(super) async fn answer_of_any<T>(
        &self,
        method: &'static str,
        call: impl AsyncFn(&Target) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut untried = self.servers();
        loop {
            let target = self.target(method, None);
            debug!(method, server = target.url, "calling");
            let answer = self.answer(&target, call(&target)).await;
            let Err(error) = answer else { return answer };
            untried -= 1;
            if error.origin() != Origin::Connect || untried == 0 {
                return Err(error);
            }
            self.move_on(target.index);
        }
    }

    /// Number of servers.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Switches from a server that failed to the next one, unless another call has done so already.
    pub(super) fn move_on(&self, from: usize) {
        let next = (from + 1) % self.servers.len();
        let _ = self.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn metadata(&self, target: &Target) -> CallMetadata {
        CallMetadata::new(self.bearer.clone(), &target.trace)
    }

    /// The streaming calls of a server, with unparsed batches.
    pub(super) fn streams(&self, target: &Target) -> StreamServiceClient<Transport> {
        let client = StreamServiceClient::with_interceptor(target.channel.clone(), self.metadata(target))
            .max_decoding_message_size(self.message_bytes_max);
        match self.compression.map(Into::into) {
            Some(encoding) => client.send_compressed(encoding).accept_compressed(encoding),
            None => client,
        }
    }

    /// The calls of groups, with unparsed batches.
    pub(super) fn groups(&self, target: &Target) -> GroupServiceClient<Transport> {
        let client = GroupServiceClient::with_interceptor(target.channel.clone(), self.metadata(target))
            .max_decoding_message_size(self.message_bytes_max);
        match self.compression.map(Into::into) {
            Some(encoding) => client.send_compressed(encoding).accept_compressed(encoding),
            None => client,
        }
    }

    /// The administrative calls of a server.
    pub(super) fn administration(&self, target: &Target) -> TopicServiceClient<Transport> {
        TopicServiceClient::with_interceptor(target.channel.clone(), self.metadata(target))
    }

    /// The calls of a server's operator.
    pub(super) fn operation(&self, target: &Target) -> AdminServiceClient<Transport> {
        AdminServiceClient::with_interceptor(target.channel.clone(), self.metadata(target))
    }

    /// Notes the error of a call to that server, and makes it retryable where the identity had expired and has been
    /// renewed since.
    pub(super) fn failed(&self, error: Error, target: &Target) -> Error {
        target.failed(&error);
        let renewed = self.renewals.load(Ordering::Relaxed) != target.renewals;
        if renewed && error.code() == Code::Unauthenticated { error.retryable() } else { error }
    }
}

/// A server chosen for one call.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) index: usize,
    pub(super) url: String,
    channel: Channel,
    /// The call's span. It ends with the last clone.
    trace: Arc<Outgoing>,
    /// Number of renewals of the identity when the server was chosen.
    renewals: u64,
}

impl Target {
    /// Notes on the call's span why it failed.
    pub(super) fn failed(&self, error: &Error) {
        self.trace.fail(error.code() as usize, error.reason());
    }
}

fn invalid(message: String) -> Error {
    Error::local(Code::InvalidArgument, message)
}

/// Reads files that are to be followed; none where no path is given.
fn read(paths: Vec<PathBuf>) -> Result<(Option<Files>, Contents), Error> {
    if paths.is_empty() {
        return Ok((None, Contents::new()));
    }
    let (files, contents) = Files::read(paths).map_err(|error| invalid(error.to_string()))?;
    Ok((Some(files), contents))
}

/// Sets the token of the options, if there is one. Returns its file.
fn read_token(options: &Options, bearer: &Bearer) -> Result<Option<Files>, Error> {
    match (&options.token, &options.token_file) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid("a token and a token file are given: choose one".to_owned())),
        (Some(token), None) => bearer.set(token).map(|()| None).map_err(invalid),
        (None, Some(path)) => {
            let (files, contents) = read(vec![path.clone()])?;
            bearer.set_from(path, &contents[0]).map_err(invalid)?;
            Ok(files)
        }
    }
}

/// Makes new connections use these certificates. Existing connections stay.
fn renew_tls(
    options: &Options,
    contents: &Contents,
    servers: &[Server],
    renewals: &AtomicU64,
) -> Result<(), String> {
    let tls = options.tls.config(contents)?;
    let renewed =
        servers.iter().map(|old| Server::new(&old.url, options, &tls)).collect::<Result<Vec<_>, _>>();
    for (old, new) in servers.iter().zip(renewed.map_err(|error| error.message().to_owned())?) {
        old.channel.store(new.channel.into_inner());
    }
    renewals.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Connector, Options};

    #[tokio::test]
    async fn two_calls_that_fail_at_one_server_move_on_once() {
        let servers = vec!["http://a:1".to_owned(), "http://b:1".to_owned()];
        let connector = Connector::new(Options { servers, ..Options::new("") }).unwrap();
        let first = connector.target("a.B/C", None);
        connector.move_on(first.index);
        connector.move_on(first.index);
        assert_eq!(connector.target("a.B/C", None).url, "http://b:1");
    }
}
