//! The header of the PROXY protocol, versions 1 and 2, as a state machine fed with bytes: whom a
//! balancer speaks for, or that it speaks for itself.
//!
//! It owns what such a header may look like, and finds a wrong one at its first wrong byte. It
//! knows no socket and no clock, and neither whose headers are believed nor what follows them.
//!
//! The protocol is that of <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

/// The longest header of version 1, with its CR and LF.
pub const LONGEST_LINE: usize = 107;

/// The most that a header of version 2 may hold behind its first 16 bytes. The protocol allows
/// 65,535; what balancers send is less than 1,000.
pub const LONGEST_BLOCK: usize = 4096;

/// What a header of version 2 begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whether bytes that were to be something else are the beginning of a header.
#[must_use]
pub fn begins_header(bytes: &[u8]) -> bool {
    let begins_line = bytes.strip_prefix(KEYWORD).is_some_and(|rest| rest.starts_with(b" "));
    begins_line || bytes.starts_with(SIGNATURE)
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The balancer speaks for this client.
    Client {
        /// Where the client is.
        client: SocketAddr,
        /// Where it connected to.
        asked: SocketAddr,
    },
    /// The balancer speaks for somebody, and does not say for whom.
    Unknown,
    /// The balancer speaks for itself, as for a health check.
    Local,
}

/// How far a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderSoFar {
    /// More of it has to come.
    Unfinished,
    /// It is complete.
    Complete {
        /// What it says.
        header: Header,
        /// How many of the bytes given last were its own. What follows them is not.
        taken: usize,
    },
    /// No header begins like that.
    Malformed,
}

/// A header, as far as it has come.
#[derive(Debug, Clone, Default)]
pub struct Preamble(Form);

/// Which version a header has, and what has come of it.
#[derive(Debug, Clone, Default)]
enum Form {
    /// Nothing has come.
    #[default]
    Unknown,
    Line(Line),
    Binary(Binary),
}

/// No header begins like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Malformed;

impl Preamble {
    /// Takes bytes until the header is complete or cannot become one. It must not be called again
    /// after that.
    pub fn take(&mut self, bytes: &[u8]) -> HeaderSoFar {
        for (&byte, taken) in bytes.iter().zip(1..) {
            let after = match &mut self.0 {
                Form::Unknown => self.begin(byte),
                Form::Line(line) => line.take(byte),
                Form::Binary(binary) => binary.take(byte),
            };
            match after {
                Ok(None) => {}
                Ok(Some(header)) => return HeaderSoFar::Complete { header, taken },
                Err(Malformed) => return HeaderSoFar::Malformed,
            }
        }
        HeaderSoFar::Unfinished
    }

    /// Whether nothing has come.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        matches!(self.0, Form::Unknown)
    }

    /// The first byte tells the versions apart.
    fn begin(&mut self, byte: u8) -> Result<Option<Header>, Malformed> {
        if byte == SIGNATURE[0] {
            self.0 = Form::Binary(Binary::begun());
            return Ok(None);
        }
        let mut line = Line::default();
        let after = line.take(byte);
        self.0 = Form::Line(line);
        after
    }
}

/// A header of version 1: a line of ASCII.
#[derive(Debug, Clone)]
struct Line {
    /// How many bytes have come.
    length: usize,
    field: Field,
    /// What has come of the field.
    written: [u8; LONGEST_FIELD],
    written_length: usize,
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
}

/// An IPv6 address whose last four bytes are written as an IPv4 address.
const LONGEST_FIELD: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();

/// What stands between two spaces of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Keyword,
    Protocol,
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    /// What follows UNKNOWN, which means nothing.
    Ignored,
    /// The last byte.
    LineFeed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp4,
    Tcp6,
    Unknown,
}

