//! Asks a host for its policy as a player does, and says why a connection would be refused.
//!
//! [`player`] makes one exchange, [`finding`] reads what was seen there, `address` asks the ports
//! of an address in a player's order, [`probe`] does so for every address of a target, and
//! [`fleet`] for many targets. How it is printed is not known here.

mod address;
mod conclusion;
pub mod finding;
pub mod fleet;
pub mod player;
mod question;
mod report;
pub mod resolver;
mod target;

pub use address::{AddressReport, Step, fetch};
pub use conclusion::{Conclusion, Doubt, Refusal};
pub use question::{
    Ask, Family, GREETING_LIMIT, MASTER_LIMIT, NAMED_POLICY_PATIENCE, Question, READING_LIMIT,
};
pub use report::{Milestone, Report, probe};
pub use target::{Target, TargetError};
