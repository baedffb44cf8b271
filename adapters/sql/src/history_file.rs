//! The file of the history.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;

/// The file of the history: `kaio-sql/history` in `$XDG_STATE_HOME`, by default `~/.local/state`. Its
/// directory is created.
///
/// # Errors
///
/// There is no home directory, or the directory can't be created.
pub(crate) fn history_file() -> io::Result<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.filter(|path| path.is_absolute()); // as the specification demands
    let state = state.or_else(|| Some(env::home_dir()?.join(".local/state")));
    let dir = match state {
        Some(state) => state.join("kaio-sql"),
        None => {
            return Err(io::Error::other(
                "there is no home directory; set XDG_STATE_HOME",
            ));
        }
    };
    fs::create_dir_all(&dir)?;
    Ok(dir.join("history"))
}
