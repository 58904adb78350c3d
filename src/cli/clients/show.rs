//! Answers of the replicas as tables and as JSON. The JSON is protobuf's own form of the messages: its names, 64-bit
//! numbers as strings.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::format::Format;
use crate::cli::{Failure, output};
use crate::client::{Error, Operator, printable};
use crate::config::format_size;
use crate::proto::v1;
use crate::proto::v1::ban::Target;

/// Maximum entries that a page is asked for.
const PAGE: u32 = 1000;

/// The connections and calls of one replica.
pub(super) struct Listed {
    replica: Option<v1::Replica>,
    connections: Vec<v1::Connection>,
    calls: Vec<v1::Call>,
}

/// Lists the calls of one replica, and its connections without any, unless one principal is asked for.
pub(super) async fn list(operator: &Operator, principal: &str) -> Result<Listed, Error> {
    let mut listed = Listed { replica: None, connections: Vec::new(), calls: Vec::new() };
    let mut pages = Pages::default();
    while let Some(page_token) = pages.next() {
        let request = v1::ListCallsRequest { page_size: PAGE, page_token, principal: principal.to_owned() };
        let page = operator.calls(request).await?;
        listed.replica = page.replica;
        listed.calls.extend(page.calls);
        pages.follow(page.next_page_token)?;
    }
    let mut pages = Pages::default();
    while principal.is_empty()
        && let Some(page_token) = pages.next()
    {
        let page = operator.connections(v1::ListConnectionsRequest { page_size: PAGE, page_token }).await?;
        listed.connections.extend(page.connections.into_iter().filter(|found| found.open_calls == 0));
        pages.follow(page.next_page_token)?;
    }
    Ok(listed)
}

/// Tokens of the pages of a list. A server that repeats one is an error, not an endless list.
struct Pages {
    next: Option<String>,
    seen: HashSet<String>,
}

impl Default for Pages {
    fn default() -> Self {
        Self { next: Some(String::new()), seen: HashSet::new() }
    }
}

impl Pages {
    /// Returns the token of the next page; none after the last.
    fn next(&mut self) -> Option<String> {
        self.next.take()
    }

    /// Notes the token that a page ends with.
    fn follow(&mut self, token: String) -> Result<(), Error> {
        if token.is_empty() {
            return Ok(());
        }
        if !self.seen.insert(token.clone()) {
            let why = "the server's list does not end: a page is repeated";
            return Err(Error::local(tonic::Code::Internal, why.to_owned()));
        }
        self.next = Some(token);
        Ok(())
    }
}

fn span(duration: Option<&prost_types::Duration>) -> Duration {
    duration.and_then(|duration| Duration::try_from(*duration).ok()).unwrap_or_default()
}

fn age(duration: Option<&prost_types::Duration>) -> String {
    output::elapsed(span(duration))
}

/// Prints calls and connections.
pub(super) fn print_list(all: &[Listed], format: Format) -> Result<(), Failure> {
    const HEADER: [&str; 12] = [
        "REPLICA",
        "ID",
        "PEER",
        "TLS",
        "PRINCIPAL",
        "METHOD",
        "TOPIC",
        "AGE",
        "IN",
        "OUT",
        "LAG",
        "USER AGENT",
    ];
    let mut rows = Vec::new();
    for Listed { replica: from, connections, calls } in all {
        let (host, from) = replica(from.as_ref());
        rows.extend(
            calls
                .iter()
                .map(|call| (call_row(&host, call), json!({ "replica": from, "call": call_json(call) }))),
        );
        rows.extend(connections.iter().map(|connection| {
            let value = json!({ "replica": from, "connection": connection_json(connection) });
            (connection_row(&host, connection), value)
        }));
    }
    print(all, format, &HEADER, &rows)
}

