//! One target: its name looked up, each of its addresses asked, and what that amounts to.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::policy::{Player, Verdict};
use crate::probe::address::{self, AddressReport, Step};
use crate::probe::conclusion::Conclusion;
use crate::probe::finding::{self, Finding, Gravity, Reception};
use crate::probe::player::{self, Guise};
use crate::probe::question::{Ask, Question};
use crate::probe::resolver::{self, Resolution};
use crate::probe::target::Target;

/// All that was asked of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The target.
    pub target: Target,
    /// What came of its name.
    pub resolution: Resolution,
    /// Its addresses, in the resolver's order.
    pub addresses: Vec<AddressReport>,
    /// What they amount to: a player may meet any of them, so one refusal is a refusal. But where an
    /// address does not take the connection for the master, a player goes on to one that does.
    pub conclusion: Conclusion,
    /// How long it took in all.
    pub took: Duration,
}

impl Report {
    /// Every step at every address.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.addresses.iter().flat_map(|address| &address.steps)
    }

    /// Which players take none of the policies that allow the connection, and why.
    #[must_use]
    pub fn refusing_players(&self) -> Vec<(Player, &'static str)> {
        let allowing =
            self.steps().filter(|step| matches!(step.decision, Some((_, Verdict::Allowed { .. }))));
        let kinds: Vec<_> = allowing.flat_map(|step| &step.findings).map(Finding::kind).collect();
        let players = Player::EVERY.into_iter().enumerate();
        players
            .filter_map(|(index, player)| {
                let refuses = |kind: &&finding::Kind| kind.receptions[index] == Reception::Refuses;
                Some((player, kinds.iter().find(refuses)?.code))
            })
            .collect()
    }

    /// The addresses that do not take the connection for the master, where others do.
    pub fn unanswered(&self) -> impl Iterator<Item = IpAddr> {
        let some_answer = self.addresses.iter().any(|address| !address.is_unanswered());
        let unanswered =
            self.addresses.iter().filter(move |asked| some_answer && asked.is_unanswered());
        unanswered.map(|asked| asked.address)
    }

    /// Whether anything was found that matters, whatever the conclusion.
    #[must_use]
    pub fn has_warnings(&self) -> bool {
        self.steps()
            .flat_map(|step| &step.findings)
            .any(|finding| finding.gravity() >= Gravity::Warning)
    }
}

/// What is known before the [`Report`] is.
#[derive(Debug)]
pub enum Milestone<'a> {
    /// The name was looked up.
    Resolved(&'a Resolution),
    /// A port was asked.
    Asked(&'a Step),
}

/// Asks every address of `target`, one after the other, and tells `on_milestone` of each step as it
/// happens.
///
/// The name is waited for no longer than [`Question::limit`], and each port of each address no
/// longer than its limit, [`player::AFTERMATH`], [`GREETING_LIMIT`](super::GREETING_LIMIT) and
/// [`READING_LIMIT`](super::READING_LIMIT), whatever
/// resolvers and servers do. Where other threads ask too, an answer may wait for theirs to be read.
#[must_use]
pub fn probe(
    target: &Target,
    question: &Question,
    mut on_milestone: impl FnMut(Milestone<'_>),
) -> Report {
    let started = Instant::now();
    let resolution = resolver::resolve(target, question.family, question.limit);
    on_milestone(Milestone::Resolved(&resolution));
    let exchange = |server, role, limit| {
        let guise = if role == Ask::Master { question.guise } else { Guise::Player };
        player::ask(server, limit, guise)
    };
    let mut ask = |&server| {
        let on_step = |step: &Step| on_milestone(Milestone::Asked(step));
        address::ask(server, question, exchange, player::greet, on_step)
    };
    let addresses: Vec<_> = resolution.servers.iter().flatten().map(&mut ask).collect();
    let conclusion = address::sum_up(&addresses);
    Report { target: target.clone(), resolution, addresses, conclusion, took: started.elapsed() }
}
