//! Files to read and nothing else: no other file, no new connection, no signal to others.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

use super::{Missing, Skipped};

/// The newest interface that this list of rights was made for. An older kernel enforces what it
/// knows of it.
const NEWEST: ABI = ABI::V10;

/// Restricts the calling thread; returns the version of the interface that the kernel and
/// this program have in common.
pub(super) fn restrict(readable: &[PathBuf], skipped: &mut Vec<Skipped>) -> Result<u32, Missing> {
    let mut rules = Vec::with_capacity(readable.len());
    for path in readable {
        match rule_for(path) {
            Ok(rule) => rules.push(rule),
            Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
        }
    }
    let status = enforce(rules).map_err(|error| Missing::Refused(error.to_string()))?;
    match status.landlock {
        LandlockStatus::NotEnabled => Err(Missing::NotEnabled),
        LandlockStatus::NotImplemented => Err(Missing::NotBuilt),
        LandlockStatus::Available { effective_abi, .. } => Ok(effective_abi as u32),
    }
}

/// Handles every right there is, so that each is denied except for what the rules allow.
fn enforce(rules: Vec<PathBeneath<File>>) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()
}

fn rule_for(path: &Path) -> io::Result<PathBeneath<File>> {
    // Naming a file takes no right to read it.
    let beneath = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    let rights: BitFlags<AccessFs> = if beneath.metadata()?.is_dir() {
        make_bitflags!(AccessFs::{ReadFile | ReadDir})
    } else {
        AccessFs::ReadFile.into()
    };
    Ok(PathBeneath::new(beneath, rights))
}
