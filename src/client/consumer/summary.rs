//! Counts of what a consumer did.

/// Numbers of records, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records that were handled, and whose acknowledgement is durable.
    pub acknowledged: u64,
    /// Failed deliveries: the group leases these records again.
    pub refused: u64,
    /// Records that were given up.
    pub dead_lettered: u64,
    /// Records that were given back before their handling began.
    pub returned: u64,
    /// Records whose lease was lost during their handling. Its result was dropped, and they are leased again.
    pub lost: u64,
}
