//! The pair `group`: a read by a handle without a group, with a group, and with a group that has limits which
//! it does not reach.

use tokio_kaio::{AioContextHandle, AlignedBuf, IoGroup, ReadFlags};

use super::variant::{Fixture, Variant};
use crate::{Result, TransferGenerator};

/// A handle and a buffer.
struct Reader {
    handle: AioContextHandle,
    buffer: AlignedBuf,
}

impl Reader {
    fn new(fixture: &Fixture, group: Option<IoGroup>) -> Result<Reader> {
        Ok(Reader {
            handle: match group {
                Some(group) => fixture.handle.with_group(&group),
                None => fixture.handle.clone(),
            },
            buffer: AlignedBuf::new(fixture.block)?,
        })
    }

    async fn read(&mut self, fixture: &Fixture, generator: &mut TransferGenerator) -> Result<()> {
        let offset = generator.next_transfer().offset;
        let (len, flags) = (fixture.block as u64, ReadFlags::empty());
        let buffer = &mut self.buffer;
        let read = fixture
            .file
            .read_at(&self.handle, offset, buffer, len, flags);
        Fixture::check(read.await, fixture.block)
    }
}

macro_rules! variant {
    ($(#[$doc:meta])* $name:ident, $in_tables:literal, $group:expr) => {
        $(#[$doc])*
        pub(super) struct $name(Reader);

        impl Variant for $name {
            const NAME: &'static str = $in_tables;

            fn new(fixture: &Fixture) -> Result<$name> {
                Ok($name(Reader::new(fixture, $group)?))
            }

            async fn iterate(
                &mut self,
                fixture: &Fixture,
                generator: &mut TransferGenerator,
            ) -> Result<()> {
                self.0.read(fixture, generator).await
            }
        }
    };
}

variant!(
    /// Without a group.
    Ungrouped,
    "ungrouped",
    None
);
variant!(
    /// With a group.
    Grouped,
    "grouped",
    Some(IoGroup::new("grouped"))
);
variant!(
    /// With a group that has limits.
    Limited,
    "limited",
    Some(
        IoGroup::new("limited")
            .with_max_bandwidth(1 << 50)
            .with_max_iops(1 << 40)
    )
);
