//! [`RunningCopy`]: a run of `kaio cp` in the background.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cp_fixture::{Dir, kaio};

/// A run of `kaio cp` in the background, which is killed when this is dropped.
pub(crate) struct RunningCopy(Child);

impl RunningCopy {
    /// Starts a copy that takes minutes, and waits until it has created its temporary file.
    pub(crate) fn start(dir: &Dir, args: &[&str]) -> RunningCopy {
        let started = RunningCopy::try_start(dir, args, Stdio::piped());
        started.unwrap_or_else(|output| panic!("{args:?} has ended: {output:?}"))
    }

    /// Starts a copy, with its standard error connected to `stderr`, and waits until it has created its temporary
    /// file. `Err`: it has ended before.
    pub(crate) fn try_start(
        dir: &Dir,
        args: &[&str],
        stderr: impl Into<Stdio>,
    ) -> Result<RunningCopy, Output> {
        let before = dir.names().len();
        // The program would inherit ignored signals.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM,HUP");
        command.arg(kaio()).arg("cp").args(args);
        command.current_dir(dir.path()).stderr(stderr);
        let mut copy = RunningCopy(command.spawn().unwrap());
        while dir.names().len() == before {
            if copy.0.try_wait().unwrap().is_some() {
                return Err(copy.output());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(copy)
    }

    /// Sends `signal` to the program.
    pub(crate) fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits until the program has ended. The output has its standard error, if that is a pipe.
    pub(crate) fn output(mut self) -> Output {
        let mut stderr = Vec::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_end(&mut stderr).unwrap();
        }
        Output {
            status: self.0.wait().unwrap(),
            stdout: Vec::new(),
            stderr,
        }
    }
}

impl Drop for RunningCopy {
    fn drop(&mut self) {
        let _ = self.0.kill(); // usually it has ended already
        let _ = self.0.wait();
    }
}