fn yes(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

fn call_row(host: &str, call: &v1::Call) -> Vec<String> {
    let topic = match (call.publish_topic.as_str(), call.subscribe_topic.as_str()) {
        (one, "") | ("", one) => one.to_owned(),
        (publish, subscribe) if publish == subscribe => publish.to_owned(),
        (publish, subscribe) => format!("{publish}, {subscribe}"),
    };
    vec![
        host.to_owned(),
        call.id.clone(),
        call.peer_address.clone(),
        yes(call.tls),
        call.principal.clone(),
        call.method.rsplit('/').next().unwrap_or_default().to_owned(),
        topic,
        age(call.age.as_ref()),
        format_size(call.received_bytes),
        format_size(call.sent_bytes),
        call.lag.map(|lag| lag.to_string()).unwrap_or_default(),
        call.user_agent.clone(),
    ]
}

fn connection_row(host: &str, connection: &v1::Connection) -> Vec<String> {
    vec![
        host.to_owned(),
        connection.id.clone(),
        connection.peer_address.clone(),
        yes(connection.tls),
        String::new(),
        String::new(),
        String::new(),
        age(connection.age.as_ref()),
        format_size(connection.received_bytes),
        format_size(connection.sent_bytes),
        String::new(),
        connection.user_agent.clone(),
    ]
}

fn seconds(duration: Option<&prost_types::Duration>) -> String {
    output::duration(span(duration))
}

fn call_json(call: &v1::Call) -> Value {
    json!({
        "id": call.id,
        "connectionId": call.connection_id,
        "peerAddress": call.peer_address,
        "tls": call.tls,
        "principal": call.principal,
        "method": call.method,
        "publishTopic": call.publish_topic,
        "subscribeTopic": call.subscribe_topic,
        "age": seconds(call.age.as_ref()),
        "receivedBytes": call.received_bytes.to_string(),
        "sentBytes": call.sent_bytes.to_string(),
        "lag": call.lag.map(|lag| lag.to_string()),
        "userAgent": call.user_agent,
    })
}

fn connection_json(connection: &v1::Connection) -> Value {
    json!({
        "id": connection.id,
        "peerAddress": connection.peer_address,
        "tls": connection.tls,
        "age": seconds(connection.age.as_ref()),
        "userAgent": connection.user_agent,
        "receivedBytes": connection.received_bytes.to_string(),
        "sentBytes": connection.sent_bytes.to_string(),
        "openCalls": connection.open_calls.to_string(),
        "totalCalls": connection.total_calls.to_string(),
    })
}

/// Prints what was ended.
pub(super) fn print_ended(all: &[v1::EndCallsResponse], format: Format) -> Result<(), Failure> {
    let rows: Vec<_> = all
        .iter()
        .map(|ended| {
            let (host, from) = replica(ended.replica.as_ref());
            let ban = ended.ban.as_ref();
            let left = ban.map(|ban| age(ban.remaining.as_ref())).unwrap_or_default();
            let row = vec![host, ended.ended_calls.to_string(), ended.closed_connections.to_string(), left];
            let value = json!({
                "replica": from,
                "endedCalls": ended.ended_calls.to_string(),
                "closedConnections": ended.closed_connections.to_string(),
                "ban": ban.map(ban_json),
            });
            (row, value)
        })
        .collect();
    print(all, format, &["REPLICA", "CALLS", "CONNECTIONS", "BANNED FOR"], &rows)
}

/// The bans of one replica.
type Bans = (Option<v1::Replica>, Vec<v1::Ban>);

/// Lists the bans of one replica.
pub(super) async fn bans(operator: &Operator) -> Result<Bans, Error> {
    let (mut pages, mut replica, mut bans) = (Pages::default(), None, Vec::new());
    while let Some(page_token) = pages.next() {
        let page = operator.bans(v1::ListBansRequest { page_size: PAGE, page_token }).await?;
        replica = page.replica;
        bans.extend(page.bans);
        pages.follow(page.next_page_token)?;
    }
    Ok((replica, bans))
}

fn banned(ban: &v1::Ban) -> [String; 2] {
    match ban.target.clone() {
        Some(Target::Principal(name)) => [name, String::new()],
        Some(Target::Address(address)) => [String::new(), address],
        None => Default::default(),
    }
}

fn ban_json(ban: &v1::Ban) -> Value {
    let [principal, address] = banned(ban);
    let mut value = json!({
        "expireTime": output::seconds(ban.expire_time.as_ref()),
        "remaining": seconds(ban.remaining.as_ref()),
    });
    let (key, text) = if address.is_empty() { ("principal", principal) } else { ("address", address) };
    value[key] = text.into();
    value
}

/// Prints bans.
pub(super) fn print_bans(all: &[Bans], format: Format) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for (from, bans) in all {
        let (host, from) = replica(from.as_ref());
        rows.extend(bans.iter().map(|ban| {
            let [principal, address] = banned(ban);
            let row = vec![host.clone(), principal, address, age(ban.remaining.as_ref())];
            (row, json!({ "replica": from, "ban": ban_json(ban) }))
        }));
    }
    print(all, format, &["REPLICA", "PRINCIPAL", "ADDRESS", "FOR"], &rows)
}

/// Prints where a ban was lifted.
pub(super) fn print_lifted(all: &[(Option<v1::Replica>, bool)], format: Format) -> Result<(), Failure> {
    let rows: Vec<_> = all
        .iter()
        .map(|(from, lifted)| {
            let (host, from) = replica(from.as_ref());
            (vec![host, yes(*lifted)], json!({ "replica": from, "lifted": lifted }))
        })
        .collect();
    print(all, format, &["REPLICA", "LIFTED"], &rows)
}

/// Prints the rows of the replicas that answered, as a table or as a JSON object a line. Without an answer, it prints nothing.
fn print<A>(
    answers: &[A],
    format: Format,
    header: &[&str],
    rows: &[(Vec<String>, Value)],
) -> Result<(), Failure> {
    if answers.is_empty() {
        return Ok(());
    }
    let text = if format.is_json() {
        rows.iter().map(|(_, value)| output::json_line(value)).collect::<String>()
    } else {
        let rows: Vec<_> = rows.iter().map(|(row, _)| row.clone()).collect();
        output::table(header, &rows)
    };
    Ok(output::print(&text)?)
}

fn replica(replica: Option<&v1::Replica>) -> (String, Value) {
    let v1::Replica { host, instance } = replica.cloned().unwrap_or_default();
    (printable(&host).into_owned(), json!({ "host": host, "instance": instance }))
}