impl Protocol {
    const EVERY: [(&'static [u8], Self); 3] =
        [(b"TCP4", Self::Tcp4), (b"TCP6", Self::Tcp6), (b"UNKNOWN", Self::Unknown)];
}

const KEYWORD: &[u8] = b"PROXY";

impl Default for Line {
    fn default() -> Self {
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Self {
            length: 0,
            field: Field::Keyword,
            written: [0; LONGEST_FIELD],
            written_length: 0,
            protocol: Protocol::Unknown,
            source: nowhere,
            destination: nowhere,
            source_port: 0,
            destination_port: 0,
        }
    }
}

impl Line {
    fn take(&mut self, byte: u8) -> Result<Option<Header>, Malformed> {
        self.length += 1;
        match (self.field, byte) {
            (Field::LineFeed, b'\n') => return Ok(Some(self.header())),
            (Field::LineFeed, _) => return Err(Malformed),
            // Here at the latest the line would have ended.
            _ if self.length >= LONGEST_LINE => return Err(Malformed),
            (Field::Ignored, b'\r') => self.field = Field::LineFeed,
            (Field::Ignored, _) => {}
            (_, b' ' | b'\r') => self.end_field(byte)?,
            _ => {
                *self.written.get_mut(self.written_length).ok_or(Malformed)? = byte;
                self.written_length += 1;
                if !self.may_go_on() {
                    return Err(Malformed);
                }
            }
        }
        Ok(None)
    }

    /// Whether what has come of the field can be the beginning of one.
    fn may_go_on(&self) -> bool {
        let written = &self.written[..self.written_length];
        let are_all = |belongs: fn(&u8) -> bool| written.iter().all(belongs);
        match self.field {
            Field::Keyword => KEYWORD.starts_with(written),
            Field::Protocol => Protocol::EVERY.iter().any(|(name, _)| name.starts_with(written)),
            Field::Source | Field::Destination if self.protocol == Protocol::Tcp4 => {
                are_all(|byte| byte.is_ascii_digit() || *byte == b'.')
            }
            Field::Source | Field::Destination => {
                are_all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            }
            Field::SourcePort | Field::DestinationPort => {
                written.len() <= "65535".len() && are_all(u8::is_ascii_digit)
            }
            Field::Ignored | Field::LineFeed => true,
        }
    }

    /// Takes the field for whole and goes on with the next one.
    fn end_field(&mut self, end: u8) -> Result<(), Malformed> {
        let written = &self.written[..self.written_length];
        let next = match (self.field, end) {
            (Field::Keyword, b' ') if written == KEYWORD => Field::Protocol,
            (Field::Protocol, _) => {
                let protocol = Protocol::EVERY.iter().find(|(name, _)| *name == written);
                self.protocol = protocol.ok_or(Malformed)?.1;
                match (self.protocol, end) {
                    (Protocol::Unknown, b' ') => Field::Ignored,
                    (Protocol::Unknown, _) => Field::LineFeed,
                    (_, b' ') => Field::Source,
                    _ => return Err(Malformed),
                }
            }
            (Field::Source, b' ') => {
                self.source = self.address()?;
                Field::Destination
            }
            (Field::Destination, b' ') => {
                self.destination = self.address()?;
                Field::SourcePort
            }
            (Field::SourcePort, b' ') => {
                self.source_port = self.port()?;
                Field::DestinationPort
            }
            (Field::DestinationPort, b'\r') => {
                self.destination_port = self.port()?;
                Field::LineFeed
            }
            _ => return Err(Malformed),
        };
        self.field = next;
        self.written_length = 0;
        Ok(())
    }

    fn address(&self) -> Result<IpAddr, Malformed> {
        let written =
            str::from_utf8(&self.written[..self.written_length]).map_err(|_| Malformed)?;
        match self.protocol {
            Protocol::Tcp4 => written.parse::<Ipv4Addr>().map(IpAddr::V4),
            Protocol::Tcp6 | Protocol::Unknown => written.parse::<Ipv6Addr>().map(IpAddr::V6),
        }
        .map_err(|_| Malformed)
    }

    fn port(&self) -> Result<u16, Malformed> {
        let written = &self.written[..self.written_length];
        if written.len() > 1 && written.starts_with(b"0") {
            return Err(Malformed);
        }
        str::from_utf8(written).ok().and_then(|port| port.parse().ok()).ok_or(Malformed)
    }

    fn header(&self) -> Header {
        match self.protocol {
            Protocol::Unknown => Header::Unknown,
            Protocol::Tcp4 | Protocol::Tcp6 => Header::Client {
                client: SocketAddr::new(self.source, self.source_port),
                asked: SocketAddr::new(self.destination, self.destination_port),
            },
        }
    }
}

/// A header of version 2: 16 bytes, and a block of as many as these say, which holds addresses and
/// then values, each behind its type and length.
#[derive(Debug, Clone)]
struct Binary {
    /// How many bytes have come.
    length: usize,
    head: [u8; HEAD],
    addresses: [u8; IPV6_ADDRESSES],
    /// Where the addresses end, and the header.
    addresses_end: usize,
    end: usize,
    value: Tlv,
    checksum: Checksum,
}

/// How many bytes stand before the block.
const HEAD: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Two addresses and two ports.
const IPV4_ADDRESSES: usize = 2 * (4 + 2);
const IPV6_ADDRESSES: usize = 2 * (16 + 2);
/// Two paths.
const UNIX_ADDRESSES: usize = 2 * 108;

/// How many bytes of addresses a header has whose 14th byte is this one, which names the family
/// and the protocol. None where no header has such a byte.
fn addresses_of(transport: u8) -> Option<usize> {
    match transport {
        UNSPECIFIED => Some(0),
        TCP_OVER_IPV4 | 0x12 => Some(IPV4_ADDRESSES),
        TCP_OVER_IPV6 | 0x22 => Some(IPV6_ADDRESSES),
        0x31 | 0x32 => Some(UNIX_ADDRESSES),
        _ => None,
    }
}

/// What comes next of the values behind the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tlv {
    Type,
    /// The upper byte of its length.
    Length {
        kind: u8,
    },
    /// The lower byte, of which the upper one is this.
    LengthEnd {
        kind: u8,
        upper: u8,
    },
    /// So many bytes of the value itself.
    Bytes {
        kind: u8,
        left: usize,
    },
}

/// How many bytes the type and the length of a value take.
const VALUE_HEAD: usize = 3;

/// The value that holds the checksum of the header.
const CHECKSUM: u8 = 0x03;
const CHECKSUM_LENGTH: usize = 4;

/// The checksum of the bytes so far, by `CRC32c`, in which the checksum itself counts as zeros.
#[derive(Debug, Clone, Copy)]
struct Checksum {
    state: u32,
    /// What the header says it is.
    said: Option<u32>,
}

impl Checksum {
    const POLYNOMIAL: u32 = 0x82f6_3b78;

