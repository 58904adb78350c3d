//! Groups in backups: a restored topic has its groups, which go on from where they were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use streamway::proto::v1::{
    DeleteGroupRequest, DeleteTopicRequest, DeliveryOrder, Group, GroupSettings, LeaseRequest,
    OffsetNumbering, PoisonPolicy, Record, RestoreGroupRequest, RestoreTopicRequest, RestoredFrom,
    SaveGroupsRequest, SavedGroup, Settlement, SettlementResult,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Code, Request, Status};

use crate::harness::identities::{Setup, bearer, rule};
use crate::harness::make::{published, record, records};
use crate::harness::member::{Member, create, get, groups, join, only};
use crate::harness::{Server, read_all, refused, within};

const TOPIC: &str = "orders";

async fn streamway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamway"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn copy(from: &str, to: &str) -> String {
    let output = streamway(&["copy", from, to]).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

async fn delete(server: &Server) {
    let request = DeleteTopicRequest { name: TOPIC.into(), ..DeleteTopicRequest::default() };
    server.topics().await.delete_topic(request).await.unwrap();
}

fn keyed(prefix: &str, count: usize) -> Vec<Record> {
    (0..count)
        .map(|n| Record { key: format!("k{}", n % 3).into(), ..record(format!("{prefix}{n}")) })
        .collect()
}

/// A topic of 12 records with three groups at different places, each held by a member that is still there.
async fn at_work(server: &Server) -> Vec<Member> {
    published(&mut server.client().await, TOPIC, keyed("old", 12)).await;
    let keys = GroupSettings {
        order: DeliveryOrder::Key.into(),
        poison: PoisonPolicy::ParkKey.into(),
        deliveries_max: 1,
        ..GroupSettings::default()
    };
    create(server, TOPIC, "any", GroupSettings::default()).await;
    create(server, TOPIC, "keys", keys).await;
    create(server, TOPIC, "untouched", GroupSettings::default()).await;
    let mut any = Member::open(server, TOPIC, "any", 12).await;
    let taken = any.take(12).await;
    any.ack(&taken[..4]).await;
    any.ack(&taken[6..8]).await;
    any.nack(&taken[5], Some(60_000), "later").await;
    // The key of record 1 is set aside with all its records: 1, 4, 7 and 10.
    let mut keys = Member::open(server, TOPIC, "keys", 12).await;
    let taken = keys.take(12).await;
    keys.nack(&taken[1], None, "bad").await;
    keys.ack(&[taken[0].clone(), taken[2].clone()]).await;
    parked(server, 4).await;
    vec![any, keys]
}

