//! Groups by JSON over HTTP.

use serde_json::{Value, json};
use streamway::proto::v1::admin_service_client::AdminServiceClient;
use streamway::proto::v1::{Call, ListCallsRequest};

use crate::harness::identities::{Setup, rule};
use crate::harness::web::{Answer, ask};
use crate::harness::{Nats, Server, within};

const JSON: (&str, &str) = ("content-type", "application/json");

async fn send(server: &Server, line: &str, body: &Value) -> Answer {
    ask(server.http(), line, &[JSON], body.to_string()).await
}

async fn get(server: &Server, path: &str) -> Value {
    let answer = ask(server.http(), &format!("GET {path}"), &[], "").await;
    assert_eq!(answer.code, 200, "{path}: {}", answer.text());
    answer.json()
}

/// Starts a server with records `0` to `count - 1` in the topic `work`, and the group `mail` on it.
async fn with_group(count: usize, settings: &Value) -> Server {
    let server = Server::start().await;
    let records: Vec<_> = (0..count).map(|n| json!({"value": n.to_string(), "key": "k"})).collect();
    let stored = send(&server, "POST /v1/topics/work/records", &json!({ "records": records })).await;
    assert_eq!(stored.code, 200, "{}", stored.text());
    let created =
        send(&server, "POST /v1/topics/work/groups", &json!({"name": "mail", "settings": settings})).await;
    assert_eq!((created.code, created.header("location")), (201, "/v1/topics/work/groups/mail"));
    server
}

/// Leases records of the group `mail`; there must be some.
async fn lease(server: &Server, most: u32) -> Value {
    let asked = json!({"member": "curl", "maxRecords": most, "wait": "20s"});
    let answer = send(server, "POST /v1/topics/work/groups/mail/lease", &asked).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    answer.json()["leases"][0].clone()
}

async fn settle(server: &Server, body: &Value) -> Answer {
    send(server, "POST /v1/topics/work/groups/mail/settle", body).await
}

#[tokio::test]
async fn records_are_leased_extended_refused_and_settled() {
    let server =
        with_group(3, &json!({"ackDeadline": "60s", "deliveriesMax": 2, "poison": "POISON_POLICY_PARK_KEY"}))
            .await;
    let leased = lease(&server, 2).await;
    assert_eq!(leased["ranges"], json!([{"start": "0", "end": "2"}]));
    assert_eq!((&leased["records"][1]["value"], &leased["records"][1]["offset"]), (&json!("1"), &json!("1")));
    assert_eq!(leased["redeliveries"], json!([]));
    let token = &leased["token"];
    let extended =
        settle(&server, &json!({"extensions": [{"number": "7", "token": token, "time": "90s"}]})).await;
    let left = extended.json()["extensions"][0]["timeLeft"].as_str().unwrap().to_owned();
    assert!(left.starts_with("89.") || left == "90s", "{left}");

    let range = |start: &str, end: &str| json!({"start": start, "end": end});
    let settlement = json!({
        "number": 1, "token": token, "acks": [range("0", "1")],
        "nacks": [{"range": range("1", "2"), "delay": "0s", "reason": "no"}],
    });
    let settled = settle(&server, &json!({ "settlements": [settlement] })).await;
    assert_eq!(settled.code, 200, "{}", settled.text());
    // What is next to each other, and went the same way, is one outcome.
    let outcome = json!({"number": "1", "range": range("0", "2"), "result": "SETTLEMENT_RESULT_SETTLED"});
    assert_eq!(settled.json()["outcomes"], json!([outcome]));

    let mut again = lease(&server, 10).await;
    if again["ranges"][0]["start"] != "1" {
        again = lease(&server, 10).await;
    }
    assert_eq!(again["redeliveries"], json!([{"range": range("1", "2"), "delivery": 2}]), "{again}");
    let status = get(&server, "/v1/topics/work/groups/mail").await;
    assert_eq!(
        (&status["status"]["lagRecords"], &status["settings"]["ackDeadline"]),
        (&json!("2"), &json!("60s"))
    );
}

