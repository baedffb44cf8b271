//! Files whose length is not what they say, as those of procfs and sysfs: they are read from the
//! start until they end.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;

use xxhash_rust::xxh3::xxh3_64;

use super::args::PAGE;
use super::blocking;
use super::session::Session;
use super::source::Source;
use super::target::Target;
use super::transfer::{self, Moved};
use super::trouble::Trouble;
use super::verify::Check;

/// Moves all that can be read. The target has the length of that then.
pub(super) async fn transfer(
    session: &Session<'_>,
    source: &Source,
    target: &Target,
) -> Result<Moved, Trouble> {
    let size = session.piece(source.grain.max(target.grain).max(PAGE))?;
    let mut moved = Moved::default();
    let mut buffer = session.lanes.buffer().await;
    let duplicate = source.file.as_fd().try_clone_to_owned();
    let duplicate = duplicate.map_err(|error| Trouble::of("open", &source.path, &error))?;
    let mut file = fs::File::from(duplicate);
    // Looking for holes has moved the position, where there is one to be moved.
    let _ = file.rewind();
    let mut reader = Reader {
        file,
        bytes: vec![0; size as usize],
    };
    loop {
        let at = moved.length;
        let read = if source.file.is_direct() {
            let piece = at..at + size;
            let read = transfer::fill(session, &source.file, source.grain, &piece, &mut buffer);
            let read = read.await;
            read.map_err(|error| Trouble::at("read", &source.path, at, &error))?
        } else {
            let filled = blocking(move || reader.fill()).await;
            let (read, back) = filled.map_err(|error| Trouble::of("read", &source.path, &error))?;
            reader = back;
            buffer[..read].copy_from_slice(&reader.bytes[..read]);
            read as u64
        };
        session.limited(read).await;
        if read > 0 {
            let piece = at..at + read;
            if session.args.verify {
                let sum = xxh3_64(&buffer[..read as usize]);
                moved.checks.push(Check::new(piece, sum));
            }
            transfer::write(session, target, at, &mut buffer, 0..read as usize).await?;
            session.talk.moved(read);
        }
        moved.length += read;
        moved.written += read;
        if read < size {
            break;
        }
    }
    transfer::end_at(target, moved.length).await?;
    Ok(moved)
}

/// Ordinary reads, for files that have no others.
#[derive(Debug)]
struct Reader {
    file: fs::File,
    bytes: Vec<u8>,
}

impl Reader {
    /// Reads until the bytes are full, or the file ends.
    fn fill(mut self) -> io::Result<(usize, Reader)> {
        let mut filled = 0;
        while filled < self.bytes.len() {
            match self.file.read(&mut self.bytes[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((filled, self))
    }
}
