use std::cell::RefCell;

use tokio_kaio::AioContextBuilder;
use tokio_kaio::simulation::{SimDisk, explore};

/// The notes that were acknowledged.
type Acknowledged = RefCell<Vec<String>>;

async fn workload(disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), Error> {
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let (mut notes, _) = Notes::open(disk.path(), &handle).await?;
    for number in 1..=5 {
        let text = format!("note {number}");
        notes.append(&text).await?;
        acknowledged.borrow_mut().push(text);
    }
    Ok(())
}

async fn verify(disk: SimDisk, acknowledged: &Acknowledged) -> Result<(), Error> {
    let (_context, handle) = AioContextBuilder::new(8).simulated(&disk).build()?;
    let (_, found) = Notes::open(disk.path(), &handle).await?;
    let acknowledged = acknowledged.borrow();
    match found.starts_with(&acknowledged) {
        true => Ok(()),
        false => Err(format!("acknowledged {acknowledged:?}, found {found:?}").into()),
    }
}

#[test]
fn acknowledged_notes_survive_power_cuts() {
    explore(0..20, workload, verify).unwrap();
}
