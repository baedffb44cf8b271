//! [`ParquetOptions`]: the form of the files.

use std::fmt;
use std::str::FromStr;

use datafusion::parquet::basic::{Compression, ZstdLevel};

/// The form of the Parquet files of a data set.
///
/// The default is one file a table with row groups of 256 Ki rows, compressed with Zstandard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParquetOptions {
    codec: Codec,
    row_group_rows: usize,
    files: u32,
}

/// How the pages of Parquet files are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard, at its default level: small files.
    Zstd,
    /// Snappy: larger files, which take less time to decompress.
    Snappy,
    /// Not at all.
    Uncompressed,
}

impl Default for ParquetOptions {
    fn default() -> ParquetOptions {
        ParquetOptions {
            codec: Codec::Zstd,
            row_group_rows: 256 << 10,
            files: 1,
        }
    }
}

impl ParquetOptions {
    /// Compresses with `codec`. The default is [`Codec::Zstd`].
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> ParquetOptions {
        self.codec = codec;
        self
    }

    /// Ends each row group after this number of rows. The default is 256 Ki.
    ///
    /// # Panics
    ///
    /// If `rows` is 0.
    #[must_use]
    pub fn with_row_group_rows(mut self, rows: usize) -> ParquetOptions {
        assert!(rows > 0, "a row group has at least one row");
        self.row_group_rows = rows;
        self
    }

    /// Writes each table, except `nation` and `region`, as this number of files. The default is 1.
    ///
    /// # Panics
    ///
    /// If `files` is 0.
    #[must_use]
    pub fn with_files(mut self, files: u32) -> ParquetOptions {
        assert!(files > 0, "a table has at least one file");
        self.files = files;
        self
    }

    pub(crate) fn compression(&self) -> Compression {
        match self.codec {
            Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
            Codec::Snappy => Compression::SNAPPY,
            Codec::Uncompressed => Compression::UNCOMPRESSED,
        }
    }

    pub(crate) fn row_group_rows(&self) -> usize {
        self.row_group_rows
    }

    pub(crate) fn files_of(&self, table: &str) -> u32 {
        match table {
            "nation" | "region" => 1,
            _ => self.files,
        }
    }
}

/// As in the name of a data set: `zstd-262144-1`.
impl fmt::Display for ParquetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.codec, self.row_group_rows, self.files)
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Zstd => "zstd",
            Codec::Snappy => "snappy",
            Codec::Uncompressed => "none",
        })
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(name: &str) -> Result<Codec, String> {
        let all = [Codec::Zstd, Codec::Snappy, Codec::Uncompressed];
        let found = all.into_iter().find(|codec| codec.to_string() == name);
        found.ok_or_else(|| format!("no such compression: {name:?}; use zstd, snappy or none"))
    }
}
