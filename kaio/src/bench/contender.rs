//! [`Contender`]: an engine, by the name that users of the tool know it by.

use clap::ValueEnum;
use kaio_bench::{Colour, Engine, Prepared, Result, Workload, engines};

/// An engine of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Contender {
    /// tokio-kaio on tokio's multi-threaded runtime, with two workers
    TokioKaio,
    /// tokio-kaio on tokio's current-thread runtime
    TokioKaioCurrentThread,
    /// pread and pwrite by spawn_blocking, on the multi-threaded runtime
    BlockingPool,
    /// tokio::fs: seek, then read or write, on the multi-threaded runtime; always through the page cache
    TokioFs,
    /// io_submit and io_getevents in a loop: the limit of what kernel AIO can do
    BareAio,
    /// io_uring in a loop, without polling and registered buffers
    BareIoUring,
}

impl Contender {
    /// Its name on the command line and in tables.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("none is skipped");
        value.get_name().to_owned()
    }

    /// The name that `kaio-bench` has for it.
    fn measured_as(self) -> &'static str {
        match self {
            Contender::TokioKaio => "kaio/multi-thread",
            Contender::TokioKaioCurrentThread => "kaio/current-thread",
            Contender::BlockingPool => "spawn-blocking/multi-thread",
            Contender::TokioFs => "tokio-fs (buffered)",
            Contender::BareAio => "bare",
            Contender::BareIoUring => "bare-uring",
        }
    }

    /// The colours of its lines on white and on dark ground, such as also those tell apart who see fewer
    /// (after Okabe and Ito).
    pub(super) fn colours(self) -> (Colour, Colour) {
        let colours = |light: [u8; 3], dark: [u8; 3]| {
            let [light, dark] = [light, dark].map(|[red, green, blue]| Colour(red, green, blue));
            (light, dark)
        };
        match self {
            Contender::TokioKaio => colours([0x00, 0x72, 0xb2], [0x3d, 0xa5, 0xe8]),
            Contender::TokioKaioCurrentThread => colours([0x56, 0xb4, 0xe9], [0x9f, 0xd6, 0xf7]),
            Contender::BlockingPool => colours([0xd5, 0x5e, 0x00], [0xf0, 0x7f, 0x2e]),
            Contender::TokioFs => colours([0xe6, 0x9f, 0x00], [0xf2, 0xc1, 0x4e]),
            Contender::BareAio => colours([0x33, 0x33, 0x33], [0xc8, 0xcc, 0xd2]),
            Contender::BareIoUring => colours([0x00, 0x9e, 0x73], [0x2f, 0xc8, 0x9b]),
        }
    }

    /// The engine itself.
    pub(super) fn engine(self) -> Named {
        let name = self.measured_as();
        let engine = engines::all().into_iter().find(|it| it.name() == name);
        Named {
            name: self.name(),
            engine: engine.expect("kaio-bench has it"),
        }
    }
}

/// An engine by another name.
pub(super) struct Named {
    name: String,
    engine: Box<dyn Engine>,
}

impl Engine for Named {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&self, workload: &Workload) -> Result<Box<dyn Prepared>> {
        self.engine.prepare(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_an_engine() {
        for contender in Contender::value_variants() {
            assert_eq!(contender.engine().name(), contender.name());
        }
    }
}
