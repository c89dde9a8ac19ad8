//! Who makes room when all places are taken: ways to decide it, each under the same attacks, and
//! how many honest clients each of them loses. Time is simulated, and the same seed gives the same
//! figures.
//!
//! `cargo test --release --test crowd -- --ignored --nocapture` prints the table of
//! docs/reliability.md.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use masterpolicyd::probe::MASTER_LIMIT;
use masterpolicyd::server::limits::{Backlog, Connections, Newcomers, Source, SourcePrefix, Turn};

const PLACES: usize = 64;
const PER_SOURCE: usize = 32;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What the queue of a listening socket holds by default.
const QUEUE: u32 = 4096;

/// When the kernel of a client sends its SYN again, or an attacker connects again.
const AGAIN: Duration = Duration::from_secs(1);

const SEED: u64 = 843;

/// Numbers of this file are small.
fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}

/// A generator of numbers that are random enough for this: `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit).expect("a small number");
        usize::try_from((word ^ (word >> 31)) % limit).expect("a small number")
    }
}

/// How it is decided who makes room when all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The oldest connection.
    Oldest,
    /// The oldest connection of the source that has most.
    LargestSource,
    /// The same; of sources that have as many, one whose connection has sent nothing.
    LargestSilent,
    /// Any.
    Random,
    /// The newcomer.
    Newcomer,
    /// The newcomer, by a chance that grows from 30 % with 10 places taken to 1 with all of them:
    /// `MaxStartups` of sshd.
    EarlyRefusal,
    /// The oldest connection of a source that made room before without having asked, the newcomer
    /// included; the oldest where there is none.
    Offender,
    /// The oldest connection, but newcomers wait in the queue until it has had its grace.
    Queued,
}

impl Way {
    const EVERY: [(Self, &str); 8] = [
        (Self::Oldest, "oldest"),
        (Self::LargestSource, "largest source"),
        (Self::LargestSilent, "the same, silent first"),
        (Self::Random, "random"),
        (Self::Newcomer, "newcomer"),
        (Self::EarlyRefusal, "random refusal"),
        (Self::Offender, "offenders first"),
        (Self::Queued, "oldest, others queue"),
    ];
}

/// What the attackers do. All of them hold what they open, and of those that open a number once,
/// each opens again a second after it was closed.
#[derive(Debug, Clone, Copy)]
struct Attack {
    name: &'static str,
    source: fn(usize) -> IpAddr,
    sources: usize,
    /// How many are opened once.
    once: usize,
    /// How many are opened each second, throughout or until those are open.
    per_second: usize,
    asks: Asks,
}

/// What an attacker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Nothing,
    Half,
}

fn ipv4(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + small(number)).into()
}

/// An address in the nth /64 of one /48.
fn ipv6(number: usize) -> IpAddr {
    let number = u16::try_from(number).expect("a number of 16 bits");
    Ipv6Addr::new(0x2001, 0xdb8, 1, number, 0, 0, 0, 1).into()
}

const ATTACKS: [Attack; 6] = [
    Attack {
        name: "10,000 silent from 200 addresses",
        source: ipv4,
        sources: 200,
        once: 10_000,
        per_second: 10_000,
        asks: Asks::Nothing,
    },
    Attack {
        name: "10,000 half-asking from 200 addresses",
        source: ipv4,
        sources: 200,
        once: 10_000,
        per_second: 10_000,
        asks: Asks::Half,
    },
    Attack {
        name: "10,000 half-asking from 10,000 addresses",
        source: ipv4,
        sources: 10_000,
        once: 10_000,
        per_second: 10_000,
        asks: Asks::Half,
    },
    Attack {
        name: "10,000 half-asking from 65,536 /64 of one /48",
        source: ipv6,
        sources: 65_536,
        once: 10_000,
        per_second: 10_000,
        asks: Asks::Half,
    },
    Attack {
        name: "10,000 new silent ones a second from 10,000 addresses",
        source: ipv4,
        sources: 10_000,
        once: 0,
        per_second: 10_000,
        asks: Asks::Nothing,
    },
    Attack {
        name: "10,000 half-asking from 10,000 addresses within 0.1 s, again each second",
        source: ipv4,
        sources: 10_000,
        once: 10_000,
        per_second: 100_000,
        asks: Asks::Half,
    },
];

