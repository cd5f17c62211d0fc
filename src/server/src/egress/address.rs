//! Which addresses requests may go to: public ones, and the private ranges that the configuration names.
//!
//! An IPv4 address within an IPv6 one (mapped, translated, tunnelled) counts as what it is (CVE-2021-21392).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Network;

/// IPv4 ranges that are not hosts of the public Internet (RFC 6890 and its registry): first address, length of prefix.
const SPECIAL_V4: [([u8; 4], u32); 16] = [
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 0, 2, 0], 24),
    ([192, 31, 196, 0], 24),
    ([192, 52, 193, 0], 24),
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast, reserved and broadcast.
    ([224, 0, 0, 0], 3),
];

/// IPv6 ranges within the global unicast one that are special all the same: first address, length of prefix.
const SPECIAL_V6: [(u128, u32); 4] = [
    // Protocol assignments, Teredo among them.
    (0x2001_0000 << 96, 23),
    // Documentation.
    (0x2001_0db8 << 96, 32),
    (0x3fff << 112, 20),
    // Direct delegation of reverse lookup.
    (0x2620_004f_8000 << 80, 48),
];

/// NAT64 (RFC 6052): the IPv4 address is the last 32 bits.
const NAT64: u128 = 0x0064_ff9b << 96;

/// Whether a request may go to `address`: it is public, or lies in one of the `allowed` ranges.
pub fn is_allowed(address: IpAddr, allowed: &[Network]) -> bool {
    allowed.iter().any(|range| range.contains(address)) || is_public(address)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|(first, prefix)| {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(*prefix)).unwrap_or(0);
        address.to_bits() & mask == u32::from_be_bytes(*first) & mask
    })
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    if bits >> 32 == NAT64 >> 32 {
        return is_public_v4(low_32(bits));
    }
    // 6to4: the IPv4 address stands behind the prefix.
    if bits >> 112 == 0x2002 {
        return is_public_v4(low_32(bits >> 80));
    }
    // Global unicast is 2000::/3; all else is loopback, link-local, unique local, multicast or unassigned.
    bits >> 125 == 0b001
        && !SPECIAL_V6.iter().any(|(first, prefix)| {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(*prefix)).unwrap_or(0);
            bits & mask == first & mask
        })
}

fn low_32(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2021-21392: IPv6 spellings of private addresses passed a list of IPv4 ranges.
    #[test]
    fn cve_2021_21392_private_addresses_are_refused_in_every_spelling() {
        let refused = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:0a00:0001::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ];
        for address in refused {
            assert!(!is_allowed(address.parse().unwrap(), &[]), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_allowed() {
        let allowed = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.1.1",
            "223.255.255.255",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "2606:4700::1111",
            "2a00:1450::1",
        ];
        for address in allowed {
            assert!(is_allowed(address.parse().unwrap(), &[]), "{address}");
        }
    }

    #[test]
    fn what_the_configuration_names_is_allowed_too() {
        let ranges: Vec<Network> =
            ["10.0.0.0/8", "fd00::/8"].iter().map(|range| range.parse().unwrap()).collect();
        for (address, allowed) in [
            ("10.9.8.7", true),
            ("::ffff:10.9.8.7", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("192.168.0.1", false),
        ] {
            assert_eq!(is_allowed(address.parse().unwrap(), &ranges), allowed, "{address}");
        }
    }
}
