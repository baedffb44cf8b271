//! [`RowDigest`]: compares the rows of two answers.

use datafusion::arrow::array::RecordBatch;
use datafusion::common::hash_utils::{RandomState, create_hashes};

use crate::Result;

/// The number of rows, and the sum of their hashes: the same for the same rows in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowDigest {
    pub(crate) rows: u64,
    hash: u64,
}

impl RowDigest {
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let mut hashes = vec![0; batch.num_rows()];
        create_hashes(batch.columns(), &RandomState::with_seed(0), &mut hashes)?;
        self.hash = hashes.into_iter().fold(self.hash, u64::wrapping_add);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn digest(batches: &[&[i64]]) -> RowDigest {
        let mut digest = RowDigest::default();
        for values in batches {
            let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
            let batch = RecordBatch::try_from_iter([("value", column)]).unwrap();
            digest.add(&batch).unwrap();
        }
        digest
    }

    #[test]
    fn a_digest_depends_on_rows_but_not_on_their_order() {
        assert_eq!(digest(&[&[1, 2], &[3]]), digest(&[&[3, 1, 2]]));
        assert_ne!(digest(&[&[1, 2]]), digest(&[&[1, 3]]));
        assert_ne!(digest(&[&[1]]), digest(&[&[1, 1]]));
    }
}