/// How honest clients come.
#[derive(Debug, Clone, Copy)]
enum Crowd {
    /// One every 5 ms, each from an address of its own.
    Apart,
    /// 30 at once from one address, every 150 ms.
    Together,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    source: Source,
    connected: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The whole request is there so long after the connection.
    Honest {
        needs: Duration,
    },
    Attacker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Somebody connects: the handshake is over.
    Connect(usize),
    /// The request of an honest client is there.
    Ask(usize),
    /// A newcomer need not wait any longer.
    Wake,
}

/// One attack on one way to decide.
struct Simulation {
    way: Way,
    attack: Attack,
    random: Random,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, usize, Event)>>,
    /// Orders events of the same time.
    ticket: usize,
    clients: Vec<Client>,
    places: Places,
    /// How many attackers there have been.
    attackers: usize,
    /// Honest clients that have not been answered yet.
    unanswered: usize,
    lost: usize,
    slowest: Duration,
}

/// Who is in.
enum Places {
    Plain { members: VecDeque<usize>, counts: HashMap<Source, usize>, offenders: HashSet<Source> },
    Queued(Box<QueuedPlaces>),
}

struct QueuedPlaces {
    connections: Connections<usize>,
    keys: HashMap<usize, usize>,
    waiting: VecDeque<usize>,
    newcomers: Newcomers,
    start: Instant,
    wakes: Option<Duration>,
}

impl Simulation {
    fn new(way: Way, attack: Attack) -> Self {
        let places = match way {
            Way::Queued => Places::Queued(Box::new(QueuedPlaces {
                connections: Connections::new(PLACES, PER_SOURCE),
                keys: HashMap::new(),
                waiting: VecDeque::new(),
                newcomers: Newcomers::default(),
                start: Instant::now(),
                wakes: None,
            })),
            _ => Places::Plain {
                members: VecDeque::new(),
                counts: HashMap::new(),
                offenders: HashSet::new(),
            },
        };
        Self {
            way,
            attack,
            random: Random(SEED),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            ticket: 0,
            clients: Vec::new(),
            places,
            attackers: 0,
            unanswered: 0,
            lost: 0,
            slowest: Duration::ZERO,
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.ticket += 1;
        self.events.push(Reverse((time, self.ticket, event)));
    }

    /// Adds a client that connects then.
    fn expect(&mut self, address: IpAddr, connected: Duration, kind: Kind) {
        let source = SourcePrefix::default().source_of(address);
        self.clients.push(Client { source, connected, kind });
        self.at(connected, Event::Connect(self.clients.len() - 1));
    }

    fn expect_attacker(&mut self, time: Duration) {
        let number = self.attackers % self.attack.sources;
        self.attackers += 1;
        self.expect((self.attack.source)(number), time, Kind::Attacker);
    }

    /// So many honest clients, and the attack beside them until all of them have left.
    fn run(mut self, honest: usize, crowd: Crowd, needs: Duration) -> Self {
        let mut end = Duration::ZERO;
        for number in 0..honest {
            // 198.18.0.0/15 and beyond: nobody attacks from there.
            let own = 0xc612_0000 + small(number);
            let (address, connected) = match crowd {
                Crowd::Apart => (own, Duration::from_millis(5) * small(number)),
                Crowd::Together => {
                    let group = small(number / 30);
                    (0xc612_0000, Duration::from_millis(150) * group)
                }
            };
            // At any moment of the millisecond, so that no rhythm meets another.
            let moment = Duration::from_micros(1) * small(self.random.below(1000));
            let connected = connected + moment;
            self.expect(Ipv4Addr::from_bits(address).into(), connected, Kind::Honest { needs });
            end = end.max(connected);
        }
        self.unanswered = honest;
        let every = Duration::from_secs(1) / small(self.attack.per_second);
        let mut time = Duration::ZERO;
        while time < end && (self.attack.once == 0 || self.attackers < self.attack.once) {
            self.expect_attacker(time);
            time += every;
        }
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if self.unanswered == 0 {
                break;
            }
            self.now = time;
            self.expire();
            match event {
                Event::Connect(client) => self.connect(client),
                Event::Ask(client) => self.ask(client),
                Event::Wake => {}
            }
            self.accept();
        }
        self
    }

