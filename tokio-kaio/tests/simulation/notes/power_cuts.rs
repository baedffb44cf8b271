use std::cell::Cell;

use tokio_kaio::AioContextBuilder;
use tokio_kaio::simulation::{SimDisk, explore};

/// The number of notes that were acknowledged.
type Acknowledged = Cell<usize>;

fn text(number: usize) -> String {
    format!("note {number}")
}

/// Appends notes until there are five.
async fn workload(disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), Error> {
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let (mut notes, found) = Notes::open(disk.path(), &handle).await?;
    for number in found.len() + 1..=5 {
        notes.append(&text(number)).await?;
        acknowledged.set(number);
    }
    Ok(())
}

/// Every acknowledged note is there, and perhaps the next one. All are as they were written.
async fn verify(disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), Error> {
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let (_, found) = Notes::open(disk.path(), &handle).await?;
    let acknowledged = acknowledged.get();
    let is_whole = |(index, note): (usize, &String)| *note == text(index + 1);
    match found.len() >= acknowledged && found.iter().enumerate().all(is_whole) {
        true => Ok(()),
        false => Err(format!("acknowledged notes: {acknowledged}, found: {found:?}").into()),
    }
}

#[test]
fn acknowledged_notes_survive_power_cuts() {
    explore(0..20, workload, verify).unwrap();
}
