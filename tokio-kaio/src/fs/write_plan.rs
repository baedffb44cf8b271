//! [`WritePlan`]: in which pieces a [`FileWriter`](super::FileWriter) writes its bytes.

/// How the bytes of a writer are cut into writes. Whole blocks are written directly. Bytes that cover a block
/// in part are *edges*, which have to keep the rest of the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct WritePlan {
    /// A multiple of the block, in bytes.
    chunk: u64,
    block: u64,
}

/// A piece of the file that one write covers, if the bytes suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The rest of a block. Of this length in bytes.
    Edge(usize),
    /// Whole blocks. Of this length in bytes.
    Blocks(usize),
}

impl WritePlan {
    pub(super) fn new(chunk: u64, block: u64) -> WritePlan {
        let chunk = chunk.max(1).next_multiple_of(block);
        WritePlan { chunk, block }
    }

    /// Returns the piece that begins at offset `at`. Blocks end at a multiple of the chunk.
    pub(super) fn piece(&self, at: u64) -> Piece {
        match at % self.block {
            0 => Piece::Blocks((self.chunk - at % self.chunk) as usize),
            before => Piece::Edge((self.block - before) as usize),
        }
    }

    /// Returns how many of `len` bytes at the start of a block are in whole blocks.
    pub(super) fn whole_blocks(&self, len: usize) -> usize {
        len - len % self.block as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_at_multiples_of_the_chunk() {
        let plan = WritePlan::new(65_536, 4096);
        assert_eq!(plan.piece(0), Piece::Blocks(65_536));
        assert_eq!(plan.piece(4096), Piece::Blocks(61_440));
        assert_eq!(plan.piece(65_536), Piece::Blocks(65_536));
    }

    #[test]
    fn bytes_within_a_block_are_an_edge_up_to_its_end() {
        let plan = WritePlan::new(65_536, 4096);
        assert_eq!(plan.piece(1), Piece::Edge(4095));
        assert_eq!(plan.piece(65_535), Piece::Edge(1));
    }

    #[test]
    fn a_chunk_has_at_least_one_block() {
        assert_eq!(WritePlan::new(0, 4096).piece(0), Piece::Blocks(4096));
        assert_eq!(WritePlan::new(5000, 4096).piece(0), Piece::Blocks(8192));
    }

    #[test]
    fn the_rest_behind_whole_blocks_is_left() {
        let plan = WritePlan::new(65_536, 4096);
        assert_eq!(
            [0, 4095, 4096, 10_000].map(|len| plan.whole_blocks(len)),
            [0, 0, 4096, 8192]
        );
    }
}
