//! Permissions on groups, and the audit log of their changes.

use serde_json::Value;
use streamway::proto::v1::{
    CreateGroupRequest, GetGroupRequest, Group, GroupSettings, Join, LeaseRequest, ListGroupsRequest,
    ResetGroupsRequest, SettleRequest, Settlement,
};
use tonic::Code;

use crate::harness::identities::{Setup, of, publish_as, rule};
use crate::harness::member::{Member, groups, join, millis, only};
use crate::harness::{Server, refused, within};

const NAMES: [&str; 4] = ["ops", "mailer", "billing", "nobody"];

fn policy() -> String {
    let consume = "[[rule]]\nprincipals = [\"mailer\"]\ntopics = [\"orders*\"]\ngroups = [\"mail-*\"]\n\
                   actions = [\"consume\"]\n";
    rule(r#"["ops"]"#, r#"["*"]"#, r#"["publish", "admin"]"#)
        + consume
        + &rule(r#"["billing"]"#, r#"["orders"]"#, r#"["consume", "publish"]"#)
        + "[[quota]]\nprincipals = [\"billing\"]\nsubscriptions_max = 1\n"
}

fn group(name: &str, dead_letter_topic: &str) -> CreateGroupRequest {
    let settings = GroupSettings { dead_letter_topic: dead_letter_topic.into(), ..GroupSettings::default() };
    let (topic, name, settings) = ("orders".to_owned(), name.to_owned(), Some(settings));
    CreateGroupRequest { group: Some(Group { topic, name, settings, ..Group::default() }), start: None }
}

async fn started() -> (Setup, Server) {
    let setup = Setup::new(&NAMES, &policy());
    let server = setup.start(&[]).await;
    publish_as(&server, "ops", "orders").await.unwrap();
    for name in ["mail-eu", "invoices"] {
        groups(&server).await.create_group(of("ops", group(name, ""))).await.unwrap();
    }
    (setup, server)
}

async fn member(server: &Server, name: &str, join: Join) -> Result<Member, tonic::Status> {
    Member::join_as(server, join, |stream| of(name, stream)).await
}

#[tokio::test]
async fn a_rule_names_the_groups_that_may_be_used() {
    let (_setup, server) = started().await;
    let mut client = groups(&server).await;
    let denied = |status: tonic::Status| refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    denied(client.create_group(of("mailer", group("mail-us", ""))).await.unwrap_err());
    let get = |name: &str| GetGroupRequest { topic: "orders".into(), name: name.into() };
    client.get_group(of("mailer", get("mail-eu"))).await.unwrap();
    client.get_group(of("ops", get("mail-eu"))).await.unwrap();
    // Whether there is such a group or not.
    denied(client.get_group(of("mailer", get("invoices"))).await.unwrap_err());
    denied(client.get_group(of("mailer", get("none"))).await.unwrap_err());
    let list = ListGroupsRequest::default;
    let listed = |groups: Vec<Group>| groups.into_iter().map(|group| group.name).collect::<Vec<_>>();
    for (name, expected) in [("ops", &["invoices", "mail-eu"][..]), ("mailer", &["mail-eu"]), ("nobody", &[])]
    {
        let page = client.list_groups(of(name, list())).await.unwrap().into_inner();
        assert_eq!(
            (listed(page.groups), page.next_page_token.as_str()),
            (expected.iter().map(|&n| n.to_owned()).collect(), "")
        );
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListGroupsRequest { page_size: 1, page_token, ..list() };
        let page = client.list_groups(of("ops", request)).await.unwrap().into_inner();
        found.extend(listed(page.groups));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["invoices", "mail-eu"], "page by page");

    let Err(status) = member(&server, "mailer", join("orders", "invoices")).await else { panic!("joined") };
    denied(status);
    let mut mailer = member(&server, "mailer", join("orders", "mail-eu")).await.unwrap();
    mailer.credit(1).await;
    let taken = mailer.take(1).await;
    // The token names the group, and does not make up for the permission.
    let stolen = Settlement { token: taken[0].token.clone(), acks: vec![only(0)], ..Settlement::default() };
    let settle = SettleRequest { settlements: vec![stolen], ..SettleRequest::default() };
    denied(client.settle(of("nobody", settle)).await.unwrap_err());
    mailer.ack(&taken).await;
    let lease = LeaseRequest { topic: "orders".into(), group: "invoices".into(), ..LeaseRequest::default() };
    denied(client.lease(of("mailer", lease)).await.unwrap_err());
    let reset = ResetGroupsRequest { internal_topic: "~groups-00".into() };
    denied(client.reset_groups(of("ops", reset)).await.unwrap_err());
}

#[tokio::test]
async fn dead_letters_go_only_where_the_creator_may_publish() {
    let (_setup, server) = started().await;
    let create = |dead_letter_topic: &str| {
        let settings =
            GroupSettings { dead_letter_topic: dead_letter_topic.into(), ..GroupSettings::default() };
        Join { create: Some(settings), ..join("orders", &format!("by-{dead_letter_topic}")) }
    };
    // `billing` may publish to `orders` alone, which is the source.
    let Err(status) = member(&server, "billing", create("secrets")).await else { panic!("joined") };
    refused(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    groups(&server).await.create_group(of("ops", group("mail-us", "secrets"))).await.unwrap();
}

#[tokio::test]
async fn members_count_as_subscriptions() {
    let (_setup, server) = started().await;
    let first = member(&server, "billing", join("orders", "invoices")).await.unwrap();
    let Err(status) = member(&server, "billing", join("orders", "invoices")).await else { panic!("joined") };
    refused(&status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    first.leave().await;
    let wait = Some(millis(10));
    let lease =
        LeaseRequest { topic: "orders".into(), group: "invoices".into(), wait, ..LeaseRequest::default() };
    let mut client = groups(&server).await;
    let leased = within(10, "the record", async {
        loop {
            if let Ok(leased) = client.lease(of("billing", lease.clone())).await {
                break leased.into_inner();
            }
            tokio::task::yield_now().await;
        }
    });
    leased.await;
}

#[tokio::test]
async fn a_member_ends_when_its_permission_is_withdrawn() {
    let (setup, server) = started().await;
    let mut mailer = member(&server, "mailer", join("orders", "mail-eu")).await.unwrap();
    mailer.credit(1).await;
    mailer.take(1).await;
    setup.policy(&policy().replace("mail-*", "post-*"));
    let status = mailer.failure().await;
    refused(&status, Code::Unauthenticated, "UNAUTHENTICATED");
}

#[tokio::test]
async fn changes_of_groups_are_in_the_audit_log() {
    let (_setup, mut server) = started().await;
    let mut client = groups(&server).await;
    let again = client.create_group(of("ops", group("invoices", ""))).await.unwrap_err();
    refused(&again, Code::AlreadyExists, "GROUP_EXISTS");
    let create = Join { create: Some(GroupSettings::default()), ..join("orders", "mail-new") };
    member(&server, "mailer", create).await.unwrap().leave().await;
    let mut update = streamway::proto::v1::UpdateGroupRequest {
        group: group("invoices", "").group,
        update_mask: Some(prost_types::FieldMask { paths: vec!["settings.ack_deadline".into()] }),
    };
    if let Some(settings) = update.group.as_mut().and_then(|group| group.settings.as_mut()) {
        settings.ack_deadline = Some(millis(5000));
    }
    client.update_group(of("ops", update)).await.unwrap();
    let delete = streamway::proto::v1::DeleteGroupRequest {
        topic: "orders".into(),
        name: "invoices".into(),
        ..Default::default()
    };
    client.delete_group(of("ops", delete)).await.unwrap();
    server.sigterm().await;
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> = lines.filter(|line| line["target"] == "streamway::audit").collect();
    let of = |line: &Value| {
        ["action", "outcome", "resource", "principal"]
            .map(|key| line[key].as_str().unwrap_or_default().to_owned())
    };
    let groups: Vec<_> = lines.iter().map(of).filter(|[action, ..]| action.starts_with("group.")).collect();
    let expected = [
        ["group.create", "done", "orders/mail-eu", "ops"],
        ["group.create", "done", "orders/invoices", "ops"],
        ["group.create", "done", "orders/mail-new", "mailer"],
        ["group.update", "done", "orders/invoices", "ops"],
        ["group.delete", "done", "orders/invoices", "ops"],
    ];
    assert_eq!(groups, expected, "{lines:#?}");
    let update = lines.iter().find(|line| line["action"] == "group.update").unwrap();
    let settings = |key: &str| serde_json::from_str::<Value>(update[key].as_str().unwrap()).unwrap();
    let deadlines =
        (settings("before")["ack_deadline_ms"].clone(), settings("after")["ack_deadline_ms"].clone());
    assert_eq!(deadlines, (30_000.into(), 5000.into()));
}