/// Waits until so many records of the group in order are set aside.
async fn parked(server: &Server, records: u64) {
    within(20, "parked records", async {
        while get(server, TOPIC, "keys").await.status.unwrap().parked_records < records {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn offsets(taken: &[crate::harness::member::Taken]) -> Vec<u64> {
    taken.iter().map(|one| one.offset).collect()
}

/// P11, P12, P13 over a backup, the deletion of the topic and a restore.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_go_on_after_a_restore_where_their_backup_was() {
    let (mut server, dir) = (Server::start().await, TempDir::new().unwrap());
    let mut members = at_work(&server).await;
    let (before, file) = (get(&server, TOPIC, "any").await, path(&dir, "orders.backup"));
    copy(&server.url(), &file).await;
    // What happens after the backup is gone with the topic.
    published(&mut server.client().await, TOPIC, keyed("late", 5)).await;
    members[0].credit(100).await;
    let late = members[0].take(5).await;
    members[0].ack(&late).await;
    let highest = late.iter().map(|one| one.fence).max().unwrap();
    delete(&server).await;
    for member in &mut members {
        assert_eq!(member.failure().await.code(), Code::NotFound);
    }
    copy(&file, &server.url()).await;

    let after = get(&server, TOPIC, "any").await;
    assert!(after.id == before.id && after.topic_epoch != before.topic_epoch);
    assert_eq!(after.settings, before.settings);
    let status = after.status.unwrap();
    assert_eq!((status.lag_records, status.oldest_unsettled_offset), (6, 4), "{status:?}");
    assert_eq!(get(&server, TOPIC, "untouched").await.status.unwrap().lag_records, 12);
    // Records at offsets that were settled in the deleted topic are new ones.
    published(&mut server.client().await, TOPIC, keyed("new", 5)).await;
    let mut any = Member::open(&server, TOPIC, "any", 100).await;
    let taken = any.take(10).await;
    assert_eq!(offsets(&taken), [4, 8, 9, 10, 11, 12, 13, 14, 15, 16], "5 waits for its delay");
    assert!(taken[5..].iter().all(|one| one.text().starts_with("new")), "{taken:?}");
    assert!(taken.iter().all(|one| one.fence > highest), "fences go on rising");
    // A token of before the restore settles nothing, though its group and offset are there again.
    let late = Settlement { token: late[0].token.clone(), acks: vec![only(12)], ..Settlement::default() };
    let number = any.settle(late).await;
    assert_eq!(any.results(number, 1).await, [SettlementResult::LeaseLost]);
    any.ack(&taken).await;

    let mut keys = Member::open(&server, TOPIC, "keys", 100).await;
    let taken = keys.take(9).await;
    let mut found = offsets(&taken);
    found.sort_unstable();
    assert_eq!(found, [3, 5, 6, 8, 9, 11, 12, 14, 15], "the key that is set aside stays so");
    parked(&server, 6).await;

    // The same restore again changes nothing, and neither does a restart.
    assert!(copy(&file, &server.url()).await.contains("copied 0 records"));
    server.kill9().await;
    server.restart().await;
    let status = get(&server, TOPIC, "any").await.status.unwrap();
    assert_eq!((status.lag_records, status.oldest_unsettled_offset), (1, 5), "{status:?}");
}

/// Fences rise over a move to another server, whatever the old one did after the backup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_on_a_new_server_are_higher_than_those_of_the_old_one() {
    let (mut old, dir) = (Server::start().await, TempDir::new().unwrap());
    published(&mut old.client().await, TOPIC, records("r", 3)).await;
    create(&old, TOPIC, "any", GroupSettings::default()).await;
    let file = path(&dir, "orders.backup");
    let mut highest = 0;
    for round in 0..4 {
        old.kill9().await;
        old.restart().await;
        let mut member = Member::open(&old, TOPIC, "any", 3).await;
        highest = member.take(3).await.iter().map(|one| one.fence).max().unwrap();
        if round == 0 {
            copy(&old.url(), &file).await;
        }
    }
    let new = Server::start().await;
    copy(&file, &new.url()).await;
    let mut member = Member::open(&new, TOPIC, "any", 3).await;
    let taken = member.take(3).await;
    assert!(taken.iter().all(|one| one.fence > highest), "{taken:?} {highest}");
    member.ack(&taken).await;
    // And over a second move.
    let (second, third) = (path(&dir, "second.backup"), Server::start().await);
    copy(&new.url(), &second).await;
    copy(&second, &third.url()).await;
    published(&mut third.client().await, TOPIC, records("s", 1)).await;
    let mut member = Member::open(&third, TOPIC, "any", 3).await;
    assert!(member.take(1).await[0].fence > taken[2].fence);
}

/// Works until it is aborted, and notes what was confirmed.
async fn work(mut member: Member, confirmed: watch::Sender<BTreeSet<u64>>) {
    loop {
        let taken = member.take(1).await;
        member.ack(&taken).await;
        confirmed.send_modify(|confirmed| {
            confirmed.insert(taken[0].offset);
        });
    }
}

/// P11 and P12: a backup is made while publishers and members work. After the restore, no record comes again that was
/// confirmed before the backup began, and every one comes that was never confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_loses_no_record() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    published(&mut server.client().await, TOPIC, keyed("first", 20)).await;
    let orders =
        [("none", DeliveryOrder::None), ("key", DeliveryOrder::Key), ("total", DeliveryOrder::Total)];
    let (mut tasks, mut confirmed) = (tokio::task::JoinSet::new(), BTreeMap::new());
    for (name, order) in orders {
        create(&server, TOPIC, name, GroupSettings { order: order.into(), ..GroupSettings::default() }).await;
        let (sender, seen) = watch::channel(BTreeSet::new());
        tasks.spawn(work(Member::open(&server, TOPIC, name, 50).await, sender));
        confirmed.insert(name, seen);
    }
    let mut client = server.client().await;
    tasks.spawn(async move {
        loop {
            published(&mut client, TOPIC, keyed("more", 20)).await;
        }
    });
    for seen in confirmed.values_mut() {
        within(60, "work", seen.wait_for(|confirmed| confirmed.len() >= 100)).await.unwrap();
    }
    let before: BTreeMap<_, _> =
        confirmed.iter().map(|(name, seen)| (*name, seen.borrow().clone())).collect();
    let file = path(&dir, "orders.backup");
    copy(&server.url(), &file).await;
    for (name, seen) in &mut confirmed {
        let more = before[name].len() + 20;
        within(60, "work", seen.wait_for(|confirmed| confirmed.len() >= more)).await.unwrap();
    }
    tasks.shutdown().await;
    delete(&server).await;
    copy(&file, &server.url()).await;
    let topic = read_all(&mut server.client().await, TOPIC).await;
    for (name, _) in orders {
        let lag = get(&server, TOPIC, name).await.status.unwrap().lag_records;
        let mut member = Member::open(&server, TOPIC, name, 1_000_000).await;
        let again: BTreeSet<u64> = member.take(lag as usize).await.iter().map(|one| one.offset).collect();
        assert!(again.is_disjoint(&before[name]), "{name}: P12");
        let ever = confirmed[name].borrow().clone();
        let lost = topic.iter().map(|seen| seen.offset).find(|at| !again.contains(at) && !ever.contains(at));
        assert_eq!(lost, None, "{name}: P11");
    }
}

/// Frames of a backup: kind and body.
fn frames(file: &[u8]) -> Vec<(u32, &[u8])> {
    let (mut frames, mut rest) = (Vec::new(), &file[24..]);
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let end = 12 + word(0) as usize;
        frames.push((word(4), &rest[12..end]));
        rest = &rest[end..];
    }
    frames
}