#[tokio::test]
async fn a_lost_lease_is_a_conflict_that_names_what_took_effect() {
    let server = with_group(2, &json!({})).await;
    let leased = lease(&server, 2).await;
    let (token, all) = (&leased["token"], &leased["ranges"]);
    let group = send(&server, "POST /v1/topics/work/groups/mail/seek", &json!({"to": "1"})).await;
    assert_eq!((group.code, &group.json()["status"]["lagRecords"]), (200, &json!("1")), "{}", group.text());
    let body = json!({"settlements": [{"token": token, "acks": all}], "extensions": [{"token": token}]});
    let late = settle(&server, &body).await;
    assert_eq!(late.problem(), (409, "LEASE_LOST".to_owned()));
    let problem = late.json();
    assert_eq!(
        (&problem["extensions"][0]["timeLeft"], &problem["side_effects"]),
        (&Value::Null, &json!("unknown")),
        "{problem}"
    );
    // The seek settled record 0, so that its acknowledgement is a repeat.
    let results: Vec<_> =
        problem["outcomes"].as_array().unwrap().iter().map(|outcome| &outcome["result"]).collect();
    assert_eq!(results, ["SETTLEMENT_RESULT_SETTLED", "SETTLEMENT_RESULT_LEASE_LOST"]);
    let fresh = lease(&server, 2).await;
    assert_eq!(fresh["ranges"], json!([{"start": "1", "end": "2"}]));
}

#[tokio::test]
async fn an_earlier_record_of_the_key_comes_first() {
    let server = with_group(2, &json!({"order": "DELIVERY_ORDER_KEY"})).await;
    let leased = lease(&server, 2).await;
    let ack = json!({"token": leased["token"], "acks": [{"start": 1, "end": 2}]});
    let refused = settle(&server, &json!({ "settlements": [ack] })).await;
    assert_eq!(refused.problem(), (409, "OUT_OF_KEY_ORDER".to_owned()));
    assert_eq!(refused.json()["side_effects"], "none");
}

