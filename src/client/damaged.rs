//! The error for a delivery that is damaged.

use super::error::Error;
use crate::record::Offset;
use crate::record::walk::Malformed;

/// Makes the error for malformed bytes of a delivery.
pub(crate) fn damaged(offset: Offset, reason: Malformed) -> Error {
    Error::local(tonic::Code::DataLoss, format!("delivery at offset {offset} is damaged: {reason}"))
}
