//! [`EngineChoice`]: the engines, by their names in this tool.

use clap::ValueEnum;
use kaio_bench::{Colour, Engine, Prepared, Result, Workload, engines};

/// An engine to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineChoice {
    /// tokio-kaio on tokio's multi-threaded runtime, with two workers
    TokioKaio,
    /// tokio-kaio on tokio's current-thread runtime
    TokioKaioCurrentThread,
    /// tokio-kaio on io_uring, on the multi-threaded runtime; skipped if io_uring is not available
    TokioKaioIoUring,
    /// pread and pwrite in spawn_blocking, on the multi-threaded runtime
    BlockingPool,
    /// tokio::fs: seek, then read or write, on the multi-threaded runtime; always through the page cache
    TokioFs,
    /// A loop of io_submit and io_getevents: the upper bound for kernel AIO
    BareAio,
    /// A loop over io_uring, without polling and registered buffers
    BareIoUring,
}

impl EngineChoice {
    /// The name on the command line and in tables.
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_name().to_owned()
    }

    /// The name of the engine in `kaio-bench`.
    fn bench_name(self) -> &'static str {
        match self {
            EngineChoice::TokioKaio => "kaio/multi-thread",
            EngineChoice::TokioKaioCurrentThread => "kaio/current-thread",
            EngineChoice::TokioKaioIoUring => "kaio/multi-thread-uring",
            EngineChoice::BlockingPool => "spawn-blocking/multi-thread",
            EngineChoice::TokioFs => "tokio-fs (buffered)",
            EngineChoice::BareAio => "bare",
            EngineChoice::BareIoUring => "bare-uring",
        }
    }

    /// The largest number of threads that the engine needs at `depth`. With fewer, tokio panics, and the
    /// blocking pool keeps fewer transfers in flight than the depth says.
    pub(super) fn threads(self, depth: u16) -> usize {
        /// The workers of the multi-threaded runtime.
        const WORKERS: usize = 2;
        /// The blocking thread that opens the file.
        const OPEN: usize = 1;
        /// The blocking threads of tokio-kaio on kernel AIO: 8 for offloaded requests.
        const OFFLOAD: usize = 8 + OPEN;
        /// The most blocking threads of a runtime by default.
        const POOL: usize = 512;
        match self {
            EngineChoice::TokioKaio => WORKERS + OFFLOAD,
            EngineChoice::TokioKaioCurrentThread => OFFLOAD,
            EngineChoice::TokioKaioIoUring => WORKERS + OPEN,
            EngineChoice::BlockingPool | EngineChoice::TokioFs => WORKERS + POOL.min(depth.into()),
            EngineChoice::BareAio | EngineChoice::BareIoUring => 0,
        }
    }

    /// The colours of its lines on a light and on a dark background. Colour-blind readers can distinguish
    /// them (palette of Okabe and Ito).
    pub(super) fn colours(self) -> (Colour, Colour) {
        let colours = |light: [u8; 3], dark: [u8; 3]| {
            let [light, dark] = [light, dark].map(|[red, green, blue]| Colour(red, green, blue));
            (light, dark)
        };
        match self {
            EngineChoice::TokioKaio => colours([0x00, 0x72, 0xb2], [0x3d, 0xa5, 0xe8]),
            EngineChoice::TokioKaioCurrentThread => colours([0x56, 0xb4, 0xe9], [0x9f, 0xd6, 0xf7]),
            EngineChoice::TokioKaioIoUring => colours([0xcc, 0x79, 0xa7], [0xe0, 0x9a, 0xc2]),
            EngineChoice::BlockingPool => colours([0xd5, 0x5e, 0x00], [0xf0, 0x7f, 0x2e]),
            EngineChoice::TokioFs => colours([0xe6, 0x9f, 0x00], [0xf2, 0xc1, 0x4e]),
            EngineChoice::BareAio => colours([0x33, 0x33, 0x33], [0xc8, 0xcc, 0xd2]),
            EngineChoice::BareIoUring => colours([0x00, 0x9e, 0x73], [0x2f, 0xc8, 0x9b]),
        }
    }

    /// Creates the engine.
    pub(super) fn engine(self) -> RenamedEngine {
        let name = self.bench_name();
        let engine = engines::all().into_iter().find(|it| it.name() == name);
        RenamedEngine {
            name: self.name(),
            engine: engine.expect("kaio-bench has the engine"),
        }
    }
}

/// An engine under its name in this tool.
pub(super) struct RenamedEngine {
    name: String,
    engine: Box<dyn Engine>,
}

impl Engine for RenamedEngine {
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
    fn every_choice_has_an_engine() {
        for choice in EngineChoice::value_variants() {
            assert_eq!(choice.engine().name(), choice.name());
        }
    }
}