    fn of(bytes: &[u8]) -> Self {
        let mut checksum = Self { state: u32::MAX, said: None };
        for &byte in bytes {
            checksum.add(byte);
        }
        checksum
    }

    fn add(&mut self, byte: u8) {
        self.state = (0..8).fold(self.state ^ u32::from(byte), |state, _| {
            let low = state & 1;
            (state >> 1) ^ (Self::POLYNOMIAL * low)
        });
    }

    fn value(self) -> u32 {
        !self.state
    }

    /// Whether it is what the header says, where that says anything.
    fn is_right(self) -> bool {
        self.said.is_none_or(|said| said == self.value())
    }
}

impl Binary {
    /// One whose first byte has come.
    fn begun() -> Self {
        let mut head = [0; HEAD];
        head[0] = SIGNATURE[0];
        Self {
            length: 1,
            head,
            addresses: [0; IPV6_ADDRESSES],
            addresses_end: HEAD,
            end: HEAD,
            value: Tlv::Type,
            checksum: Checksum::of(&[]),
        }
    }

    fn take(&mut self, byte: u8) -> Result<Option<Header>, Malformed> {
        let index = self.length;
        self.length += 1;
        if index < HEAD {
            self.head[index] = byte;
            self.take_head(index, byte)?;
        } else if index < self.addresses_end {
            // Other addresses than those of TCP are longer and not read.
            if let Some(place) = self.addresses.get_mut(index - HEAD) {
                *place = byte;
            }
            self.count(byte);
        } else {
            self.take_value(byte)?;
        }
        if self.length < HEAD || self.length < self.end {
            return Ok(None);
        }
        if !self.checksum.is_right() {
            return Err(Malformed);
        }
        Ok(Some(self.header()))
    }

    fn take_head(&mut self, index: usize, byte: u8) -> Result<(), Malformed> {
        const COMMAND: usize = SIGNATURE.len();
        let [.., command, transport, upper, lower] = self.head;
        let is_right = match index {
            ..COMMAND => byte == SIGNATURE[index],
            COMMAND => matches!(byte, LOCAL | PROXY),
            // What else is said of a connection of the balancer's own means nothing.
            13 => command == LOCAL || addresses_of(byte).is_some(),
            14 => usize::from(byte) << 8 <= LONGEST_BLOCK,
            _ => {
                let block = usize::from(u16::from_be_bytes([upper, lower]));
                let addresses = match (command, transport) {
                    // Of these nothing is read.
                    (LOCAL, _) | (_, UNSPECIFIED) => block,
                    _ => addresses_of(transport).unwrap_or(0),
                };
                self.addresses_end = HEAD + addresses;
                self.end = HEAD + block;
                if self.has_values() {
                    self.checksum = Checksum::of(&self.head);
                }
                (addresses..=LONGEST_BLOCK).contains(&block)
            }
        };
        if is_right { Ok(()) } else { Err(Malformed) }
    }