/// Writes a backup of a version.
fn write(path: &str, version: u32, frames: &[(u32, &[u8])]) {
    let mut file = b"streamway-backup".to_vec();
    file.extend(version.to_le_bytes());
    let mut chain = crc32c::crc32c(&file);
    file.extend(chain.to_le_bytes());
    for (kind, body) in frames {
        let head = [(body.len() as u32).to_le_bytes(), kind.to_le_bytes()].concat();
        chain = crc32c::crc32c_append(crc32c::crc32c_append(chain, &head), body);
        file.extend(head);
        file.extend(chain.to_le_bytes());
        file.extend(*body);
    }
    std::fs::write(path, file).unwrap();
}

const GROUP_FRAME: u32 = 6;

/// A backup without groups, as earlier versions wrote it, is restored; and one that was interrupted among the groups of a
/// topic begins that topic anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_and_interrupted_backups_are_taken() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    let _members = at_work(&server).await;
    let [file, old, cut] = ["new", "old", "cut"].map(|name| path(&dir, name));
    copy(&server.url(), &file).await;
    let checked = streamway(&["check", &file]).await;
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && said.contains("3 groups") && said.contains("untouched"), "{said}");
    let bytes = std::fs::read(&file).unwrap();
    let all = frames(&bytes);
    assert_eq!(all.iter().filter(|(kind, _)| *kind == GROUP_FRAME).count(), 3);

    let without: Vec<_> = all.iter().copied().filter(|(kind, _)| *kind != GROUP_FRAME).collect();
    write(&old, 2, &without);
    let other = Server::start().await;
    copy(&old, &other.url()).await;
    assert_eq!(read_all(&mut other.client().await, TOPIC).await.len(), 12);

    let second = all.iter().position(|(kind, _)| *kind == GROUP_FRAME).unwrap() + 2;
    write(&format!("{cut}.partial"), 3, &all[..second]);
    copy(&server.url(), &cut).await;
    let bytes = std::fs::read(&cut).unwrap();
    assert_eq!(frames(&bytes).iter().filter(|(kind, _)| *kind == GROUP_FRAME).count(), 3);
    // Groups come before the records that they are about.
    write(&old, 3, &[&without[..2], &all[1..2], &without[2..]].concat());
    let checked = streamway(&["check", &old]).await;
    assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    assert!(!Path::new(&format!("{cut}.partial")).exists());
}

async fn save(server: &Server, name: &str) -> Result<Vec<SavedGroup>, Status> {
    let request = SaveGroupsRequest { topic: TOPIC.into() };
    let mut answers = groups(server).await.save_groups(as_of(name, request)).await?.into_inner();
    let mut parts = Vec::new();
    while let Some(answer) = answers.message().await? {
        parts.extend(answer.part);
    }
    Ok(parts)
}

fn as_of<T>(name: &str, message: T) -> Request<T> {
    if name.is_empty() { Request::new(message) } else { bearer(&format!("{name}-secret"), message) }
}

