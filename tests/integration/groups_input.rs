//! Bad input to groups gets a specific error, and changes nothing (P7, P9).

use prost_types::FieldMask;
use streamway::proto::v1::consume_request::Kind;
use streamway::proto::v1::{
    ConsumeRequest, CreateGroupRequest, Credit, DeadLetter, DeleteGroupRequest, Extend, GetGroupRequest,
    Group, GroupSettings, GroupStart, Join, LeaseRequest, ListGroupsRequest, Nack, OffsetRange, Position,
    RedriveDeadLettersRequest, SeekGroupRequest, SettleRequest, Settlement, UpdateGroupRequest,
    group_start::Start,
};
use tonic::{Code, Status};

use crate::harness::make::{published, record};
use crate::harness::member::{GroupClient, Member, create, get, groups, join, message, millis, only};
use crate::harness::{Server, detail, refused, within};

/// Checks that a field was refused by its path.
#[track_caller]
fn field(status: &Status, expected: &str) {
    refused(status, Code::InvalidArgument, "INVALID_FIELD");
    let details = detail(status);
    let fields: Vec<_> =
        details.bad_request().unwrap().field_violations.iter().map(|bad| bad.field.as_str()).collect();
    assert_eq!(fields, [expected], "{status:?}");
}

async fn with_group() -> (Server, GroupClient) {
    let server = Server::start().await;
    published(&mut server.client().await, "good", vec![record("one")]).await;
    create(&server, "good", "workers", GroupSettings::default()).await;
    let client = groups(&server).await;
    (server, client)
}