    /// Whether anything follows the addresses. Without that there is no checksum.
    fn has_values(&self) -> bool {
        self.addresses_end < self.end
    }

    fn count(&mut self, byte: u8) {
        if self.has_values() {
            self.checksum.add(byte);
        }
    }

    fn take_value(&mut self, byte: u8) -> Result<(), Malformed> {
        let left = self.end - self.length;
        let mut counted = byte;
        self.value = match self.value {
            Tlv::Type if left + 1 < VALUE_HEAD => return Err(Malformed),
            Tlv::Type => Tlv::Length { kind: byte },
            Tlv::Length { kind } => Tlv::LengthEnd { kind, upper: byte },
            Tlv::LengthEnd { kind, upper } => {
                let length = usize::from(u16::from_be_bytes([upper, byte]));
                let is_checksum = kind == CHECKSUM;
                let is_second = is_checksum && self.checksum.said.replace(0).is_some();
                if length > left || is_second || (is_checksum && length != CHECKSUM_LENGTH) {
                    return Err(Malformed);
                }
                Tlv::Bytes { kind, left: length }.unless_it_ended()
            }
            Tlv::Bytes { kind, left } => {
                if let (CHECKSUM, Some(said)) = (kind, &mut self.checksum.said) {
                    *said = (*said << 8) | u32::from(byte);
                    counted = 0;
                }
                Tlv::Bytes { kind, left: left - 1 }.unless_it_ended()
            }
        };
        self.checksum.add(counted);
        Ok(())
    }

    fn header(&self) -> Header {
        let [.., command, transport, _, _] = self.head;
        match (command, transport) {
            (LOCAL, _) => Header::Local,
            (_, TCP_OVER_IPV4) => self.client::<4>(|bytes| Ipv4Addr::from(bytes).into()),
            (_, TCP_OVER_IPV6) => self.client::<16>(|bytes| Ipv6Addr::from(bytes).into()),
            _ => Header::Unknown,
        }
    }

    /// The client, whose address has so many bytes.
    fn client<const N: usize>(&self, address: fn([u8; N]) -> IpAddr) -> Header {
        let bytes_at = |place| std::array::from_fn(|index| self.addresses[place + index]);
        let port_at =
            |place| u16::from_be_bytes([self.addresses[place], self.addresses[place + 1]]);
        Header::Client {
            client: SocketAddr::new(address(bytes_at(0)), port_at(2 * N)),
            asked: SocketAddr::new(address(bytes_at(N)), port_at(2 * N + 2)),
        }
    }
}

impl Tlv {
    fn unless_it_ended(self) -> Self {
        if matches!(self, Self::Bytes { left: 0, .. }) { Self::Type } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppp::{v1, v2};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const REQUEST: &[u8] = b"<policy-file-request/>\0";

    /// What becomes of bytes that come at once, and after how many of them that is known.
    fn parse(bytes: &[u8]) -> (HeaderSoFar, usize) {
        let mut preamble = Preamble::default();
        for (index, byte) in bytes.iter().enumerate() {
            match preamble.take(&[*byte]) {
                HeaderSoFar::Unfinished => {}
                HeaderSoFar::Complete { header, .. } => {
                    let taken = index + 1;
                    return (HeaderSoFar::Complete { header, taken }, taken);
                }
                HeaderSoFar::Malformed => return (HeaderSoFar::Malformed, index + 1),
            }
        }
        (HeaderSoFar::Unfinished, bytes.len())
    }

    /// What a header says that is alone and whole.
    #[track_caller]
    fn said(bytes: &[u8]) -> Header {
        match parse(bytes) {
            (HeaderSoFar::Complete { header, taken }, _) if taken == bytes.len() => header,
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    /// Fails unless the last byte, and none before it, makes this no header.
    #[track_caller]
    fn assert_wrong_at_the_last_byte(bytes: &[u8]) {
        assert_eq!(parse(bytes), (HeaderSoFar::Malformed, bytes.len()), "{}", bytes.escape_ascii());
    }

    fn client(client: &str, asked: &str) -> Header {
        Header::Client { client: client.parse().unwrap(), asked: asked.parse().unwrap() }
    }

    /// A header of version 2 with this block.
    fn binary(command: u8, transport: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, transport], &length, block].concat()
    }

    fn ipv4_block() -> Vec<u8> {
        [&[192, 0, 2, 1, 192, 0, 2, 2][..], &5000_u16.to_be_bytes(), &843_u16.to_be_bytes()]
            .concat()
    }

    fn value(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[kind][..], &length, bytes].concat()
    }