async fn restore(server: &Server, name: &str, parts: &[SavedGroup]) -> Result<Group, Status> {
    let requests: Vec<_> =
        parts.iter().map(|part| RestoreGroupRequest { part: Some(part.clone()) }).collect();
    let request = as_of(name, tokio_stream::iter(requests));
    Ok(groups(server).await.restore_group(request).await?.into_inner().group.unwrap())
}

/// P9 for the two calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_restored_only_where_they_belong() {
    let policy = rule(r#"["ops"]"#, r#"["orders"]"#, r#"["publish", "admin", "subscribe"]"#)
        + &rule(r#"["reader"]"#, r#"["orders"]"#, r#"["subscribe"]"#)
        + &rule(r#"["publisher"]"#, r#"["orders"]"#, r#"["publish"]"#);
    let setup = Setup::new(&["ops", "reader", "publisher"], &policy);
    let guarded = setup.start(&[]).await;
    let server = Server::start().await;
    let _members = at_work(&server).await;
    let parts = save(&server, "").await.unwrap();
    assert_eq!(parts.len(), 3);
    let one = parts[..1].to_vec();
    for name in ["reader", "publisher"] {
        let denied = restore(&guarded, name, &one).await.unwrap_err();
        refused(&denied, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    refused(&save(&guarded, "publisher").await.unwrap_err(), Code::PermissionDenied, "PERMISSION_DENIED");
    refused(&restore(&guarded, "ops", &one).await.unwrap_err(), Code::NotFound, "TOPIC_NOT_FOUND");
    // The topic is there, and was not restored.
    refused(&restore(&server, "", &one).await.unwrap_err(), Code::FailedPrecondition, "EPOCH_CHANGED");

    // A topic of which nothing is stored yet: its groups are there, and nobody works with them.
    let partial = Server::start().await;
    let cut = RestoredFrom { epoch: one[0].group.as_ref().unwrap().topic_epoch.clone(), cut: 12 };
    let request = RestoreTopicRequest {
        name: TOPIC.into(),
        restored_from: vec![cut],
        numbering: OffsetNumbering::Dense.into(),
        ..RestoreTopicRequest::default()
    };
    partial.topics().await.restore_topic(request).await.unwrap();
    restore(&partial, "", &one).await.unwrap();
    let refusal = Member::join(&partial, join(TOPIC, "any")).await.err().unwrap();
    refused(&refusal, Code::Unavailable, "TOPIC_RESTORING");
    let lease = LeaseRequest { topic: TOPIC.into(), group: "any".into(), ..LeaseRequest::default() };
    let refusal = groups(&partial).await.lease(lease).await.unwrap_err();
    refused(&refusal, Code::Unavailable, "TOPIC_RESTORING");

    let (dir, file) = (TempDir::new().unwrap(), "orders.backup");
    copy(&server.url(), &path(&dir, file)).await;
    let other = Server::start().await;
    copy(&path(&dir, file), &other.url()).await;
    let restored = restore(&other, "", &one).await.unwrap();
    assert_eq!(restored.id, one[0].group.as_ref().unwrap().id, "again");
    let request = DeleteGroupRequest { topic: TOPIC.into(), name: "any".into(), id: String::new() };
    groups(&other).await.delete_group(request).await.unwrap();
    create(&other, TOPIC, "any", GroupSettings::default()).await;
    refused(&restore(&other, "", &one).await.unwrap_err(), Code::AlreadyExists, "GROUP_EXISTS");

    let change = |change: &dyn Fn(&mut SavedGroup)| {
        let mut part = one[0].clone();
        change(&mut part);
        vec![part]
    };
    let bad = [
        Vec::new(),
        change(&|part| part.group = None),
        change(&|part| part.group.as_mut().unwrap().id.clear()),
        change(&|part| part.group.as_mut().unwrap().name = "keys".into()),
        change(&|part| part.state.clear()),
        change(&|part| part.state = part.state.slice(..part.state.len() - 1)),
        change(&|part| part.state = [&[99], &part.state[1..]].concat().into()),
        // 2000: members may have got more fences since than there are.
        change(&|part| part.save_time = Some(prost_types::Timestamp { seconds: 946_684_800, nanos: 0 })),
        change(&|part| part.save_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })),
        parts.clone(),
    ];
    for parts in bad {
        let status = restore(&other, "", &parts).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    assert_eq!(get(&other, TOPIC, "any").await.status.unwrap().lag_records, 12, "unchanged");
}
