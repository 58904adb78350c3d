//! The definition of the `Log` contract, as tests that every engine must pass. Each engine's tests run every case on
//! a log that they make. No case looks at an engine's own formats, or expects dense offsets, which nobody is promised.

pub mod appending;
mod fixtures;
pub mod forgetting;
pub mod reading;
pub mod request_ids;

pub use fixtures::{Engine, batch, flatten, name, read_all};

/// Gives every case to a macro: each with the module it stands in.
macro_rules! cases {
    ($then:ident $($more:tt)*) => {
        $crate::storage::conformance::$then! { $($more)*
            appending::acknowledged_records_survive_reopening appending::a_refused_batch_refuses_all_later_ones_of_its_appender appending::conditions_name_the_tail appending::batches_of_many_appenders_keep_their_order_and_stay_whole appending::a_hold_is_dropped_although_nobody_waits appending::a_closed_log_refuses
            request_ids::request_ids_survive_reopening request_ids::a_request_id_is_of_one_principal_and_one_content request_ids::request_ids_follow_a_model request_ids::a_duplicate_is_answered_before_its_condition_is_looked_at request_ids::request_ids_are_listed_and_restored
            forgetting::trim_keeps_whole_batches forgetting::a_trim_inside_the_first_batch_forgets_nothing forgetting::limits_of_every_size_are_kept forgetting::retention_by_records_bytes_and_age forgetting::a_recreated_topic_is_another_one
            reading::starts_are_found reading::offsets_between_records_round_up reading::blocks_keep_trace_and_time reading::waiting_ends_with_a_record_or_the_topic reading::topics_are_listed_and_updated
        }
    };
}
pub(crate) use cases;

/// Makes one test of each case. `$engine` makes the engine of one test, and what it returns beside it is held while the
/// test runs.
macro_rules! conformance_tests {
    ($engine:expr) => {
        $crate::storage::conformance::cases! { each_test $engine, }
    };
}
pub(crate) use conformance_tests;

macro_rules! each_test {
    ($engine:expr, $($module:ident::$case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (engine, _held) = $engine.await;
            $crate::storage::conformance::$module::$case(&engine).await;
        })*
    };
}
pub(crate) use each_test;

/// Runs every case on one engine, one after the other: for engines that are costly to start.
pub async fn all(engine: &Engine) {
    cases! { run_each engine, }
}

macro_rules! run_each {
    ($engine:expr, $($module:ident::$case:ident)*) => {
        $(println!(stringify!($case)); $module::$case($engine).await;)*
    };
}
pub(crate) use run_each;