    #[test]
    fn a_header_of_either_version_is_known_by_its_beginning() {
        for bytes in [&b"PROXY TCP4 192"[..], b"\r\n\r\n\0\r\nQUIT\n\x21"] {
            assert!(begins_header(bytes), "{}", bytes.escape_ascii());
        }
        for bytes in [REQUEST, b"PROXY", b"PROXYTCP4", b"\r\n\r\n"] {
            assert!(!begins_header(bytes), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_first_byte_touches_a_header() {
        for first in [b"P", b"\r"] {
            let mut preamble = Preamble::default();
            assert!(preamble.is_untouched());
            assert_eq!(preamble.take(first), HeaderSoFar::Unfinished);
            assert!(!preamble.is_untouched());
        }
    }

    #[test]
    fn a_line_names_the_client_and_where_it_connected_to() {
        assert_eq!(
            said(b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 843\r\n"),
            client("192.0.2.1:5000", "192.0.2.2:843")
        );
        assert_eq!(
            said(b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 65535 0\r\n"),
            client("[2001:db8::1]:65535", "[::ffff:192.0.2.2]:0")
        );
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN so be it\r\n"] {
            assert_eq!(said(line.as_bytes()), Header::Unknown);
        }
    }

    #[test]
    fn a_line_is_wrong_from_its_first_wrong_byte_on() {
        for line in [
            "<",
            "p",
            " ",
            "PROX ",
            "PROXY\r",
            "PROXY  ",
            "PROXY T\r",
            "PROXY TCP5",
            "PROXY TCP4\r",
            "PROXY UNKNOWN4",
            "PROXY UNKNOWN\rx",
            "PROXY TCP4 1.2.3.4\r",
            "PROXY TCP4 a",
            "PROXY TCP4  ",
            "PROXY TCP4 1.2.3 ",
            "PROXY TCP4 01.2.3.4 ",
            "PROXY TCP4 1.2.3.256 ",
            "PROXY TCP4 :",
            "PROXY TCP4 1.2.3.4 1.2.3.4 -",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 ",
            "PROXY TCP4 1.2.3.4 1.2.3.4 00 ",
            "PROXY TCP4 1.2.3.4 1.2.3.4 100000",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 ",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r",
            "PROXY TCP6 1.2.3.4 ",
            "PROXY TCP6 ::1%",
            "PROXY TCP6 g",
            "PROXY TCP6 [",
            "PROXY TCP6 :::1 ",
        ] {
            assert_wrong_at_the_last_byte(line.as_bytes());
        }
    }

    #[test]
    fn a_line_has_107_bytes_at_most() {
        let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {address} {address} 65535 65535\r\n");
        assert_eq!(longest.len(), LONGEST_LINE);
        assert_eq!(said(longest.as_bytes()), Header::Unknown);
        let longer = longest.replace("\r\n", "0\r\n");
        assert_wrong_at_the_last_byte(&longer.as_bytes()[..LONGEST_LINE]);
    }

    #[test]
    fn the_binary_header_names_the_client_and_where_it_connected_to() {
        assert_eq!(
            said(&binary(PROXY, TCP_OVER_IPV4, &ipv4_block())),
            client("192.0.2.1:5000", "192.0.2.2:843")
        );
        let block = [[0x20; 16], [0x30; 16]].concat();
        assert_eq!(
            said(&binary(PROXY, TCP_OVER_IPV6, &[&block[..], &[1, 2, 3, 4]].concat())),
            client(
                "[2020:2020:2020:2020:2020:2020:2020:2020]:258",
                "[3030:3030:3030:3030:3030:3030:3030:3030]:772"
            )
        );
    }

    #[test]
    fn who_is_behind_another_transport_is_not_known() {
        for (transport, block) in
            [(0x00, 0), (0x12, IPV4_ADDRESSES), (0x22, IPV6_ADDRESSES), (0x31, 216), (0x32, 216)]
        {
            assert_eq!(said(&binary(PROXY, transport, &vec![7; block])), Header::Unknown);
        }
    }

    #[test]
    fn of_a_connection_of_the_balancer_s_own_nothing_else_counts() {
        for block in [&[][..], &[0xff; 3], &ipv4_block(), &[3; LONGEST_BLOCK]] {
            for transport in [0x00, TCP_OVER_IPV4, 0xff] {
                assert_eq!(said(&binary(LOCAL, transport, block)), Header::Local);
            }
        }
    }

    #[test]
    fn a_binary_header_is_wrong_from_its_first_wrong_byte_on() {
        for index in 1..SIGNATURE.len() {
            let mut bytes = *SIGNATURE;
            bytes[index] ^= 1;
            assert_wrong_at_the_last_byte(&bytes[..=index]);
        }
        let wrong = |head: &[u8]| assert_wrong_at_the_last_byte(&[SIGNATURE, head].concat());
        for command in (0..=u8::MAX).filter(|it| !matches!(*it, LOCAL | PROXY)) {
            wrong(&[command]);
        }
        for transport in [0x01, 0x10, 0x13, 0x20, 0x30, 0x41, 0xff] {
            wrong(&[PROXY, transport]);
        }
        wrong(&[PROXY, TCP_OVER_IPV4, 0x11]);
        wrong(&[LOCAL, 0, 0xff]);
        wrong(&[LOCAL, 0, 0x10, 0x01]);
        wrong(&[PROXY, TCP_OVER_IPV4, 0, 11]);
        wrong(&[PROXY, TCP_OVER_IPV6, 0, 35]);
        wrong(&[PROXY, 0x31, 0, 215]);
    }

    #[test]
    fn values_are_skipped_and_have_to_fill_the_block() {
        let with =
            |values: &[u8]| binary(PROXY, TCP_OVER_IPV4, &[&ipv4_block()[..], values].concat());
        let named = client("192.0.2.1:5000", "192.0.2.2:843");
        let values = [value(0x04, &[]), value(0x02, b"example.com"), value(0xea, &[0; 300])];
        assert_eq!(said(&with(&values.concat())), named);
        let full = value(0x04, &vec![0; LONGEST_BLOCK - IPV4_ADDRESSES - VALUE_HEAD]);
        assert_eq!(said(&with(&full)), named);
        // A type for whose length there is no room, and a length for whose value there is none.
        assert_eq!(parse(&with(&[4, 0])), (HeaderSoFar::Malformed, HEAD + IPV4_ADDRESSES + 1));
        assert_eq!(parse(&with(&[4, 0, 1])), (HeaderSoFar::Malformed, HEAD + IPV4_ADDRESSES + 3));
    }

    #[test]
    fn the_checksum_of_the_header_is_verified() {
        assert_eq!(Checksum::of(b"123456789").value(), 0xe306_9283, "of the standard's example");
        let with = |checksum: u32, behind: &[u8]| {
            let values = [value(0x04, b"xy"), value(CHECKSUM, &checksum.to_be_bytes())];
            let block = [&ipv4_block()[..], &values.concat(), behind].concat();
            binary(PROXY, TCP_OVER_IPV4, &block)
        };
        for behind in [vec![], value(0x02, b"example.com")] {
            let right = Checksum::of(&with(0, &behind)).value();
            let header = with(right, &behind);
            assert_eq!(said(&header), client("192.0.2.1:5000", "192.0.2.2:843"));
            // Whatever byte is another one, but for the one that makes it a checksum.
            let kind = HEAD + IPV4_ADDRESSES + value(0x04, b"xy").len();
            for index in (HEAD..header.len()).filter(|index| *index != kind) {
                let mut header = header.clone();
                header[index] ^= 0x40;
                assert_eq!(parse(&header).0, HeaderSoFar::Malformed, "byte {index}");
            }
        }
        // A second one, and one of another length, are wrong where their length ends, whatever they
        // say.
        let values = HEAD + IPV4_ADDRESSES;
        let second = value(CHECKSUM, &[0; 4]);
        let before = value(0x04, b"xy").len() + second.len();
        let wrong = (HeaderSoFar::Malformed, values + before + VALUE_HEAD);
        assert_eq!(parse(&with(0, &second)), wrong, "two checksums");
        for length in [3, 5] {
            let block = [&ipv4_block()[..], &value(CHECKSUM, &vec![0; length])].concat();
            let wrong = (HeaderSoFar::Malformed, values + VALUE_HEAD);
            assert_eq!(parse(&binary(PROXY, TCP_OVER_IPV4, &block)), wrong, "{length} bytes");
        }
    }

    #[test]
    fn what_follows_the_header_is_not_its_own() {
        for header in
            [&b"PROXY UNKNOWN\r\n"[..], &binary(LOCAL, 0, &[]), &binary(PROXY, 0x31, &[0; 216])]
        {
            let taken = header.len();
            let parsed = Preamble::default().take(&[header, REQUEST].concat());
            assert!(matches!(parsed, HeaderSoFar::Complete { taken: it, .. } if it == taken));
        }
    }

    fn client_by_ipv4(it: &v1::IPv4) -> Header {
        Header::Client {
            client: (it.source_address, it.source_port).into(),
            asked: (it.destination_address, it.destination_port).into(),
        }
    }

    fn client_by_ipv6(it: &v1::IPv6) -> Header {
        Header::Client {
            client: (it.source_address, it.source_port).into(),
            asked: (it.destination_address, it.destination_port).into(),
        }
    }

    /// What `ppp` makes of a header of version 1, and how long it is.
    fn line_by_ppp(bytes: &[u8]) -> Option<(Header, usize)> {
        let parsed = v1::Header::try_from(bytes).ok()?;
        if !parsed.header.ends_with("\r\n") {
            // It takes a newline behind a space for the end.
            return None;
        }
        if parsed.addresses != v1::Addresses::Unknown && parsed.header.contains('+') {
            // It takes a port with a sign.
            return None;
        }
        let header = match &parsed.addresses {
            v1::Addresses::Unknown => Header::Unknown,
            v1::Addresses::Tcp4(addresses) => client_by_ipv4(addresses),
            v1::Addresses::Tcp6(addresses) => client_by_ipv6(addresses),
        };
        Some((header, parsed.header.len()))
    }

    /// What `ppp` makes of a header of version 2 and of the values in it, and how long it is.
    fn binary_by_ppp(bytes: &[u8]) -> Option<(Header, usize)> {
        let parsed = v2::Header::try_from(bytes).ok()?;
        let header = match (parsed.command, parsed.protocol, &parsed.addresses) {
            (v2::Command::Local, ..) => Header::Local,
            (_, v2::Protocol::Stream, v2::Addresses::IPv4(addresses)) => client_by_ipv4(addresses),
            (_, v2::Protocol::Stream, v2::Addresses::IPv6(addresses)) => client_by_ipv6(addresses),
            _ => Header::Unknown,
        };
        let are_right = header == Header::Local || parsed.tlvs().all(|value| value.is_ok());
        are_right.then_some((header, parsed.header.len()))
    }

    /// Lines that are right, and lines that are not quite.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let family = prop_oneof!["TCP4", "TCP6", "UNKNOWN", "TCP", "UDP4"];
        let address = prop_oneof![
            4 => any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).to_string()),
            4 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).to_string()),
            1 => any::<u32>().prop_map(|bits| format!("::ffff:{}", Ipv4Addr::from_bits(bits))),
            1 => "[0-9a-f:.]{0,45}",
        ];
        let port = prop_oneof![
            8 => any::<u16>().prop_map(|port| port.to_string()),
            1 => "[0-9]{0,6}",
        ];
        let end =
            prop_oneof![8 => Just("\r\n"), 1 => "[\r\n ]{0,3}".prop_map(|it| it.leak() as &_)];
        (family, [address.clone(), address], [port.clone(), port], end).prop_map(
            |(family, [one, two], [three, four], end)| {
                format!("PROXY {family} {one} {two} {three} {four}{end}").into_bytes()
            },
        )
    }