    fn expire(&mut self) {
        let now = self.now;
        let timed_out = |client: &Client| client.connected + REQUEST_TIMEOUT <= now;
        loop {
            let gone = match &mut self.places {
                Places::Plain { members, .. } => {
                    let is_over = members.front().is_some_and(|it| timed_out(&self.clients[*it]));
                    is_over.then(|| members[0])
                }
                Places::Queued(places) => {
                    let gone = places.connections.remove_expired(places.start + now);
                    gone.inspect(|client| {
                        places.keys.remove(client);
                    })
                }
            };
            let Some(client) = gone else { return };
            if let Places::Plain { .. } = self.places {
                self.leave(client);
            }
            self.closed(client);
        }
    }

    fn connect(&mut self, client: usize) {
        let connected = self.clients[client].connected;
        if let Places::Queued(places) = &mut self.places {
            if places.waiting.len() >= QUEUE as usize {
                return self.at(self.now + AGAIN, Event::Connect(client));
            }
            places.waiting.push_back(client);
        }
        if let Kind::Honest { needs } = self.clients[client].kind {
            // A client whose SYN was lost asks that much later.
            let asks = self.now + needs;
            if asks > connected + MASTER_LIMIT {
                return self.lose();
            }
            self.at(asks, Event::Ask(client));
        }
        if let Places::Plain { .. } = self.places {
            self.admit(client);
        }
    }

    /// The request is there: where its connection has a place, it is answered.
    fn ask(&mut self, client: usize) {
        let is_in = match &mut self.places {
            Places::Plain { members, .. } => members.contains(&client),
            Places::Queued(places) => match places.keys.remove(&client) {
                Some(key) => places.connections.remove(key).is_some(),
                None => false,
            },
        };
        if is_in {
            if let Places::Plain { .. } = self.places {
                self.leave(client);
            }
            self.answer(client);
        }
    }

    fn answer(&mut self, client: usize) {
        self.unanswered -= 1;
        let took = self.now.saturating_sub(self.clients[client].connected);
        self.slowest = self.slowest.max(took);
        if took > MASTER_LIMIT {
            self.lost += 1;
        }
    }

    fn lose(&mut self) {
        self.unanswered -= 1;
        self.lost += 1;
    }

    /// A connection was closed without an answer.
    fn closed(&mut self, client: usize) {
        match self.clients[client].kind {
            Kind::Honest { .. } => self.lose(),
            // Where there are more addresses than connections, all of them have their turn.
            Kind::Attacker if self.attack.once > 0 => self.expect_attacker(self.now + AGAIN),
            Kind::Attacker => {}
        }
    }

