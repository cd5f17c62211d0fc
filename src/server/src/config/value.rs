//! How sizes, intervals, rates and addresses are written in the configuration.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// Gives a type with `Display` and `FromStr` its serialised form: a string.
macro_rules! as_string {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A number of bytes, written `512 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Whole kibibytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Whole mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// As a length in memory; what does not fit is cut to what does.
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Units of size, the largest first.
const SIZE_UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in SIZE_UNITS {
            if self.0 >> shift != 0 && (self.0 >> shift) << shift == self.0 {
                return write!(formatter, "{} {unit}", self.0 >> shift);
            }
        }
        write!(formatter, "{} B", self.0)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || format!("{text:?} is not a size; write it like \"512 MiB\" or \"2 GiB\"");
        let (count, unit) = number_and_unit(text).ok_or_else(complaint)?;
        let shift = match unit {
            "B" => 0,
            _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(complaint)?.1,
        };
        count.checked_mul(1 << shift).map(Self).ok_or_else(complaint)
    }
}
as_string!(ByteSize);

/// A length of time, written `90 s`, `5 min`, `24 h` or `30 d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

impl Interval {
    /// Whole seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// In milliseconds.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Units of time in milliseconds, the largest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

impl fmt::Display for Interval {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length_ms = self.as_ms();
        let (unit, unit_ms) = TIME_UNITS
            .into_iter()
            .find(|(_, unit_ms)| length_ms >= *unit_ms && length_ms.is_multiple_of(*unit_ms))
            .unwrap_or(("s", 1_000));
        write!(formatter, "{} {unit}", length_ms / unit_ms)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint =
            || format!("{text:?} is not a length of time; write it like \"90 s\", \"5 min\" or \"24 h\"");
        let (count, unit) = number_and_unit(text).ok_or_else(complaint)?;
        let (_, unit_ms) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(complaint)?;
        count.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(complaint)
    }
}
as_string!(Interval);

/// How often something may be done: `burst` times at once, and `count` more every `period`. Written
/// `5 per minute, burst 20`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many per period.
    pub count: u32,
    /// The period.
    pub period: Period,
    /// How many at once.
    pub burst: u32,
}

/// What a [`Rate`] counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// Names of the periods.
const PERIODS: [(&str, Period); 3] =
    [("second", Period::Second), ("minute", Period::Minute), ("hour", Period::Hour)];

impl Rate {
    /// `count` a `period`, `burst` at once.
    pub const fn new(count: u32, period: Period, burst: u32) -> Self {
        Self { count, period, burst }
    }

    /// How long it takes until one more is allowed.
    pub fn interval(self) -> Duration {
        let period = match self.period {
            Period::Second => Duration::from_secs(1),
            Period::Minute => Duration::from_secs(60),
            Period::Hour => Duration::from_secs(3600),
        };
        period.checked_div(self.count).unwrap_or(Duration::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period =
            PERIODS.iter().find(|(_, period)| *period == self.period).map_or("second", |(name, _)| *name);
        write!(formatter, "{} per {period}, burst {}", self.count, self.burst)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || format!("{text:?} is not a rate; write it like \"5 per minute, burst 20\"");
        let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let [count, "per", period, "burst", burst] = *words else { return Err(complaint()) };
        let (_, period) = *PERIODS.iter().find(|(name, _)| *name == period).ok_or_else(complaint)?;
        let rate = Self {
            count: count.parse().map_err(|_| complaint())?,
            period,
            burst: burst.parse().map_err(|_| complaint())?,
        };
        if rate.count == 0 || rate.burst == 0 { Err(complaint()) } else { Ok(rate) }
    }
}
as_string!(Rate);

/// Where a listener waits: `127.0.0.1:8008`, `[::1]:8008` or `unix:/run/allod/client.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "{text:?} is not an address to listen on; write it like \"127.0.0.1:8008\", \"[::1]:8008\" or \
                     \"unix:/run/allod/client.sock\""
                )
            }),
        }
    }
}
as_string!(ListenAddress);

/// A range of addresses: `127.0.0.1`, `10.0.0.0/8`, `fd00::/8`. IPv4 and mapped IPv4 are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether the address lies in this range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = if self.address.is_ipv4() { self.prefix.saturating_add(96) } else { self.prefix };
        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
        mapped_bits(address) & mask == mapped_bits(self.address) & mask
    }
}

fn mapped_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        self.address.fmt(formatter)?;
        if self.prefix == width { Ok(()) } else { write!(formatter, "/{}", self.prefix) }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let complaint =
            || format!("{text:?} is not a network; write it like \"127.0.0.1\" or \"10.0.0.0/8\"");
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| complaint())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = if prefix.is_empty() { width } else { prefix.parse().map_err(|_| complaint())? };
        if prefix > width { Err(complaint()) } else { Ok(Self { address, prefix }) }
    }
}
as_string!(Network);

/// Splits `512 MiB` into its number and its unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["1 B", "1536 B", "3 KiB", "512 MiB", "2 GiB", "1 TiB"] {
            assert_eq!(text.parse::<ByteSize>().map(|size| size.to_string()).as_deref(), Ok(text));
        }
        for text in ["0 s", "1 ms", "90 s", "5 min", "36 h", "30 d"] {
            assert_eq!(text.parse::<Interval>().map(|interval| interval.to_string()).as_deref(), Ok(text));
        }
        for text in ["5 per minute, burst 20", "100 per second, burst 1"] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.to_string()).as_deref(), Ok(text));
        }
        for text in ["127.0.0.1:8008", "[::1]:8008", "unix:/run/a"] {
            assert_eq!(text.parse::<ListenAddress>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn networks_contain_what_they_say() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("192.168.0.0/16", "192.168.4.1"));
        assert!(contains("192.168.0.0/16", "::ffff:192.168.4.1"));
        assert!(!contains("192.168.0.0/16", "192.169.4.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("::/0", "1.2.3.4"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!("1.2.3.4/33".parse::<Network>().is_err());
    }

    #[test]
    fn other_forms_are_refused() {
        assert!("512".parse::<ByteSize>().is_err());
        assert!("512 MB".parse::<ByteSize>().is_err());
        assert!("99999999999 TiB".parse::<ByteSize>().is_err());
        assert!("5m".parse::<Interval>().is_err());
        assert!("-5 s".parse::<Interval>().is_err());
        assert!("0 per second, burst 1".parse::<Rate>().is_err());
        assert!("5 a minute".parse::<Rate>().is_err());
        assert!("localhost:8008".parse::<ListenAddress>().is_err());
        assert!("unix:".parse::<ListenAddress>().is_err());
    }
}