    /// Headers that are right, and headers that are not quite.
    fn binaries() -> impl Strategy<Value = Vec<u8>> {
        let command = prop_oneof![1 => Just(LOCAL), 8 => Just(PROXY), 1 => any::<u8>()];
        let transport = prop_oneof![
            8 => prop_oneof![Just(0_u8), Just(0x11), Just(0x12), Just(0x21), Just(0x31), Just(0x32)],
            1 => any::<u8>(),
        ];
        // The checksum is not for `ppp`.
        let one = (any::<u8>(), vec(any::<u8>(), 0..20))
            .prop_map(|(kind, bytes)| value(if kind == CHECKSUM { 0x04 } else { kind }, &bytes));
        let values = prop_oneof![
            4 => vec(one, 0..5).prop_map(|values| values.concat()),
            1 => vec(prop_oneof![Just(0_u8), Just(1), Just(4)], 0..20),
        ];
        let wrong_by = prop_oneof![8 => Just(0_isize), 1 => Just(-1), 1 => Just(1)];
        (command, transport, vec(any::<u8>(), UNIX_ADDRESSES), values, wrong_by).prop_map(
            |(command, transport, addresses, values, wrong_by)| {
                let length = addresses_of(transport).unwrap_or(0);
                let block = [&addresses[..length], &values].concat();
                let said = block.len().saturating_add_signed(wrong_by);
                let mut header = binary(command, transport, &block);
                header[14..HEAD].copy_from_slice(&u16::try_from(said).unwrap().to_be_bytes());
                header
            },
        )
    }