#[tokio::test]
async fn groups_are_listed_changed_redriven_and_deleted() {
    let server = with_group(1, &json!({"deadLetterTopic": "dead", "leaseMax": "7200s"})).await;
    for name in ["a", "b"] {
        let created =
            send(&server, "POST /v1/topics/work/groups", &json!({"name": name, "from": "latest"})).await;
        assert_eq!((created.code, &created.json()["status"]["lagRecords"]), (201, &json!("0")));
    }
    let exists = send(&server, "POST /v1/topics/work/groups", &json!({"name": "a"})).await;
    assert_eq!(exists.problem(), (409, "GROUP_EXISTS".to_owned()));
    let names = |page: &Value| -> Vec<String> {
        let groups = page["groups"].as_array().unwrap().iter();
        groups.map(|group| group["name"].as_str().unwrap().to_owned()).collect()
    };
    let page = get(&server, "/v1/topics/work/groups?page_size=2").await;
    let token = page["nextPageToken"].as_str().unwrap();
    let rest = get(&server, &format!("/v1/topics/work/groups?page_size=2&page_token={token}")).await;
    assert_eq!((names(&page), names(&rest)), (vec!["a".into(), "b".into()], vec!["mail".to_owned()]));
    assert_eq!(names(&get(&server, "/v1/groups").await).len(), 3);

    let path = "/v1/topics/work/groups/mail";
    let change = json!({"settings": {"ackDeadline": "5s", "leaseMax": null}});
    let changed = send(&server, &format!("PATCH {path}"), &change).await.json();
    assert_eq!(
        (&changed["settings"]["ackDeadline"], &changed["settings"]["leaseMax"]),
        (&json!("5s"), &json!("3600s"))
    );
    assert_eq!(changed["settings"]["deadLetterTopic"], "dead", "what is not named stays");
    let leased = lease(&server, 1).await;
    let dead =
        json!({"token": leased["token"], "deadLetters": [{"range": leased["ranges"][0], "reason": "odd"}]});
    assert_eq!(settle(&server, &json!({ "settlements": [dead] })).await.code, 200);
    let is_dead = async {
        while get(&server, path).await["status"]["deadLetteredRecords"] != "1" {
            tokio::task::yield_now().await;
        }
    };
    within(20, "the dead letter", is_dead).await;
    let redriven = send(&server, &format!("POST {path}/redrive"), &json!({})).await;
    assert_eq!(
        redriven.json(),
        json!({"reopenedRecords": "1", "republishedRecords": "0", "missingRecords": "0"})
    );

    let other = ask(server.http(), &format!("DELETE {path}?id=0000000000000001"), &[], "").await;
    assert_eq!(other.problem(), (404, "GROUP_NOT_FOUND".to_owned()));
    let id = changed["id"].as_str().unwrap();
    assert_eq!(ask(server.http(), &format!("DELETE {path}?id={id}"), &[], "").await.code, 204);
    let gone = ask(server.http(), &format!("GET {path}"), &[], "").await;
    assert_eq!(gone.problem(), (404, "GROUP_NOT_FOUND".to_owned()));
    let audited = async {
        let actions = ["group.create", "group.update", "group.redrive", "group.delete"];
        while !actions.iter().all(|action| server.log().contains(action)) {
            tokio::task::yield_now().await;
        }
    };
    within(20, "the changes in the log", audited).await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_for_groups_is_said() {
    let server = with_group(1, &json!({})).await;
    let (groups, mail) = ("/v1/topics/work/groups", "/v1/topics/work/groups/mail");
    let leased = lease(&server, 1).await;
    let token = leased["token"].as_str().unwrap();
    let ack = |token: &str| json!({"settlements": [{"token": token, "acks": [{"start": "0", "end": "1"}]}]});
    for (line, body, code, reason) in [
        (format!("POST {groups}"), json!({}), 400, "MALFORMED_MESSAGE"),
        (format!("POST {groups}"), json!({"name": "NO"}), 400, "INVALID_FIELD"),
        (format!("POST {groups}"), json!({"name": "x", "from": "-7"}), 400, "INVALID_FIELD"),
        (format!("POST {groups}"), json!({"name": "x", "from": "99"}), 400, "OFFSET_BEYOND_TAIL"),
        (
            format!("POST {groups}"),
            json!({"name": "x", "settings": {"ackDeadline": "0s"}}),
            400,
            "INVALID_FIELD",
        ),
        ("POST /v1/topics/none/groups".into(), json!({"name": "x"}), 404, "TOPIC_NOT_FOUND"),
        (format!("PATCH {mail}"), json!({"settings": {}}), 400, "INVALID_FIELD"),
        (format!("PATCH {mail}"), json!({"settings": {"name": "x"}}), 400, "MALFORMED_MESSAGE"),
        (format!("POST {mail}/seek"), json!({}), 400, "MALFORMED_MESSAGE"),
        (format!("POST {mail}/seek"), json!({"to": "now"}), 400, "INVALID_FIELD"),
        (format!("POST {groups}/none/seek"), json!({"to": "earliest"}), 404, "GROUP_NOT_FOUND"),
        (format!("POST {mail}/redrive"), json!({"source": "X"}), 400, "INVALID_FIELD"),
        (format!("POST {mail}/redrive"), json!({"ranges": [{"start": 2, "end": 1}]}), 400, "INVALID_FIELD"),
        (format!("POST {groups}/none/lease"), json!({}), 404, "GROUP_NOT_FOUND"),
        (format!("POST {mail}/lease"), json!({"maxRecords": 1001}), 400, "INVALID_FIELD"),
        (format!("POST {mail}/lease"), json!({"wait": "61s"}), 400, "INVALID_FIELD"),
        (format!("POST {mail}/lease?value=hex"), json!({}), 400, "INVALID_FIELD"),
        (format!("POST {mail}/settle"), ack("?"), 400, "INVALID_FIELD"),
        (format!("POST {mail}/settle"), ack("AAAA"), 400, "INVALID_FIELD"),
        // The token names the group; the path does as well.
        (format!("POST {groups}/other/settle"), ack(token), 400, "INVALID_FIELD"),
        (format!("POST {mail}/settle"), json!({"settlements": [{"token": token}]}), 400, "INVALID_FIELD"),
        (format!("POST {mail}/settle"), json!({"settlements": [[0, token]]}), 400, "MALFORMED_MESSAGE"),
        (format!("POST {groups}/{}/settle", "g".repeat(129)), json!({}), 400, "INVALID_FIELD"),
        (format!("PUT {mail}"), json!({}), 405, "METHOD_NOT_ALLOWED"),
    ] {
        let answer = send(&server, &line, &body).await;
        assert_eq!(answer.problem(), (code, reason.to_owned()), "{line} {body}: {}", answer.text());
    }
    let plain =
        ask(server.http(), &format!("POST {mail}/lease"), &[("content-type", "text/plain")], "{}").await;
    assert_eq!(plain.problem(), (415, "UNSUPPORTED_MEDIA_TYPE".to_owned()));
    assert_eq!(settle(&server, &ack(token)).await.code, 200, "none of these changed the lease");
}

#[tokio::test]
async fn the_policy_holds_for_groups() {
    let policy = rule(r#"["ops"]"#, r#"["*"]"#, r#"["publish", "admin"]"#)
        + "[[rule]]\nprincipals = [\"worker\"]\ntopics = [\"work\"]\ngroups = [\"mail\"]\nactions = [\"consume\"]\n";
    let setup = Setup::new(&["ops", "worker", "nobody"], &policy);
    let server = setup.start(&[]).await;
    let as_caller = async |who: &str, line: &str, body: &Value| {
        let token = format!("Bearer {who}-secret");
        let mut headers = vec![JSON];
        headers.extend((!who.is_empty()).then_some(("authorization", &*token)));
        ask(server.http(), line, &headers, body.to_string()).await
    };
    let record = json!({"records": [{"value": "x"}]});
    assert_eq!(as_caller("ops", "POST /v1/topics/work/records", &record).await.code, 200);
    let (new, path) = (json!({"name": "mail"}), "/v1/topics/work/groups/mail");
    for (who, line, body, code) in [
        ("", "POST /v1/topics/work/groups", &new, 401),
        ("worker", "POST /v1/topics/work/groups", &new, 403),
        ("ops", "POST /v1/topics/work/groups", &new, 201),
        ("nobody", &*format!("GET {path}"), &json!({}), 403),
        ("worker", &format!("GET {path}"), &json!({}), 200),
        ("worker", &format!("DELETE {path}"), &json!({}), 403),
        ("worker", &format!("POST {path}/seek"), &json!({"to": "earliest"}), 403),
        ("ops", &format!("POST {path}/lease"), &json!({}), 403),
        ("worker", &format!("POST {path}/lease"), &json!({}), 200),
    ] {
        let answer = as_caller(who, line, body).await;
        assert_eq!(answer.code, code, "{who} {line}: {}", answer.text());
    }
    let seen = as_caller("nobody", "GET /v1/groups", &json!({})).await;
    assert_eq!(seen.json()["groups"], json!([]));
}

#[tokio::test]
async fn a_lease_that_waits_ends_with_a_drain() {
    let mut server = with_group(1, &json!({})).await;
    lease(&server, 1).await;
    let at = server.http();
    let waiting = tokio::spawn(async move {
        let line = "POST /v1/topics/work/groups/mail/lease";
        ask(at, line, &[JSON], json!({"wait": "25s", "member": "waiting"}).to_string()).await
    });
    let mut admin = AdminServiceClient::new(server.channel().await);
    let has_begun = async {
        let is_lease = |call: &Call| call.method.ends_with("/lease");
        while !admin
            .list_calls(ListCallsRequest::default())
            .await
            .unwrap()
            .get_ref()
            .calls
            .iter()
            .any(is_lease)
        {}
    };
    within(20, "the call that waits", has_begun).await;
    server.sigterm().await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer.problem(), (503, "SERVER_DRAINING".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn a_fleet_serves_groups_over_http() {
    let nats = Nats::single("");
    let url = nats.url();
    let server = Server::with(&["--engine", "jetstream", "--nats-url", &url, "--nats-replicas", "1"]).await;
    let stored = send(&server, "POST /v1/topics/work/records", &json!({"records": [{"value": "0"}]})).await;
    assert_eq!(stored.code, 200, "{}", stored.text());
    let created = send(&server, "POST /v1/topics/work/groups", &json!({"name": "mail"})).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let leased = lease(&server, 10).await;
    assert_eq!(leased["records"][0]["value"], json!("0"));
    let acks = &leased["ranges"];
    let settlement = json!({"settlements": [{"number": 1, "token": leased["token"], "acks": acks}]});
    let settled = settle(&server, &settlement).await;
    assert_eq!(settled.json()["outcomes"][0]["result"], json!("SETTLEMENT_RESULT_SETTLED"));
    assert_eq!(get(&server, "/v1/topics/work/groups/mail").await["status"]["lagRecords"], "0");
}
