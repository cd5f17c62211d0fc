//! Numbers of devices. A device's row goes when it is deleted, so the highest number is kept apart: no number is ever
//! given to two devices, not even after a restart.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Mutex;

use crate::{
    database::{Database, Error, Write},
    numbers::{Counter, DeviceNumber},
    tables::accounts::{NumbersReserved, NumbersReservedRow},
};

/// Numbers reserved in one commit; a restart loses at most so many.
const RESERVED_AT_ONCE: u32 = 1000;
/// The key of device numbers in [`NumbersReserved`].
const DEVICES: u8 = 1;

/// Gives out device numbers.
#[derive(Debug)]
pub(super) struct DeviceNumbers {
    database: Database,
    next: Counter,
    reserved: AtomicU32,
    turn: Mutex<()>,
}

impl DeviceNumbers {
    /// Reads where the numbers stand.
    pub(super) async fn open(database: Database) -> Result<Self, Error> {
        let row = database.get::<NumbersReserved>(&DEVICES).await?;
        let reserved = row.map_or(0, |row| row.highest);
        Ok(Self {
            database,
            next: Counter::after(Some(reserved)),
            reserved: AtomicU32::new(reserved),
            turn: Mutex::new(()),
        })
    }

    /// The next number.
    pub(super) async fn next(&self) -> Result<DeviceNumber, Error> {
        let number = self.next.next();
        if number > self.reserved.load(Ordering::Acquire) {
            let _turn = self.turn.lock().await;
            if number > self.reserved.load(Ordering::Acquire) {
                let highest = number.saturating_add(RESERVED_AT_ONCE);
                let mut write = Write::new();
                write.put::<NumbersReserved>(&DEVICES, &NumbersReservedRow { highest });
                self.database.commit(write).await?;
                self.reserved.store(highest, Ordering::Release);
            }
        }
        Ok(DeviceNumber(number))
    }
}
