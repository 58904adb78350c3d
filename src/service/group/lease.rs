//! Lease and Settle: records for a client that holds no call open.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tonic::{Request, Status};

use super::super::request as requests;
use super::super::status::Error;
use super::answers;
use super::calls::{GroupCalls, refused};
use super::request::{self, RANGES_MAX};
use crate::auth::{self, Caller};
use crate::group::logic::Outcome;
use crate::group::{self, LeaseOnce, Token};
use crate::proto::v1;
use crate::wire::LeaseResponse;

/// Longest wait for records.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Most records of an answer.
const RECORDS_MAX: u32 = 1000;
/// Most bytes of an answer where the client names no limit, and the most that it may ask for.
const BYTES: u64 = 1 << 20;

/// Answers Lease.
pub(crate) async fn lease(
    calls: Arc<GroupCalls>,
    request: Request<v1::LeaseRequest>,
) -> Result<LeaseResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let asked = request.into_inner();
    let leased = async {
        let lease = checked(&asked, &caller)?;
        // Counts as a subscription while it waits.
        let _subscribed = caller.subscribe().map_err(auth::Error::from)?;
        Ok(calls.groups.lease(lease).await?)
    };
    let leased = leased.await.map_err(refused(&asked.topic, &asked.group))?;
    let lease = |leased| answers::lease(leased, &asked.topic, &asked.group);
    Ok(LeaseResponse { leases: leased.into_iter().map(lease).collect() })
}

fn checked(asked: &v1::LeaseRequest, caller: &Caller) -> Result<LeaseOnce, Error> {
    let (topic, group) = request::names(("topic", &asked.topic), ("group", &asked.group))?;
    request::member("member", &asked.member)?;
    if asked.max_records > RECORDS_MAX {
        return Err(Error::field("max_records", "must be at most 1,000"));
    }
    let wait = asked.wait.as_ref().map_or(Ok(Duration::ZERO), |wait| requests::duration("wait", wait))?;
    if wait > WAIT_MAX {
        return Err(Error::field("wait", "must be at most 60 s"));
    }
    caller.permit_consume(topic.as_str(), group.as_str())?;
    let bytes = if asked.max_bytes == 0 { BYTES } else { asked.max_bytes.min(BYTES) };
    let records = u64::from(asked.max_records.max(1));
    Ok(LeaseOnce { topic, group, records, bytes, wait })
}

/// Answers Settle.
pub(crate) async fn settle(
    calls: Arc<GroupCalls>,
    request: Request<v1::SettleRequest>,
) -> Result<v1::SettleResponse, Status> {
    let caller = calls.caller(request.extensions())?;
    let asked = request.into_inner();
    settled(&calls, &caller, asked).await.map_err(refused("", ""))
}

async fn settled(
    calls: &GroupCalls,
    caller: &Caller,
    asked: v1::SettleRequest,
) -> Result<v1::SettleResponse, Error> {
    for (field, count) in [("settlements", asked.settlements.len()), ("extensions", asked.extensions.len())] {
        if count > RANGES_MAX {
            return Err(Error::field(field, format!("more than {RANGES_MAX}")));
        }
    }
    // All are checked before the first takes effect.
    let mut settlements = Vec::with_capacity(asked.settlements.len());
    for settlement in asked.settlements {
        let settled = request::settlement(settlement, "settlements.")?;
        permit(caller, &settled.token)?;
        settlements.push(settled);
    }
    let ranges: usize = settlements.iter().map(|settled| settled.settlement.acts.len()).sum();
    if ranges > RANGES_MAX {
        return Err(Error::field("settlements", format!("name more than {RANGES_MAX} ranges")));
    }
    let mut extensions = Vec::with_capacity(asked.extensions.len());
    for extend in &asked.extensions {
        let extended = request::extend(extend, "extensions.")?;
        permit(caller, &extended.token)?;
        extensions.push(extended);
    }
    let outcomes = settlements.into_iter().map(|settled| async move {
        let spans: Vec<_> = settled.settlement.acts.iter().map(|(span, _)| *span).collect();
        let outcomes = match calls.groups.settle(settled.token, settled.settlement).await {
            Ok(outcomes) => outcomes,
            // Its group was deleted: nobody holds it any more.
            Err(group::Error::NotFound) => spans.into_iter().map(|span| (span, Outcome::LeaseLost)).collect(),
            Err(error) => return Err(Error::from(error)),
        };
        Ok(answers::outcomes(settled.number, &outcomes).collect::<Vec<_>>())
    });
    let outcomes = try_join_all(outcomes).await?.into_iter().flatten().collect();
    let extensions = extensions.into_iter().map(|extended| async move {
        match calls.groups.extend(extended.token, extended.time).await {
            Ok(left) => Ok(answers::extension(extended.number, left)),
            Err(group::Error::NotFound) => Ok(answers::extension(extended.number, None)),
            Err(error) => Err(Error::from(error)),
        }
    });
    Ok(v1::SettleResponse { outcomes, extensions: try_join_all(extensions).await? })
}

/// Checks that the caller may use the group of a token.
fn permit(caller: &Caller, token: &Token) -> Result<(), Error> {
    Ok(caller.permit_consume(token.topic.as_str(), token.group.as_str())?)
}
