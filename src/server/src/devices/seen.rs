//! When and from which network a device was last used: at most one write an hour for each, none that anyone waits for.

use std::net::{IpAddr, Ipv6Addr};

use super::Devices;
use crate::{
    database::{Error, Range, Write},
    numbers::{DeviceNumber, UserNumber},
    tables::accounts::{DeviceSeen, DeviceSeenRow, SEEN_SECONDS_MAX},
};

/// How finely the time is kept, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

impl Devices {
    /// Notes that a device was used; cheap, and waits for nothing.
    pub fn saw(&self, user: UserNumber, device: DeviceNumber, address: Option<IpAddr>) {
        if !self.0.last_seen {
            return;
        }
        let now_ms = self.0.clock.now_ms();
        let hour = now_ms.checked_div(HOUR_MS).unwrap_or_default();
        if self.0.seen_hours.get(&device) == Some(hour) {
            return;
        }
        self.0.seen_hours.insert(device, hour);
        let row = DeviceSeenRow { seen_ms: hour.saturating_mul(HOUR_MS), network: address.map(network_of) };
        let mut write = Write::new();
        // Not for one that is being deleted.
        write.exists::<super::DeviceTable>(&(user, device));
        write.put::<DeviceSeen>(&(user, device), &row);
        // Losing it does no harm: it is not waited for.
        drop(self.0.database.submit(write));
    }

    /// When and where the devices of a user were last used, as far as it is kept.
    pub async fn last_seen(&self, user: UserNumber) -> Result<Vec<(DeviceNumber, DeviceSeenRow)>, Error> {
        let oldest_ms = self.oldest_ms();
        let rows = self.0.database.scan_all(Range::<DeviceSeen>::prefix(&user)).await?;
        Ok(rows
            .into_iter()
            .filter(|(_, row)| row.seen_ms >= oldest_ms)
            .map(|((_, device), row)| (device, row))
            .collect())
    }

    fn oldest_ms(&self) -> u64 {
        self.0.clock.now_ms().saturating_sub(SEEN_SECONDS_MAX.saturating_mul(1000))
    }
}

/// The network that an address is in: /24 for IPv4, /48 for IPv6.
fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0")
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_network_of_an_address_is_kept() {
        for (address, network) in [
            ("203.0.113.77", "203.0.113.0"),
            ("::ffff:203.0.113.77", "203.0.113.0"),
            ("2001:db8:1234:5678::9", "2001:db8:1234::"),
            ("::1", "::"),
        ] {
            assert_eq!(network_of(address.parse().unwrap()), network);
        }
    }
}