    /// Header and request, with one byte of them another one or none.
    fn spoilt(headers: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        (headers, proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())))
            .prop_map(|(header, change)| {
                let mut bytes = [&header[..], REQUEST].concat();
                if let Some((index, byte)) = change {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
                bytes
            })
    }

    fn complete(bytes: &[u8]) -> Option<(Header, usize)> {
        match Preamble::default().take(bytes) {
            HeaderSoFar::Complete { header, taken } => Some((header, taken)),
            HeaderSoFar::Unfinished | HeaderSoFar::Malformed => None,
        }
    }

    #[test]
    fn a_newline_behind_a_space_ends_no_line() {
        for family in ["UNKNOWN 0.0.0.0 0.0.0.0 0", "TCP4 192.0.2.1 192.0.2.2 1 843"] {
            let bytes = format!("PROXY {family} \n\r<policy-file-request/>\0");
            assert_eq!(complete(bytes.as_bytes()), None, "{bytes:?}");
            assert_eq!(line_by_ppp(bytes.as_bytes()), None, "{bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn lines_are_read_as_ppp_reads_them(bytes in spoilt(lines())) {
            // It divides a line into seven pieces, wherever a space is, so what stands behind
            // UNKNOWN must not have more of them; and it has to be UTF-8.
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap();
            let has_more = line.split(|byte| *byte == b' ').count() > 6;
            let is_text = str::from_utf8(&bytes).is_ok();
            if (!has_more && is_text) || complete(&bytes).is_none_or(|(it, _)| it != Header::Unknown) {
                prop_assert_eq!(complete(&bytes), line_by_ppp(&bytes));
            }
        }

        #[test]
        fn binary_headers_are_read_as_ppp_reads_them(bytes in spoilt(binaries())) {
            // It takes every family with every protocol, which the protocol forbids, and takes
            // notice of both where the balancer speaks for itself, which the protocol forbids too.
            let is_local = bytes[12] == LOCAL;
            let is_allowed = is_local || addresses_of(bytes[13]).is_some();
            let by_ppp = binary_by_ppp(&bytes).filter(|_| is_allowed);
            let is_checksum = |it: Result<v2::TypeLengthValue<'_>, _>| {
                it.is_ok_and(|value| value.kind == CHECKSUM)
            };
            let is_for_us_alone = (is_local && by_ppp.is_none())
                // Which a changed byte can have made.
                || v2::Header::try_from(&bytes[..]).is_ok_and(|it| it.tlvs().any(is_checksum));
            if !is_for_us_alone {
                prop_assert_eq!(complete(&bytes), by_ppp);
            }
        }

        #[test]
        fn cuts_make_no_difference(
            bytes in prop_oneof![spoilt(lines()), spoilt(binaries())],
            cuts in vec(1_usize..50, 1..20),
        ) {
            let mut preamble = Preamble::default();
            let mut rest = &bytes[..];
            let mut parsed = HeaderSoFar::Unfinished;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || parsed != HeaderSoFar::Unfinished {
                    break;
                }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                parsed = match preamble.take(chunk) {
                    HeaderSoFar::Complete { header, taken } => {
                        let taken = taken + bytes.len() - rest.len();
                        HeaderSoFar::Complete { header, taken }
                    }
                    parsed => parsed,
                };
                rest = after;
            }
            prop_assert_eq!(parsed, Preamble::default().take(&bytes));
        }

        #[test]
        fn nothing_is_waited_for_behind_the_longest_header(bytes in vec(any::<u8>(), 0..64)) {
            for start in [&b"PROXY UNKNOWN "[..], &binary(LOCAL, 0, &[0; LONGEST_BLOCK])[..16]] {
                let whole = [start, &bytes, &[0; HEAD + LONGEST_BLOCK]].concat();
                prop_assert_ne!(Preamble::default().take(&whole), HeaderSoFar::Unfinished);
            }
        }
    }
}