/// Asserts that there is one group, with one record that nobody holds.
async fn assert_unchanged(server: &Server) {
    let listed = groups(server).await.list_groups(ListGroupsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.groups.len(), 1, "{listed:?}");
    let status = get(server, "good", "workers").await.status.unwrap();
    assert_eq!((status.lag_records, status.leased_records, status.member_count), (1, 0, 0), "{status:?}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

fn group(topic: &str, name: &str, settings: GroupSettings) -> Group {
    Group { topic: topic.into(), name: name.into(), settings: Some(settings), ..Group::default() }
}

#[tokio::test]
async fn administration_names_the_field_that_is_wrong() {
    let (server, mut client) = with_group().await;
    let of = GroupSettings::default;
    let at = |start| Some(GroupStart { start: Some(start) });
    let beyond = at(Start::Position(Position { epoch: String::new(), offset: 1 }));
    for (path, group, start) in [
        ("group.topic", group("Good", "x", of()), None),
        ("group.topic", Group::default(), None),
        ("group.name", group("good", "", of()), None),
        ("group.name", group("good", "../x", of()), None),
        ("group.settings.order", group("good", "x", GroupSettings { order: 7, ..of() }), None),
        (
            "group.settings.ack_deadline",
            group("good", "x", GroupSettings { ack_deadline: Some(millis(10)), ..of() }),
            None,
        ),
        (
            "group.settings.dead_letter_topic",
            group("good", "x", GroupSettings { dead_letter_topic: "good".into(), ..of() }),
            None,
        ),
        ("start.position.epoch", group("good", "x", of()), beyond),
        ("start.boundary", group("good", "x", of()), at(Start::Boundary(9))),
    ] {
        let request = CreateGroupRequest { group: Some(group), start };
        field(&client.create_group(request).await.unwrap_err(), path);
    }
    let update = |group: Group, paths: &[&str]| UpdateGroupRequest {
        group: Some(group),
        update_mask: Some(FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
    };
    for (path, request) in [
        ("update_mask", update(group("good", "workers", of()), &[])),
        ("update_mask.paths", update(group("good", "workers", of()), &["name"])),
        ("group.id", update(Group { id: "x".into(), ..group("good", "workers", of()) }, &["settings"])),
        (
            "group.settings.lookahead_max",
            update(
                group("good", "workers", GroupSettings { lookahead_max: u64::MAX, ..of() }),
                &["settings"],
            ),
        ),
    ] {
        field(&client.update_group(request).await.unwrap_err(), path);
    }
    let order = group("good", "workers", GroupSettings { order: 3, ..of() });
    let status = client.update_group(update(order, &["settings.order"])).await.unwrap_err();
    field(&status, "group.settings.order");
    let (topic, name) = ("good".to_owned(), "workers".to_owned());
    let seek = SeekGroupRequest { topic: topic.clone(), name: name.clone(), to: None };
    field(&client.seek_group(seek).await.unwrap_err(), "to");
    let ranges = vec![OffsetRange { start: 3, end: 3 }];
    let redrive = RedriveDeadLettersRequest { topic, name, ranges, ..RedriveDeadLettersRequest::default() };
    field(&client.redrive_dead_letters(redrive).await.unwrap_err(), "ranges");
    let listed = ListGroupsRequest { page_token: "made up".into(), ..ListGroupsRequest::default() };
    field(&client.list_groups(listed).await.unwrap_err(), "page_token");
    assert_unchanged(&server).await;
}

#[tokio::test]
async fn a_group_or_topic_that_is_not_there_is_not_found() {
    let (server, mut client) = with_group().await;
    let names = |name: &str| ("good".to_owned(), name.to_owned());
    let not_found = |status: Status| refused(&status, Code::NotFound, "GROUP_NOT_FOUND");
    let (topic, name) = names("others");
    not_found(client.get_group(GetGroupRequest { topic, name }).await.unwrap_err());
    let (topic, name) = names("others");
    let delete = DeleteGroupRequest { topic, name, id: String::new() };
    not_found(client.delete_group(delete).await.unwrap_err());
    // Another incarnation is another group.
    let (topic, name) = names("workers");
    let delete = DeleteGroupRequest { topic, name, id: "0123456789abcdef".into() };
    not_found(client.delete_group(delete).await.unwrap_err());
    let (topic, group) = names("others");
    let lease = LeaseRequest { topic, group, ..LeaseRequest::default() };
    not_found(client.lease(lease).await.unwrap_err());
    let request = CreateGroupRequest { group: Some(group_of("none", "x")), start: None };
    let status = client.create_group(request).await.unwrap_err();
    refused(&status, Code::NotFound, "TOPIC_NOT_FOUND");
    let request = CreateGroupRequest { group: Some(group_of("good", "workers")), start: None };
    let status = client.create_group(request).await.unwrap_err();
    refused(&status, Code::AlreadyExists, "GROUP_EXISTS");
    assert_unchanged(&server).await;
    let server = Server::with(&["--auto-create-topics", "false"]).await;
    let Err(status) = Member::join(&server, join("none", "x")).await else { panic!("joined") };
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
}

fn group_of(topic: &str, name: &str) -> Group {
    group(topic, name, GroupSettings::default())
}

/// Sends messages of which one is wrong, and returns the failure.
async fn consume(client: &mut GroupClient, messages: Vec<ConsumeRequest>) -> Status {
    let mut answers = match client.consume(tokio_stream::iter(messages)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match within(20, "the refusal", answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the call ended with OK"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn consume_names_the_message_that_is_wrong() {
    let (server, mut client) = with_group().await;
    let joins = || message(Kind::Join(join("good", "workers")));
    let protocol = |status: Status| refused(&status, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    protocol(consume(&mut client, vec![]).await);
    protocol(consume(&mut client, vec![ConsumeRequest::default()]).await);
    protocol(consume(&mut client, vec![message(Kind::Credit(Credit::default()))]).await);
    protocol(consume(&mut client, vec![joins(), joins()]).await);
    protocol(consume(&mut client, vec![joins(), ConsumeRequest::default()]).await);
    let with = |change: fn(&mut Join)| {
        let mut asked = join("good", "workers");
        change(&mut asked);
        vec![message(Kind::Join(asked))]
    };
    for (path, messages) in [
        ("join.topic", with(|join| join.topic = "NO".into())),
        ("join.group", with(|join| join.group.clear())),
        ("join.member", with(|join| join.member = "m".repeat(129))),
        ("join.session", with(|join| join.session = vec![1; 15].into())),
        (
            "join.create.backoff",
            with(|join| {
                join.create = Some(GroupSettings { backoff: vec![millis(-1)], ..GroupSettings::default() });
            }),
        ),
        (
            "join.start.boundary",
            with(|join| join.start = Some(GroupStart { start: Some(Start::Boundary(9)) })),
        ),
    ] {
        field(&consume(&mut client, messages).await, path);
    }
    let of = Settlement::default;
    let token = bytes::Bytes::from_static(b"token");
    for (path, settlement) in [
        ("settlement", of()),
        ("settlement", Settlement { acks: vec![only(1); 1001], ..of() }),
        ("settlement.token", Settlement { acks: vec![only(1)], token, ..of() }),
        ("settlement.token", Settlement { acks: vec![only(1)], token: vec![1; 1 << 20].into(), ..of() }),
    ] {
        let messages = vec![joins(), message(Kind::Settlement(settlement))];
        field(&consume(&mut client, messages).await, path);
    }
    let extend = Extend { token: vec![7].into(), ..Extend::default() };
    field(&consume(&mut client, vec![joins(), message(Kind::Extend(extend))]).await, "extend.token");
    let session = Join { session: vec![1; 16].into(), ..join("good", "workers") };
    let status = consume(&mut client, vec![message(Kind::Join(session))]).await;
    refused(&status, Code::FailedPrecondition, "SESSION_ENDED");
    assert_eq!(get(&server, "good", "workers").await.status.unwrap().lag_records, 1);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test]
async fn what_is_wrong_in_a_settlement_is_named() {
    let (server, mut client) = with_group().await;
    let asked = LeaseRequest { topic: "good".into(), group: "workers".into(), ..LeaseRequest::default() };
    for (path, request) in [
        ("max_records", LeaseRequest { max_records: 1001, ..asked.clone() }),
        ("wait", LeaseRequest { wait: Some(millis(60_001)), ..asked.clone() }),
        ("wait", LeaseRequest { wait: Some(millis(-1)), ..asked.clone() }),
        ("member", LeaseRequest { member: "m".repeat(129), ..asked.clone() }),
    ] {
        field(&client.lease(request).await.unwrap_err(), path);
    }
    let leases = client.lease(LeaseRequest { wait: Some(millis(5000)), ..asked }).await.unwrap();
    let token = leases.into_inner().leases[0].token.clone();
    let of = || Settlement { token: token.clone(), ..Settlement::default() };
    let nack = |nack: Nack| Settlement { nacks: vec![nack], ..of() };
    let range = Some(only(0));
    let reason = || "r".repeat(1025);
    let dead = DeadLetter { range, reason: reason() };
    for (path, settlement) in [
        ("settlements.acks", Settlement { acks: vec![OffsetRange { start: 2, end: 1 }], ..of() }),
        ("settlements.returns", Settlement { returns: vec![OffsetRange::default()], ..of() }),
        ("settlements.nacks.range", nack(Nack::default())),
        ("settlements.nacks.delay", nack(Nack { range, delay: Some(millis(-5)), ..Nack::default() })),
        ("settlements.nacks.delay", nack(Nack { range, delay: Some(millis(86_400_001)), ..Nack::default() })),
        ("settlements.nacks.reason", nack(Nack { range, reason: reason(), ..Nack::default() })),
        ("settlements.dead_letters.reason", Settlement { dead_letters: vec![dead], ..of() }),
    ] {
        // A good one before it does not take effect.
        let good = Settlement { acks: vec![only(0)], ..of() };
        let request = SettleRequest { settlements: vec![good, settlement], ..SettleRequest::default() };
        field(&client.settle(request).await.unwrap_err(), path);
    }
    let many = SettleRequest { extensions: vec![Extend::default(); 1001], ..SettleRequest::default() };
    field(&client.settle(many).await.unwrap_err(), "extensions");
    assert_eq!(get(&server, "good", "workers").await.status.unwrap().lag_records, 1);
}