    /// Takes a client out of its place.
    fn leave(&mut self, client: usize) {
        let Places::Plain { members, counts, .. } = &mut self.places else { return };
        members.retain(|it| *it != client);
        let source = self.clients[client].source;
        if let Some(count) = counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&source);
            }
        }
    }

    /// A newcomer, where nobody waits: it takes a place, somebody's place, or none.
    fn admit(&mut self, client: usize) {
        let source = self.clients[client].source;
        let victim = self.victim(client);
        if let (Some(victim), Places::Plain { offenders, .. }) = (victim, &mut self.places) {
            offenders.insert(self.clients[victim].source);
            if victim == client {
                return self.closed(client);
            }
            self.leave(victim);
            self.closed(victim);
        }
        if let Places::Plain { members, counts, .. } = &mut self.places {
            members.push_back(client);
            *counts.entry(source).or_insert(0) += 1;
        }
    }

    fn victim(&mut self, newcomer: usize) -> Option<usize> {
        let Places::Plain { members, counts, offenders } = &self.places else { return None };
        let clients = &self.clients;
        let count_of = |client: &usize| counts.get(&clients[*client].source).copied().unwrap_or(0);
        if count_of(&newcomer) >= PER_SOURCE {
            let source = clients[newcomer].source;
            return members.iter().copied().find(|it| clients[*it].source == source);
        }
        let taken = members.len();
        if self.way == Way::EarlyRefusal {
            let chance = if taken < 10 { 0 } else { 30 + 70 * (taken - 10) / (PLACES - 10) };
            return (self.random.below(100) < chance).then_some(newcomer);
        }
        if taken < PLACES {
            return None;
        }
        let is_silent = |client: &usize| match clients[*client].kind {
            Kind::Honest { .. } => true,
            Kind::Attacker => self.attack.asks == Asks::Nothing,
        };
        // Of those that are equal, `min_by_key` takes the first, which is the oldest.
        match self.way {
            Way::Oldest | Way::Queued => members.front().copied(),
            Way::LargestSource => members.iter().copied().min_by_key(|it| Reverse(count_of(it))),
            Way::LargestSilent => {
                members.iter().copied().min_by_key(|it| (Reverse(count_of(it)), !is_silent(it)))
            }
            Way::Random => Some(members[self.random.below(taken)]),
            Way::Newcomer | Way::EarlyRefusal => Some(newcomer),
            Way::Offender => members
                .iter()
                .chain([&newcomer])
                .copied()
                .find(|it| offenders.contains(&clients[*it].source))
                .or(members.front().copied()),
        }
    }

    /// Takes from the queue whoever may come in.
    fn accept(&mut self) {
        loop {
            let Places::Queued(places) = &mut self.places else { return };
            let Some(client) = places.waiting.front().copied() else { return };
            let now = places.start + self.now;
            let queue = Backlog { waiting: small(places.waiting.len()), most: QUEUE };
            let crowded_until = places.connections.crowded_until(now);
            let since = match places.newcomers.turn(crowded_until, queue, now) {
                Turn::Now { since } => since,
                Turn::Later { until } => {
                    let until = until - places.start;
                    if places.wakes.is_none_or(|wakes| wakes <= self.now || wakes > until) {
                        places.wakes = Some(until);
                        self.at(until, Event::Wake);
                    }
                    return;
                }
            };
            places.waiting.pop_front();
            let Client { source, connected, kind } = self.clients[client];
            if matches!(kind, Kind::Honest { needs } if connected + needs < self.now) {
                // Its request came while it was in the queue.
                self.answer(client);
                continue;
            }
            let mut evicted = Vec::new();
            while let Some((victim, _)) = places.connections.make_room(Some(source)) {
                places.keys.remove(&victim);
                evicted.push(victim);
            }
            let key = places.connections.insert(Some(source), since, now + REQUEST_TIMEOUT, client);
            places.keys.insert(client, key);
            for victim in evicted {
                self.closed(victim);
            }
        }
    }
}

const NEEDS: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100)];

#[test]
fn no_attack_from_up_to_10_000_addresses_makes_the_daemon_lose_a_client() {
    for attack in ATTACKS {
        for crowd in [Crowd::Apart, Crowd::Together] {
            for needs in NEEDS {
                // Nobody can wait in a queue that 100,000 a second fill.
                if attack.per_second > 10_000 && needs > NEEDS[1] {
                    continue;
                }
                let result = Simulation::new(Way::Queued, attack).run(600, crowd, needs);
                assert_eq!(result.lost, 0, "{}, {crowd:?}, {needs:?}", attack.name);
            }
        }
    }
}

/// With a client that needs a moment, or this simulation would prove nothing.
#[test]
fn the_oldest_alone_making_room_loses_clients() {
    let [_, _, attack, ..] = ATTACKS;
    let result = Simulation::new(Way::Oldest, attack).run(2000, Crowd::Apart, NEEDS[1]);
    assert!(result.lost > 1000, "only {} of 2000", result.lost);
}

#[test]
#[ignore = "prints a table, and takes minutes in a debug build"]
fn print_the_table() {
    const HONEST: usize = 10_000;
    let names = Way::EVERY.map(|(_, name)| name).join(" | ");
    println!("| attack | clients | {names} | slowest answer |");
    println!("| --- | --- |{} ---: |", " ---: |".repeat(Way::EVERY.len()));
    for attack in ATTACKS {
        for (crowd, clients) in [(Crowd::Apart, "apart"), (Crowd::Together, "30 together")] {
            let mut slowest = Duration::ZERO;
            let lost = Way::EVERY.map(|(way, _)| {
                let honest = if way == Way::Queued { 10 * HONEST } else { HONEST };
                let lost = NEEDS.map(|needs| {
                    let result = Simulation::new(way, attack).run(honest, crowd, needs);
                    if way == Way::Queued {
                        slowest = slowest.max(result.slowest);
                    }
                    result.lost.to_string()
                });
                lost.join(" / ")
            });
            let (lost, slowest) = (lost.join(" | "), slowest.as_millis());
            println!("| {} | {clients} | {lost} | {slowest} ms |", attack.name);
        }
    }
}
