//! A network: all addresses that share their first bits. Knows no name, and nothing of what a
//! network is used for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// All addresses that have their first bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The first of them. Never an IPv4 address in the form of an IPv6 one.
    first: IpAddr,
    /// How many bits they share.
    prefix: u8,
}

impl Network {
    /// The network of `address` whose addresses share `prefix` bits; all bits where `prefix` is
    /// more than an address has. An IPv4 address is one in the form of an IPv6 address too.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let address = address.to_canonical();
        let prefix = prefix.min(bits_of(address));
        let first = match address {
            IpAddr::V4(address) => {
                let mask = !u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = !u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { first, prefix }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::around(address, self.prefix) == *self
    }

    /// Whether the Internet knows no address of it: private and shared addresses, loopback, and
    /// those of one link.
    #[must_use]
    pub fn is_private(&self) -> bool {
        PRIVATE.iter().any(|&(first, prefix)| {
            self.prefix >= prefix && Self::around(self.first, prefix).first == first
        })
    }

    /// Its first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many bits its addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is a single address.
    #[must_use]
    pub fn is_one_address(&self) -> bool {
        self.prefix == bits_of(self.first)
    }
}

const fn v4(a: u8, b: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, 0, 0))
}

const fn v6(first: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0))
}

/// RFC 1918, RFC 6598, RFC 1122, RFC 3927, RFC 4193 and RFC 4291.
const PRIVATE: [(IpAddr, u8); 9] = [
    (v4(10, 0), 8),
    (v4(172, 16), 12),
    (v4(192, 168), 16),
    (v4(100, 64), 10),
    (v4(127, 0), 8),
    (v4(169, 254), 16),
    (v6(0xfc00), 7),
    (v6(0xfe80), 10),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// As it is read: one address stands for itself.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, prefix } = self;
        if self.is_one_address() { write!(f, "{first}") } else { write!(f, "{first}/{prefix}") }
    }
}

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkError {
    /// What comes before the slash is not an IP address.
    NotAnAddress(String),
    /// An address has fewer bits than that, or it is not a number.
    Prefix {
        /// What was written behind the slash.
        written: String,
        /// As many bits as the address has.
        most: u8,
    },
    /// The address has bits that the prefix does not cover.
    HostBits {
        /// The text.
        written: String,
        /// The network that it is in.
        network: Network,
    },
    /// An IPv4 address in the form of an IPv6 one.
    Mapped(Ipv4Addr),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAddress(text) => write!(
                f,
                "\"{text}\" is not an IP address; names are not looked up, so write an address or \
                 a network, such as \"192.0.2.10\" or \"2001:db8::/64\""
            ),
            Self::Prefix { written, most } => {
                write!(f, "the prefix \"{written}\" is not a number from 0 to {most}")
            }
            Self::HostBits { written, network: Network { first, prefix } } => {
                let (address, _) = written.split_once('/').unwrap_or((written, ""));
                write!(
                    f,
                    "\"{written}\" has bits set after its prefix; for the whole network write \
                     \"{first}/{prefix}\", for the one address \"{address}\""
                )
            }
            Self::Mapped(address) => {
                write!(f, "this is an IPv4 address in the form of IPv6; write \"{address}\"")
            }
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (written, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            written.parse().map_err(|_| NetworkError::NotAnAddress(text.to_owned()))?;
        if let (IpAddr::V6(_), IpAddr::V4(mapped)) = (address, address.to_canonical()) {
            return Err(NetworkError::Mapped(mapped));
        }
        let most = bits_of(address);
        let Some(written) = prefix else { return Ok(Self::around(address, most)) };
        let is_number = written.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = written.parse().ok().filter(|prefix| is_number && *prefix <= most);
        let Some(prefix) = prefix else {
            return Err(NetworkError::Prefix { written: written.to_owned(), most });
        };
        let network = Self::around(address, prefix);
        if network.first != address {
            return Err(NetworkError::HostBits { written: text.to_owned(), network });
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_what_shares_its_first_bits() {
        for (text, inside, outside) in [
            ("192.0.2.10", "192.0.2.10", "192.0.2.11"),
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
            ("2001:db8::/64", "2001:db8::ffff:0:0:1", "2001:db8:0:1::"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("::1", "::1", "::2"),
        ] {
            assert!(network(text).contains(ip(inside)), "{inside} is in {text}");
            assert!(!network(text).contains(ip(outside)), "{outside} is not in {text}");
        }
    }

    #[test]
    fn an_ipv4_address_that_came_through_an_ipv6_socket_is_one() {
        assert!(network("192.0.2.0/24").contains(ip("::ffff:192.0.2.7")));
        assert!(!network("::/0").contains(ip("::ffff:192.0.2.7")));
        assert_eq!(Network::around(ip("::ffff:192.0.2.7"), 128), network("192.0.2.7"));
    }

    #[test]
    fn a_network_is_private_when_all_of_it_is() {
        for text in ["10.0.0.0/8", "172.31.0.0/16", "192.168.1.7", "fd00::/8", "::1", "fe80::/64"] {
            assert!(network(text).is_private(), "{text}");
        }
        for text in ["0.0.0.0/0", "10.0.0.0/7", "172.0.0.0/8", "192.0.2.1", "::/0", "2001:db8::1"] {
            assert!(!network(text).is_private(), "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_how_to_be_written() {
        let error = |text: &str| text.parse::<Network>().unwrap_err();
        let own = str::to_owned;
        for text in ["", "balancer.example.com", "192.0.2", "192.0.2.1:843", "[::1]", "/8", "*"] {
            assert_eq!(error(text), NetworkError::NotAnAddress(own(text)));
        }
        for (text, written, most) in [
            ("192.0.2.0/33", "33", 32),
            ("192.0.2.0/", "", 32),
            ("192.0.2.0/+8", "+8", 32),
            ("192.0.2.0/24/1", "24/1", 32),
            ("192.0.2.0/255.255.255.0", "255.255.255.0", 32),
            ("2001:db8::/129", "129", 128),
        ] {
            assert_eq!(error(text), NetworkError::Prefix { written: own(written), most });
        }
        let (written, network) = (own("10.0.0.1/8"), network("10.0.0.0/8"));
        let host_bits = NetworkError::HostBits { written, network };
        assert_eq!(error("10.0.0.1/8"), host_bits);
        assert_eq!(
            host_bits.to_string(),
            "\"10.0.0.1/8\" has bits set after its prefix; for the whole network write \
             \"10.0.0.0/8\", for the one address \"10.0.0.1\""
        );
        let mapped = NetworkError::Mapped("192.0.2.0".parse().unwrap());
        assert_eq!(error("::ffff:192.0.2.0/120"), mapped);
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        ]
    }

    /// The bits of an address as text, so that a prefix is the beginning of one.
    fn bits(address: IpAddr) -> String {
        match address.to_canonical() {
            IpAddr::V4(address) => format!("4{:032b}", address.to_bits()),
            IpAddr::V6(address) => format!("6{:0128b}", address.to_bits()),
        }
    }

    proptest! {
        #[test]
        fn two_addresses_are_in_one_network_when_their_first_bits_are_the_same(
            one in addresses(),
            other in addresses(),
            flipped in 0_u32..128,
            prefix in 0_u8..=128,
        ) {
            let near = match one {
                IpAddr::V4(it) => Ipv4Addr::from_bits(it.to_bits() ^ (1 << (flipped % 32))).into(),
                IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() ^ (1 << flipped)).into(),
            };
            for other in [one, other, near] {
                let (one_bits, other_bits) = (bits(one), bits(other));
                let length = one_bits.len().min(1 + usize::from(prefix));
                let are_together = other_bits.starts_with(&one_bits[..length]);
                prop_assert_eq!(Network::around(one, prefix).contains(other), are_together);
            }
        }

        #[test]
        fn a_network_is_read_as_it_is_written(address in addresses(), prefix in 0_u8..=128) {
            let network = Network::around(address, prefix);
            prop_assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
